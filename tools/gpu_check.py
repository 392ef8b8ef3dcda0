"""Every test and benchmark that needs a GPU, in one command of under eight minutes.

    python tools/gpu_check.py                     a table and JSON on standard output
    python tools/gpu_check.py --json results.json

A check that fails or breaks is a row that says so, and the others go on. Run it with nothing else on the GPU. The floor
is arithmetic with the figures of an H200's data sheet (docs/benchmarks.md), whatever the GPU is.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from charrnn import graphs
from charrnn.config import ModelConfig
from charrnn.engines.cuda import CudaEngine
from charrnn.engines.eager import EagerEngine
from charrnn.generate import uniforms
from charrnn.model import CharRNN, build
from charrnn.padding import pad_layers
from charrnn.recipe import Settings
from charrnn.step import GraphedStep, Step, make_optimizer

NO_GPU = "torch finds no NVIDIA GPU here: run this on a machine with one, where torch is built for CUDA."
MINUTES = 8.0
PEAK_FLOPS, PEAK_BYTES = 990e12, 4.8e12  # of an H200, a second: dense bf16 or fp16, and memory (its data sheet)
STEP_SECONDS = 1.5e-6  # that a meeting of all multiprocessors takes, a guess


@dataclasses.dataclass
class Scene:
    """Where the checks run, and how large their networks are."""

    device: str
    config: ModelConfig
    rows: int = 50
    steps: int = 50
    seconds: float = 3.0  # of a measurement
    iterations: int = 20  # of a comparison
    aside: Callable[[graphs.Work], None] = graphs.aside
    record: Callable[[graphs.Work], graphs.Work] = graphs.recorded

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


REHEARSAL = Scene("cpu", ModelConfig(9, 5, 6, 2), 3, 4, 0.01, 6, lambda work: work(), lambda work: work)


def stepper(scene: Scene, precision: str, graphed: bool, pad: int = 1, rows: int = 0, **changes: Any) -> Step:
    """A network and its way to learn."""
    clip = changes.pop("clip", "value")
    model = build(dataclasses.replace(scene.config, **changes), seed=0).to(scene.device)
    pad_layers(model, pad)
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
    from charrnn.runlog import Run, read_rows

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


# -- benchmarks: each returns a figure ------------------------------------------------


def seconds_each(scene: Scene, work: Callable[[], Any]) -> float:
    """How long something takes, after a warm-up, waiting for the device only at the end of many."""
    for _ in range(5):
        work()
    scene.wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < scene.seconds:
        for _ in range(10):
            work()
        scene.wait()
        count += 10
    return (time.perf_counter() - began) / count


def training(scene: Scene, precision: str, graphed: bool, pad: int = 1, rows: int = 0) -> dict[str, float]:
    """An iteration of the run of 2016, ids on the device, log unread."""
    step, source = stepper(scene, precision, graphed, pad, rows), batches(scene, rows)
    state = step.model.initial_state(rows or scene.rows)

    def iterate() -> None:
        nonlocal state
        _, state = step(*next(source), state, 2e-3)

    seconds = seconds_each(scene, iterate)
    symbols = (rows or scene.rows) * scene.steps
    return {
        "ms": 1e3 * seconds,
        "symbols a second": symbols / seconds,
        "of the floor": floor(scene, rows or scene.rows) / seconds,
    }


def floor(scene: Scene, rows: int) -> float:
    """Seconds that an iteration takes at least: what is longest of operations, bytes and sequential steps."""
    model, layers = build(scene.config, 0), scene.config.layers
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1) - model.embedding.weight.numel()
    operations = 6 * weights * rows * scene.steps / PEAK_FLOPS
    moved = 7 * 4 * weights / PEAK_BYTES
    return max(operations + moved, 2 * (scene.steps + layers - 1) * STEP_SECONDS)


def layer(scene: Scene, rows: int, units: int, dtype: torch.dtype) -> dict[str, float]:
    """One layer of torch's LSTM, forward and backward."""
    if scene.device == "cpu":
        rows, units, dtype = 3, 8, torch.float32
    lstm = torch.nn.LSTM(units, units, batch_first=True).to(scene.device, dtype)
    x = torch.randn(rows, scene.steps, units, device=scene.device, dtype=dtype, requires_grad=True)
    return {"ms": 1e3 * seconds_each(scene, lambda: lstm(x)[0].sum().backward())}


def sampling(scene: Scene, way: str, streams: int, precision: str = "bf16") -> dict[str, float]:
    """Symbols from the engine as `charrnn.generate` asks for them, uniform numbers aside."""
    ours = engine(scene, build(scene.config, seed=0).eval(), way, precision, streams)
    u = np.random.default_rng(0).random((1024 if scene.device == "cuda" else 8, streams)).astype(np.float32)
    seconds = seconds_each(dataclasses.replace(scene, seconds=scene.seconds / 2), lambda: ours.run(u, 1.0))
    return {"symbols a second": u.size / seconds, "times real time, a stream": len(u) / seconds / 11025}


def checks(ways: Sequence[str] = ("torch", "kernels")) -> list[tuple[str, Callable[[Scene], Any]]]:
    """All of them: names, and what to do."""
    plain, graph, padded = {"graphed": False}, {"graphed": True}, {"graphed": True, "pad": 128}
    found: list[tuple[str, Callable[[Scene], Any]]] = [("test: training in fp32 as on the CPU", as_on_the_cpu)]
    for precision, most in (("fp32", 1e-3), ("bf16", 5e-2)):
        for name, one, other, shared in (
            ("recorded as plain, clip by value", plain, graph, {"clip": "value"}),
            ("recorded as plain, clip by norm", plain, graph, {"clip": "norm"}),
            ("recorded as plain, dropout", plain, graph, {"dropout": 0.3}),
            ("padded as not padded", graph, padded, {}),
        ):
            compare = partial(same_losses, one=one, other=other, most=most, shared={"precision": precision, **shared})
            found.append((f"test: {name}, {precision}", compare))
    found += [("test: what is not finite teaches nothing", nothing_learnt), ("test: a resumed run", resume)]
    for way, (precision, streams) in product(ways, (("fp32", 3), ("bf16", 3), ("bf16", 64))):
        check = partial(engine_symbols, way=way, precision=precision, streams=streams)
        found.append((f"test: engine, {way}, {precision}, {streams} streams", check))
    for way, streams in product(ways, (1, 64, 512)):
        found.append((f"sample: {way}, bf16, {streams} streams", partial(sampling, way=way, streams=streams)))
    shapes: dict[str, dict[str, Any]] = {
        "plain steps, bf16": {"graphed": False},
        "recorded, bf16": {},
        "recorded, bf16, padded to 128": {"pad": 128},
        "recorded, fp32": {"precision": "fp32"},
        "recorded, bf16, 56 rows, padded": {"pad": 128, "rows": 56},
        "recorded, bf16, 128 rows, padded": {"pad": 128, "rows": 128},
        "recorded, bf16, 512 rows": {"rows": 512},
        "recorded, bf16, 2048 rows": {"rows": 2048},
    }
    for name, options in shapes.items():
        every: dict[str, Any] = {"precision": "bf16", "graphed": True, **options}
        found.append((f"train: {name}", partial(training, **every)))
    for (rows, units), dtype in product(
        ((50, 680), (50, 768), (56, 768), (128, 768)), (torch.float16, torch.bfloat16, torch.float32)
    ):
        name = f"torch's LSTM layer, {rows} rows, {units} units, {str(dtype).removeprefix('torch.')}"
        found.append((name, partial(layer, rows=rows, units=units, dtype=dtype)))
    return found


def run(scene: Scene, minutes: float) -> list[dict[str, Any]]:
    """Do all that there is time for."""
    began, rows = time.monotonic(), []
    for name, check in checks(("torch", "kernels") if scene.device == "cuda" else ("torch",)):
        row: dict[str, Any] = {"check": name}
        started = time.monotonic()
        if started - began > 60 * minutes:
            row["result"] = "left out: no time"
        else:
            print(f"{started - began:5.0f} s  {name}", file=sys.stderr, flush=True)
            try:
                outcome = check(scene)
            except Exception as error:  # whatever it is, the others are worth having
                row |= {"result": f"broke: {type(error).__name__}: {str(error).strip().splitlines()[:1]}", "ok": False}
            else:
                if isinstance(outcome, dict):
                    row |= {"result": ", ".join(f"{value:,.3g} {unit}" for unit, value in outcome.items()), **outcome}
                else:
                    row |= {"result": outcome[0], "ok": outcome[1]}
        row["seconds"] = round(time.monotonic() - started, 2)
        rows.append(row)
    return rows


def report(scene: Scene, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the table; returns what the JSON has."""
    name = (
        torch.cuda.get_device_name() if scene.device == "cuda" else "a rehearsal on the CPU: its figures mean nothing"
    )
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": cudnn}
    floors = {f"floor of {n} rows, ms": round(1e3 * floor(scene, n), 4) for n in (scene.rows, 512, 2048)}
    print(f"{name}; " + ", ".join(f"{k} {v}" for k, v in (versions | floors).items()) + "\n")
    print("| check | result | right |\n|---|---|---|")
    for row in rows:
        print(f"| {row['check']} | {row['result']} | {'' if 'ok' not in row else 'yes' if row['ok'] else 'NO'} |")
    return {"device": name, **versions, **floors, "rows": rows}


def main(argv: list[str] | None = None) -> int:
    """Run all, print all; 0 if every test was right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the JSON there instead of standard output")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"begin nothing after these ({MINUTES:g})")
    parser.add_argument("--rehearse", action="store_true", help=argparse.SUPPRESS)  # tiny, on the CPU, for the tests
    args = parser.parse_args(argv)
    if not args.rehearse and not torch.cuda.is_available():
        print(f"gpu_check: {NO_GPU}", file=sys.stderr)
        return 1
    scene = REHEARSAL if args.rehearse else Scene("cuda", ModelConfig(256))
    rows = run(scene, args.minutes)
    text = json.dumps(report(scene, rows), indent=1)
    if args.json:
        Path(args.json).write_text(text + "\n")
    else:
        print("\n" + text)
    return int(any(row.get("ok") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
