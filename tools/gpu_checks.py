"""The tests and benchmarks of tools/gpu_check.py; tools/gpu_plan.py has them in their order."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_scene import Scene, batches, engine, losses, spread, stepper, timed

from charrnn.cells import LSTM
from charrnn.engines.cuda_plain import STEPS
from charrnn.engines.eager import EagerEngine
from charrnn.generate import uniforms
from charrnn.model import build
from charrnn.runlog import Run, read_rows

ROOT = Path(__file__).resolve().parents[1]
VOICE = ROOT / "data" / "voice.wav"
FEW = 16  # streams


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


def engine_symbols(scene: Scene, way: str, precision: str, streams: int, **changes: Any) -> tuple[str, bool]:
    """Symbols, in two pieces, and teacher-forced scores against the eager engine in fp32 on the CPU."""
    model = build(dataclasses.replace(scene.config, **{"layer_norm": True, **changes}), seed=0).eval()
    with torch.no_grad():
        model.output.weight.mul_(8)  # choices that hang on the state as much as a trained one's
    ours, eager = engine(scene, model, way, precision, streams), EagerEngine(model, streams)
    u = np.stack([uniforms(0, k, 0, 130) for k in range(streams)], axis=1)
    wanted = eager.run(u, 1.0)
    found = np.concatenate([ours.run(u[:47], 1.0), ours.run(u[47:], 1.0)], axis=1)
    same = float((found == wanted).mean())
    away = ours.score(wanted) - eager.score(wanted)
    mean, most = abs(float(away.mean())), float(np.abs(away).max())
    ours.set_state(*eager.get_state())
    likeliest = float((ours.run(u[:20], 0.0) == eager.run(u[:20], 0.0)).mean())
    said = f"{100 * same:.1f} % the same symbols, {100 * likeliest:.1f} % of the likeliest; "
    said += f"{mean:.1e} nats apart in the mean, {most:.1e} at most"
    limit = 0.005 if streams >= FEW or precision == "fp32" else 0.01  # of few symbols the mean says less
    return said, mean <= limit and (precision != "fp32" or (most < 1e-2 and min(same, likeliest) > 0.9))


# -- benchmarks: each returns figures ------------------------------------------------


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


def own_layer(scene: Scene, rows: int, units: int, shape: tuple[int, int]) -> dict[str, float]:
    """One layer of our kernels', forward and backward, recorded, with programs of so many units and rows."""
    from charrnn.kernel_lstm import kernel_lstm
    from charrnn.lstm_layout import alone, shared_out

    if scene.device == "cpu":
        rows, units = 3, 8
    layout = alone(rows, units) if scene.device == "cpu" else shared_out(rows, units, shape)
    lstm = LSTM(units, units).to(scene.device)
    x, state = (torch.randn(*size, units, device=scene.device) for size in ((rows, scene.steps), (rows,)))
    learnt = [x.requires_grad_(), *(p for p in lstm.parameters() if p.requires_grad)]

    def learn() -> None:
        with torch.autocast(scene.device, torch.bfloat16):
            y, _, _ = kernel_lstm(lstm, x, state, state, layout)
        torch.autograd.grad(y.float().sum(), learnt)

    scene.aside(learn)
    return spread("ms", [1e3 * s for s in timed(scene, scene.record(learn))])


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


def ceiling(scene: Scene, name: str) -> dict[str, float]:
    """What the GPU does at best; its kernels are only imported where they are needed."""
    import gpu_ceilings

    found: dict[str, float] = getattr(gpu_ceilings, name)(scene)
    return found
