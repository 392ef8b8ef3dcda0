"""The checks of tools/gpu_check.py: what is tested, what is measured, and in which order."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_workers import Check, Outcome

from charrnn import graphs
from charrnn.config import ModelConfig
from charrnn.engines.cuda import STEPS, WAYS, CudaEngine
from charrnn.engines.eager import EagerEngine
from charrnn.generate import uniforms
from charrnn.graphs import Work
from charrnn.model import CharRNN, build
from charrnn.padding import pad_layers
from charrnn.recipe import Settings
from charrnn.runlog import Run, read_rows
from charrnn.step import GraphedStep, Step, make_optimizer

ROOT = Path(__file__).resolve().parents[1]
VOICE = ROOT / "data" / "voice.wav"
TRAINING_WAYS = ("padded", "torch")  # what is expected to be fastest first; see `prepare`
ENGINE_WAYS = tuple(way for way in reversed(WAYS) if way != "auto")  # likewise
BATCHES = (512, 2048, 1024, 4096, 128)  # rows, the most telling ones first
STREAMS = (16, 256, 512, 2)  # beside 1 and 64
PADDED_TO = 128
WARM_UP, REPEATS = 5, 5


def recorded(work: Work) -> Work:
    """A CUDA graph, or an error that training does not take for a reason to go on without one: that would be timed."""
    try:
        return graphs.recorded(work)
    except RuntimeError as error:
        raise NotRecordedError(f"no CUDA graph: {error}") from error


class NotRecordedError(Exception):
    """Work could not be recorded as a CUDA graph."""


@dataclasses.dataclass
class Scene:
    """Where the checks run, and how large their networks are."""

    device: str
    config: ModelConfig
    rows: int = 50
    steps: int = 50
    seconds: float = 2.0  # of a measurement
    iterations: int = 20  # of a comparison
    block: int = 1024  # symbols of a stream that are asked for at a time
    aside: Callable[[Work], None] = graphs.aside
    record: Callable[[Work], Work] = recorded
    most: int = 4096  # rows or streams
    train_flags: str = "--max-minutes 0.33"
    engine: str = "cuda"  # of charrnn-sample
    sound: int = 55125  # samples that it makes

    @property
    def options(self) -> dict[str, Any]:
        """What has work recorded."""
        return {"aside": self.aside, "record": self.record}

    def settings(self, precision: str, rows: int = 0, clip: str = "value") -> Settings:
        """Of the run of 2016, on this device."""
        limits: dict[str, Any] = {"clip": clip, "grad_clip": 5.0 if clip == "value" else 1.0}
        shape: dict[str, Any] = {"batch_size": rows or self.rows, "seq_length": self.steps}
        return Settings(**shape, **limits, precision=precision, device=self.device)

    def wait(self) -> None:
        """Until the device has done all."""
        if self.device == "cuda":
            torch.cuda.synchronize()


REHEARSAL = Scene(
    "cpu",
    ModelConfig(9, 5, 6, 2),
    rows=3,
    steps=4,
    seconds=0.01,
    iterations=6,
    block=8,
    aside=lambda work: work(),
    record=lambda work: work,
    most=8,
    train_flags="--rnn-size 6 --layers 1 --max-iterations 3",
    engine="eager",
    sound=500,
)


def prepare(model: CharRNN, way: str) -> None:
    """Have a network learn in one of the `TRAINING_WAYS`."""
    if way == "padded":
        pad_layers(model, PADDED_TO)


def stepper(
    scene: Scene, precision: str, graphed: bool = True, way: str = "torch", rows: int = 0, **changes: Any
) -> Step:
    """A network and its way to learn."""
    clip = changes.pop("clip", "value")
    model = build(dataclasses.replace(scene.config, **changes), seed=0).to(scene.device)
    prepare(model, way)
    settings = scene.settings(precision, rows, clip)
    optimizer = make_optimizer(model, settings)
    return GraphedStep(model, optimizer, settings, **scene.options) if graphed else Step(model, optimizer, settings)


def batches(scene: Scene, rows: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Symbols in an order that can be learnt, without end."""
    random = np.random.default_rng(0)
    shape = (rows or scene.rows, scene.steps * 64 + 1)
    ids = np.cumsum(random.integers(0, 3, shape), axis=1) % scene.config.vocab_size
    there = torch.from_numpy(ids).to(scene.device)
    while True:
        for start in range(0, shape[1] - 1, scene.steps):
            yield there[:, start : start + scene.steps], there[:, start + 1 : start + scene.steps + 1]


def losses(scene: Scene, step: Step, rows: int = 0) -> list[float]:
    """Of some iterations with the state carried."""
    state, outcomes, source = step.model.initial_state(rows or scene.rows), [], batches(scene, rows)
    for i in range(scene.iterations):
        torch.manual_seed(i)
        outcome, state = step(*next(source), state, 2e-3)
        outcomes.append(outcome)
    return [float(loss) for loss, _ in torch.stack(outcomes).tolist()]


# -- tests: each returns what it found, and whether that is right ------------------------------------------------


def same_losses(
    scene: Scene, one: dict[str, Any], other: dict[str, Any], most: float, shared: dict[str, Any]
) -> tuple[str, bool]:
    """The largest difference of two ways to learn over some iterations."""
    a, b = (losses(scene, stepper(scene, **shared, **way)) for way in (one, other))
    difference = float(np.abs(np.subtract(a, b)).max())
    return f"{difference:.1e} nats apart (at most {most:g}), {a[0]:.3f} to {a[-1]:.3f}", difference <= most


def as_on_the_cpu(scene: Scene) -> tuple[str, bool]:
    """Training in fp32 against the same on the CPU."""
    host = dataclasses.replace(scene, device="cpu")
    a, b = losses(scene, stepper(scene, "fp32", True)), losses(host, stepper(host, "fp32", False))
    difference = float(np.abs(np.subtract(a, b)).max())
    return f"{difference:.1e} nats apart (at most 0.01)", difference <= 0.01


def nothing_learnt(scene: Scene) -> tuple[str, bool]:
    """A step whose loss is not finite, recorded, leaves the weights as they are."""
    step, source = stepper(scene, "bf16", True), batches(scene)
    state = step.model.initial_state(scene.rows)
    for _ in range(5):
        _, state = step(*next(source), state, 2e-3)
    before = [p.detach().clone() for p in step.parameters]
    outcome, _ = step(*next(source), tuple(tuple(t * float("nan") for t in layer) for layer in state), 2e-3)
    kept = all(torch.equal(a, b) for a, b in zip(before, step.parameters, strict=True))
    return f"loss {outcome[0].item()}, weights {'kept' if kept else 'changed'}", kept and not bool(
        outcome.isfinite().any()
    )


def resume(scene: Scene) -> tuple[str, bool]:
    """A run of the command in two parts against one in one part, to the last bit of log and weights."""
    from charrnn.commands.train import charrnn_train

    unheard = io.TextIOWrapper(io.BytesIO())
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(unheard):
        text = Path(folder, "text.txt")
        text.write_text("".join("abcde"[i * i % 5] for i in range(9000)))
        shape = f"--device {scene.device} --rnn-size 48 --layers 2 --batch-size 8 --seq-length 20 --recipe torch-rnn -q"
        for name, parts in (("whole", (30,)), ("parts", (15, 30))):
            for k, end in enumerate(parts):
                run = f"{folder}/{name}"
                what = f"--resume {run}" if k else f"{text} --run-dir {run} {shape}"
                if charrnn_train([*what.split(), "--max-iterations", str(end), "-q"]):
                    return "charrnn-train failed", False
        runs = [Run(Path(folder, name)) for name in ("whole", "parts")]
        whole, parts_ = ([float(row["train_loss"]) for row in read_rows(run.log_file)] for run in runs)
        equal = whole == parts_ and runs[0].checkpoints()[-1].read_bytes() == runs[1].checkpoints()[-1].read_bytes()
    difference = float(np.abs(np.subtract(whole, parts_)).max())
    found = "the same to the last bit" if equal else f"not the same to the last bit: {difference:.1e} nats apart"
    return found, difference < 0.01


def commands(scene: Scene) -> tuple[str, bool]:
    """The commands, end to end: twenty seconds of training on the voice, and five seconds of sound from that."""
    with tempfile.TemporaryDirectory() as folder:
        run, sound = Run(Path(folder, "run")), Path(folder, "sound.wav")
        train = f"train {VOICE} --run-dir {run.path} --device {scene.device} {scene.train_flags} -q"
        sample = f"sample {run.path} --engine {scene.engine} --length {scene.sound} -o {sound} -q"
        said = ""
        for line in (train, sample):
            name, *flags = line.split()
            command = [sys.executable, "-m", f"charrnn.commands.{name}", *flags]
            began = time.monotonic()
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            said += done.stderr  # nothing, if all is well: it is quiet
            if done.returncode:
                sys.stderr.write(said)
                return f"charrnn-{name} ended with {done.returncode}: {done.stderr.strip()[-200:]}", False
        took = time.monotonic() - began
        rows, validations = (list(read_rows(file)) for file in (run.log_file, run.val_file))
        with wave.open(str(sound)) as file:
            frames = file.getnframes()
    whole = [int(row["iteration"]) for row in rows] == list(range(1, len(rows) + 1))
    speed = statistics.median(float(row["symbols_per_second"]) for row in rows[len(rows) // 2 :]) if rows else 0.0
    found = f"{len(rows)} iterations at {speed:,.0f} symbols a second, loss {rows[-1]['train_loss'] if rows else '-'}; "
    found += f"{frames} samples of sound in {took:.1f} s from start to end" + f"; {said}" * bool(said)
    return found, whole and bool(rows) and bool(validations) and frames == scene.sound


def engine_symbols(scene: Scene, way: str, precision: str, streams: int) -> tuple[str, bool]:
    """Symbols and teacher-forced scores against the eager engine in fp32 on the CPU."""
    model = build(dataclasses.replace(scene.config, layer_norm=True), seed=0).eval()
    with torch.no_grad():
        model.output.weight.mul_(8)  # choices that hang on the state as much as a trained one's
    ours, eager = engine(scene, model, way, precision, streams), EagerEngine(model, streams)
    u = np.stack([uniforms(0, k, 0, 130) for k in range(streams)], axis=1)
    wanted = eager.run(u, 1.0)
    same = float((ours.run(u, 1.0) == wanted).mean())
    away = ours.score(wanted) - eager.score(wanted)
    mean, most = abs(float(away.mean())), float(np.abs(away).max())
    found = f"{100 * same:.1f} % the same symbols; {mean:.1e} nats apart in the mean, {most:.1e} at most"
    return found, mean <= 0.005 and (precision != "fp32" or (most < 1e-2 and same > 0.9))


def engine(scene: Scene, model: CharRNN, way: str, precision: str, streams: int) -> CudaEngine:
    """The engine on the device."""
    return CudaEngine(model, streams, precision, way, device=scene.device, **scene.options)


# -- benchmarks: each returns figures ------------------------------------------------


def timed(scene: Scene, work: Callable[[], Any]) -> list[float]:
    """Seconds that something takes, sorted, of several repeats of many, waiting for the device at the end of each."""
    for _ in range(WARM_UP):
        work()
    scene.wait()
    began = time.perf_counter()
    work()
    scene.wait()
    count = max(1, round(scene.seconds / REPEATS / (time.perf_counter() - began)))
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for _ in range(count):
            work()
        scene.wait()
        found.append((time.perf_counter() - began) / count)
    return sorted(found)


def spread(unit: str, values: Sequence[float]) -> dict[str, float]:
    """The median, and the lowest and the highest."""
    return {unit: statistics.median(values), f"lowest {unit}": min(values), f"highest {unit}": max(values)}


def memory(scene: Scene) -> dict[str, float]:
    """The most that this check had of the GPU's memory at a time."""
    return {"GB of memory": torch.cuda.max_memory_allocated() / 1e9} if scene.device == "cuda" else {}


def training(scene: Scene, precision: str, graphed: bool, way: str, rows: int) -> dict[str, float]:
    """An iteration of the run of 2016, ids on the device, log unread."""
    rows = min(rows, scene.most)
    step, source = stepper(scene, precision, graphed, way, rows), batches(scene, rows)
    state = step.model.initial_state(rows)

    def iterate() -> None:
        nonlocal state
        _, state = step(*next(source), state, 2e-3)

    seconds = timed(scene, iterate)
    speeds = [rows * scene.steps / s for s in seconds]
    return spread("ms", [1e3 * s for s in seconds]) | spread("symbols a second", speeds) | memory(scene)


def layer(scene: Scene, rows: int, units: int, dtype: torch.dtype) -> dict[str, float]:
    """One layer of torch's LSTM, forward and backward."""
    if scene.device == "cpu":
        rows, units, dtype = 3, 8, torch.float32
    lstm = torch.nn.LSTM(units, units, batch_first=True).to(scene.device, dtype)
    x = torch.randn(rows, scene.steps, units, device=scene.device, dtype=dtype, requires_grad=True)
    return spread("ms", [1e3 * s for s in timed(scene, lambda: lstm(x)[0].sum().backward())])


def sampling(scene: Scene, way: str, streams: int, precision: str = "bf16") -> dict[str, float]:
    """Symbols of all streams from the engine as `charrnn.generate` asks for them, uniform numbers aside."""
    streams = min(streams, scene.most)
    ours = engine(scene, build(scene.config, seed=0).eval(), way, precision, streams)
    u = np.random.default_rng(0).random((scene.block, streams)).astype(np.float32)
    seconds = timed(scene, lambda: ours.run(u, 1.0))
    real = {"times real time, a stream": scene.block / statistics.median(seconds) / 11025}
    return spread("symbols a second", [u.size / s for s in seconds]) | real | memory(scene)


def first_symbols(scene: Scene, way: str) -> dict[str, float]:
    """From a network to its first symbols, as many as the first graph makes: cold, in a process that has made none
    before, though its kernels may have been compiled by others; and warm."""
    model = build(scene.config, seed=0).eval()
    u = np.random.default_rng(0).random((STEPS + 1, 1)).astype(np.float32)
    torch.zeros(1, device=scene.device)
    scene.wait()
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        engine(scene, model, way, "bf16", 1).run(u, 1.0)
        seconds.append(time.perf_counter() - began)
    return {"s cold": seconds[0]} | spread("s warm", seconds[1:])


def ceiling(scene: Scene, name: str) -> dict[str, float]:
    """What the GPU does at best; its kernels are only imported where they are needed."""
    import gpu_ceilings

    found: dict[str, float] = getattr(gpu_ceilings, name)(scene)
    return found


# -- all of them ------------------------------------------------

Made = tuple[str, Callable[[Scene], Outcome], dict[str, Any]]  # name, work, and what else `Check` takes


def checks(rehearse: bool = False) -> list[Check]:
    """All of them, so that what the end of the time leaves out tells least; or tiny ones on the CPU."""
    scene = REHEARSAL if rehearse else Scene("cuda", ModelConfig(256))
    ways = ("torch",) if rehearse else ENGINE_WAYS
    made = [("the machine", the_machine, {}), *ceilings(), *first_tests(ways), *goals(scene, ways)]
    made += [*trainings(scene, BATCHES[:2]), ("test: the commands, end to end", commands, {"limit": 120.0})]
    made += [*samplings(ways, STREAMS), *further_tests(ways), *trainings(scene, BATCHES[2:]), *others(scene, ways)]
    return [Check(name, partial(tidily, scene, work), **options) for name, work, options in made]


def tidily(scene: Scene, work: Callable[[Scene], Outcome]) -> Outcome:
    """A check without what others before it left in memory; what it leaves to be done is done within its time."""
    scene.wait()
    gc.collect()
    gc.freeze()  # what is still here stays, and need not be looked at by the next collection
    if scene.device == "cpu":
        torch.set_num_threads(1)
    if scene.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    found = work(scene)
    scene.wait()
    return found


def the_machine(scene: Scene) -> dict[str, Any]:
    """What all this is found out on."""
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": str(cudnn)}
    if scene.device != "cuda":
        return {"device": "a rehearsal on the CPU: its figures mean nothing", **found}
    card = torch.cuda.get_device_properties(0)
    capability = f"{card.major}.{card.minor}"
    parts = {"multiprocessors": card.multi_processor_count, "GB": card.total_memory / 1e9, "capability": capability}
    return {"device": card.name, **parts, **found}


def ceilings() -> Iterator[Made]:
    """What the GPU does at best."""
    for name, function in (
        ("copy", "copy"),
        ("bf16 matrix product", "product"),
        ("L2 read", "cache"),
        ("a barrier of all multiprocessors", "meeting"),
        ("a kernel in a CUDA graph", "kernel"),
    ):
        yield f"ceiling: {name}", partial(ceiling, name=function), {"limit": 30.0}


def compared(name: str, precision: str, other: dict[str, Any], shared: dict[str, Any], graphed: bool = False) -> Made:
    """A test of two ways to learn against each other."""
    most = {"fp32": 1e-3, "bf16": 5e-2}[precision]
    shared = {"precision": precision, **shared}
    work = partial(same_losses, one={"graphed": graphed}, other=other, most=most, shared=shared)
    return f"test: {name}, {precision}", work, {}


def other_ways(precision: str) -> Iterator[Made]:
    """Tests of ways to learn against torch's."""
    for way in TRAINING_WAYS:
        if way != "torch":
            name, work, _ = compared(f"learning {way} as by torch", precision, {"way": way}, {}, graphed=True)
            yield name, work, {"kind": f"training {way}"}


def engine_test(way: str, precision: str, streams: int) -> Made:
    """A test of a way to sample."""
    work = partial(engine_symbols, way=way, precision=precision, streams=streams)
    return f"test: engine, {way}, {precision}, {streams} streams", work, {"kind": f"engine {way}"}


def first_tests(ways: Sequence[str]) -> Iterator[Made]:
    """What has to be right for anything to be worth timing."""
    yield "test: training in fp32 as on the CPU", as_on_the_cpu, {}
    yield compared("recorded as plain, clip by value", "bf16", {"graphed": True}, {"clip": "value"})
    yield "test: what is not finite teaches nothing", nothing_learnt, {}
    yield from other_ways("bf16")
    for way, (precision, streams) in product(ways, (("fp32", 3), ("bf16", 64))):
        yield engine_test(way, precision, streams)


def further_tests(ways: Sequence[str]) -> Iterator[Made]:
    """The rest."""
    yield "test: a resumed run", resume, {}
    yield from other_ways("fp32")
    for name, shared in (("clip by norm", {"clip": "norm"}), ("dropout", {"dropout": 0.3}), ("clip by value", {})):
        for precision in ("fp32",) if name == "clip by value" else ("bf16", "fp32"):
            yield compared(f"recorded as plain, {name}", precision, {"graphed": True}, shared)
    for way in ways:
        yield engine_test(way, "bf16", 3)


def trained(way: str, rows: int, precision: str = "bf16", graphed: bool = True) -> Made:
    """A benchmark of training."""
    work = partial(training, precision=precision, graphed=graphed, way=way, rows=rows)
    name = f"train: {way}, {precision}, {rows} rows" + ("" if graphed else ", plain steps")
    return name, work, {"kind": f"training {way}" if way != "torch" else "", "about": {"rows": rows}}


def trainings(scene: Scene, batches: Sequence[int]) -> Iterator[Made]:
    """Benchmarks of training in all ways."""
    for rows, way in product(batches, TRAINING_WAYS):
        yield trained(way, rows)


def samplings(ways: Sequence[str], streams: Sequence[int]) -> Iterator[Made]:
    """Benchmarks of sampling in all ways."""
    for n, way in product(streams, ways):
        name = f"sample: {way}, bf16, {n} stream" + "s" * (n > 1)
        yield name, partial(sampling, way=way, streams=n), {"kind": f"engine {way}", "about": {"streams": n}}


def goals(scene: Scene, ways: Sequence[str]) -> Iterator[Made]:
    """Benchmarks of what there are goals for."""
    yield from trainings(scene, (scene.rows,))
    yield from samplings(ways, (1, 64))


def others(scene: Scene, ways: Sequence[str]) -> Iterator[Made]:
    """Benchmarks that explain the ones before."""
    for way in ways:
        work = partial(first_symbols, way=way)
        yield f"first symbols: {way}, bf16, 1 stream", work, {"kind": f"engine {way}", "fresh": True}
    yield trained("torch", scene.rows, graphed=False)
    yield trained("torch", scene.rows, precision="fp32")
    types = (torch.float16, torch.bfloat16, torch.float32)
    for (rows, units), dtype in product(((50, 680), (50, 768), (56, 768), (128, 768)), types):
        name = f"torch's LSTM layer, {rows} rows, {units} units, {str(dtype).removeprefix('torch.')}"
        yield name, partial(layer, rows=rows, units=units, dtype=dtype), {}
