"""Check and measure everything that needs an NVIDIA GPU, in under five minutes.

    python tools/gpu/check.py                    a table on standard output
    python tools/gpu/check.py --json gpu.json    the same as JSON as well, to attach to a report

Run it while nothing else uses the GPU. An error in a check is reported in its row. The JSON file is rewritten after
each check, so that an interrupted run leaves the results so far. The exit code is 0 if no check failed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import wave
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from charrnn.cuda.backends import Backend
from charrnn.data import predictor
from charrnn.data.predictor import PREDICTORS, history
from charrnn.engines.cuda.engine import CudaEngine
from charrnn.engines.eager import EagerEngine
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.sampling.generate import uniforms
from charrnn.storage.csv_log import read_rows
from charrnn.storage.run_dir import Run
from charrnn.training.recipe import GPU_LAYERS, RECIPES, Settings
from charrnn.training.step import GraphedStep, Step, make_optimizer

ROOT = Path(__file__).resolve().parents[2]
VOICE = ROOT / "data" / "voice.wav"
RATE = 11025  # Hz, of the sound whose samples are the symbols
REPEATS = 5
SAMPLERS = ("persistent", "torch")
PREDICTIONS = {"torch": "charrnn.models.predictor", "kernel": "charrnn.cuda.predictor"}
NO_GPU = "torch finds no NVIDIA GPU: run this on a machine with one, with a torch that is built for CUDA."

Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Setup:
    """Device and sizes. The tests rehearse the same code on a CPU with tiny networks."""

    device: str
    networks: dict[str, ModelConfig]
    steps: int = 50  # T of a batch
    seconds: float = 0.6  # of a measurement
    largest: int = 8192  # rows or streams
    block: int = 1024  # symbols per stream that a sampling engine returns at a time
    iterations: int = 400  # of a run by the command
    compared: int = 130  # symbols per stream
    graphs: dict[str, Any] = dataclasses.field(default_factory=dict)  # arguments for CUDA graphs

    @property
    def on_gpu(self) -> bool:
        """Whether this is not a rehearsal."""
        return self.device == "cuda"

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.on_gpu:
            torch.cuda.synchronize()


PREDICTION: dict[str, Any] = {"context": 31, "prediction": "lpc-long", "noise": 2.0}
NETWORKS = {
    "3x680": ModelConfig(256),
    "2x256": ModelConfig(256, 64, 256, 2),
    "2x256 with prediction": ModelConfig(256, 64, 256, 2, **PREDICTION),
}
GPU = Setup("cuda", NETWORKS)
Check = Callable[[Setup], Figures]  # the optional figure ``ok`` is whether the check passed
TINY = {
    "3x680": ModelConfig(9, 5, 6, 3),
    "2x256": ModelConfig(9, 5, 6, 2),
    "2x256 with prediction": ModelConfig(256, 5, 6, 2, **PREDICTION | {"prediction": "lpc"}),  # the smaller predictors
}
NO_GRAPHS = {"warm_up": lambda work: work(), "capture": lambda work: work}
REHEARSAL = Setup("cpu", TINY, 4, seconds=0.01, largest=3, block=2, iterations=4, compared=8, graphs=NO_GRAPHS)


def checks() -> dict[str, Check]:
    """Return all checks by name, the most important first."""
    found: dict[str, Check] = {"machine": machine}
    for backend in GPU_LAYERS:
        found[f"gradients: {backend}"] = partial(gradients, backend)
    for recipe in RECIPES:
        found[f"CUDA graph as plain steps: {recipe}"] = partial(graph_as_steps, recipe)
    found["training in fp32 as on the CPU"] = as_on_the_cpu
    for name in PREDICTIONS:
        found[f"predictions as on the CPU: {name}"] = partial(predictions, name)
    kinds = (("fp32", 1, True), ("fp32", 3, False), ("bf16", 1, True), ("bf16", 64, True))
    for sampler, kind in itertools.product(SAMPLERS, kinds):
        found[f"symbols: {sampler}, {kind[0]}, {kind[1]}"] = partial(symbols, sampler, "3x680", *kind)
    for precision, streams in (("fp32", 3), ("bf16", 64)):
        name = f"symbols with prediction: 2x256, {precision}, {streams}"
        found[name] = partial(symbols, "torch", "2x256 with prediction", precision, streams, True)
    for network, rows in itertools.product(NETWORKS, (50, 100)):
        found[f"train: plain nn.LSTM loop, {network}, {rows} x 50"] = partial(plain_loop, network, rows)
        for backend in GPU_LAYERS:
            found[f"train: {backend}, {network}, {rows} x 50"] = partial(training, backend, network, rows)
    for streams, sampler in itertools.product((1, 8, 64, 512), ("eager", *SAMPLERS)):
        found[f"sample: {sampler}, 3x680, {streams}"] = partial(sampling, sampler, "3x680", streams)
    for streams in (1, 64, 512):
        name = f"sample: torch, with prediction, 2x256, {streams}"
        found[name] = partial(sampling, "torch", "2x256 with prediction", streams)
    found["commands"] = commands
    for rows in (512, 2048, 8192):
        found[f"train: plain nn.LSTM loop, 3x680, {rows} x 50"] = partial(plain_loop, "3x680", rows)
        found[f"train: torch, 3x680, {rows} x 50"] = partial(training, "torch", "3x680", rows)
    return found


def machine(setup: Setup) -> Figures:
    """Return the device and the versions."""
    found: Figures = {"torch": torch.__version__, "CUDA": torch.version.cuda}
    with contextlib.suppress(metadata.PackageNotFoundError):
        found["Triton"] = metadata.version("triton")
    if not setup.on_gpu:
        return {"device": "rehearsal on a CPU: the figures are meaningless", **found}
    card = torch.cuda.get_device_properties(0)
    return {"device": card.name, "GB": card.total_memory / 1e9, **found}


def stepper(
    setup: Setup, network: str, rows: int, precision: str, backend: str, recipe: str = "torch-rnn", graphed: bool = True
) -> Step:
    """Return the training step of a new network."""
    shape = {"batch_size": min(rows, setup.largest), "seq_length": setup.steps}
    settings = Settings(**RECIPES[recipe] | shape, recipe=recipe, precision=precision, device=setup.device)
    model = build(dataclasses.replace(setup.networks[network], layer_norm=recipe == "modern"), seed=0).to(setup.device)
    installed = Backend(backend if setup.on_gpu else "torch")
    installed.install(model)
    optimizer = make_optimizer(model, settings)
    if graphed:
        return GraphedStep(model, optimizer, settings, **setup.graphs, backend=installed)
    return Step(model, optimizer, settings, backend=installed)


def batches(setup: Setup, rows: int, vocab_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of learnable symbols without end."""
    moves = np.random.default_rng(0).integers(0, 3, (rows, setup.steps * 16 + 1))
    ids = torch.from_numpy(np.cumsum(moves, axis=1) % vocab_size).to(setup.device)
    while True:
        for start in range(0, ids.shape[1] - 1, setup.steps):
            yield ids[:, start : start + setup.steps], ids[:, start + 1 : start + setup.steps + 1]


def train(setup: Setup, step: Step, rate: float = 2e-3, iterations: int = 20) -> Any:
    """Train for some iterations with the state carried over; return their losses as an array."""
    rows = step.settings.batch_size
    state = step.model.initial_state(rows, training=True)
    source, outcomes = batches(setup, rows, step.model.config.vocab_size), []
    for _ in range(iterations):
        outcome, state = step(*next(source), state, rate)
        outcomes.append(outcome)
    return torch.stack(outcomes)[:, 0].double().cpu().numpy()


def gradients(backend: str, setup: Setup) -> Figures:
    """Compare gradients in bf16 with torch's in fp32 without TF32, after 5 iterations at a learning rate of 0.

    The relative error of a parameter's gradient may be 0.025 at most: that of plain bf16 on a CPU is 0.01 to 0.06.
    """

    def found(precision: str, backend: str) -> list[torch.Tensor]:
        step = stepper(setup, "3x680", 50, precision, backend, graphed=precision != "fp32")
        train(setup, step, rate=0.0, iterations=5)
        return [p.grad.detach().clone() for p in step.parameters if p.grad is not None]

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        reference = found("fp32", "torch")
    minimum = 1e-3 * torch.stack([g.norm() for g in reference]).norm()  # below it a gradient is noise
    pairs = zip(found("bf16", backend), reference, strict=True)
    worst = max(float((a - b).norm() / b.norm().clamp(min=minimum)) for a, b in pairs)
    return {"ok": worst <= 0.025, "largest relative error": worst}


def graph_as_steps(recipe: str, setup: Setup) -> Figures:
    """Compare the losses of steps in a CUDA graph with those of plain steps; they must be bit-identical."""
    steps = (stepper(setup, "3x680", 50, "bf16", "kernel", recipe, graphed) for graphed in (True, False))
    return compare([train(setup, step) for step in steps], 0.0)


def as_on_the_cpu(setup: Setup) -> Figures:
    """Compare the losses of training in fp32 without TF32 on the device with those on the CPU."""
    setups = (setup, dataclasses.replace(setup, device="cpu"))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        losses = [train(s, stepper(s, "3x680", 50, "fp32", "torch", graphed=False)) for s in setups]
    return compare(losses, 0.01)


def predictions(name: str, setup: Setup) -> Figures:
    """Compare linear predictions on the device with those of the reference in numpy, which must be equal."""
    predictors = PREDICTORS["lpc-long"]
    samples = np.random.default_rng(0).normal(0, 20, (7, history(predictors) + setup.steps)).round().clip(-128, 127)
    phase = np.arange(7)
    expected = predictor.predict(samples.astype(np.int8), phase, predictors)
    predict = importlib.import_module(PREDICTIONS[name]).predict
    found = predict(*(torch.from_numpy(array).to(setup.device) for array in (samples, phase)), predictors)
    difference = float(np.abs(found.cpu().numpy() - expected).max())
    return {"ok": difference == 0, "largest difference": difference}


def compare(losses: list[Any], tolerance: float) -> Figures:
    """Compare the losses in nats of two trainings."""
    one, other = losses
    difference = float(np.abs(one - other).max())
    return {"ok": difference <= tolerance, "largest difference": difference, "first loss": one[0], "last": one[-1]}


def training(backend: str, network: str, rows: int, setup: Setup) -> Figures:
    """Measure an iteration of training in bf16, with the symbols on the device."""
    step = stepper(setup, network, rows, "bf16", backend)
    source = batches(setup, step.settings.batch_size, step.model.config.vocab_size)
    state = step.model.initial_state(step.settings.batch_size, training=True)

    def iterate() -> None:
        nonlocal state
        _, state = step(*next(source), state, 2e-3)

    return speed(setup, iterate, step.settings.batch_size)


def plain_loop(network: str, rows: int, setup: Setup) -> Figures:
    """Measure the baseline: nn.LSTM with all layers, autocast to bf16, clipping, Adam, no graph."""
    config, rows = setup.networks[network], min(rows, setup.largest)
    embedding = nn.Embedding(config.vocab_size, config.wordvec_size).to(setup.device)
    lstm = nn.LSTM(config.wordvec_size, config.rnn_size, config.layers, batch_first=True).to(setup.device)
    output = nn.Linear(config.rnn_size, config.vocab_size).to(setup.device)
    parameters = [*embedding.parameters(), *lstm.parameters(), *output.parameters()]
    optimizer, source = torch.optim.Adam(parameters, lr=2e-3), batches(setup, rows, config.vocab_size)
    h = c = torch.zeros(config.layers, rows, config.rnn_size, device=setup.device)

    def iterate() -> None:
        nonlocal h, c
        x, y = next(source)
        with torch.autocast(setup.device, torch.bfloat16):
            hidden, (h, c) = lstm(embedding(x), (h, c))
            logits = output(hidden)
        optimizer.zero_grad()
        functional.cross_entropy(logits.flatten(0, 1).float(), y.flatten()).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_value_(parameters, 5.0)
        optimizer.step()
        h, c = h.detach().float(), c.detach().float()

    return speed(setup, iterate, rows)


def speed(setup: Setup, iterate: Callable[[], None], rows: int) -> Figures:
    """Return the time of an iteration, the rate of its symbols and the memory."""
    if setup.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = median(setup, iterate)
    memory = {"GB": torch.cuda.max_memory_allocated() / 1e9} if setup.on_gpu else {}
    return {"ms": 1e3 * seconds, "symbols/s": rows * setup.steps / seconds, **memory}


def engine(setup: Setup, sampler: str, precision: str, streams: int, model: Any) -> CudaEngine:
    """Return an engine of a network; ``eager`` is plain torch without a graph."""
    graphs, backend = (NO_GRAPHS, "torch") if sampler == "eager" else (setup.graphs, sampler)
    return CudaEngine(model, streams, precision, backend, device=setup.device, **graphs)


def symbols(sampler: str, network: str, precision: str, streams: int, normalised: bool, setup: Setup) -> Figures:
    """Compare symbols, sampled in two calls, and scores with those of the eager engine in fp32 on the CPU."""
    streams = min(streams, setup.largest)
    model = build(dataclasses.replace(setup.networks[network], layer_norm=normalised), seed=0).eval()
    with torch.no_grad():
        model.output.weight.mul_(8)  # so that probabilities differ as much as a trained network's
    tested, reference = engine(setup, sampler, precision, streams, model), EagerEngine(model, streams)
    u = np.stack([uniforms(0, k, 0, setup.compared) for k in range(streams)], axis=1)
    cut = setup.compared // 3
    expected = reference.run(u, 1.0)
    same = float((np.concatenate([tested.run(u[:cut], 1.0), tested.run(u[cut:], 1.0)], axis=1) == expected).mean())
    difference = tested.score(expected) - reference.score(expected)
    mean, largest = abs(float(difference.mean())), float(np.abs(difference).max())
    near = mean <= (0.01 if precision == "bf16" and streams < 4 else 0.005)
    exact = precision == "bf16" or (largest < 1e-2 and same > 0.9)
    return {"ok": near and exact, "mean difference of scores in nats": mean, "largest": largest, "equal symbols": same}


def sampling(sampler: str, network: str, streams: int, setup: Setup) -> Figures:
    """Measure symbols of all streams per second, in bf16."""
    streams = min(streams, setup.largest)
    measured = engine(setup, sampler, "bf16", streams, build(setup.networks[network], seed=0).eval())
    block = min(64, setup.block) if sampler == "eager" else setup.block
    u = np.random.default_rng(0).random((block, streams)).astype(np.float32)
    seconds = median(setup, lambda: measured.run(u, 1.0)) / block  # a step
    return {"symbols/s": streams / seconds, "microseconds per step": 1e6 * seconds, "real time": 1 / seconds / RATE}


def commands(setup: Setup) -> Figures:
    """Train in one run, in two halves, and in two halves with some iterations on the CPU in between; sample."""
    n, half = setup.iterations, setup.iterations // 2
    size = f"--rnn-size {256 if setup.on_gpu else 6} --layers 2 --recipe torch-rnn --device {setup.device}"
    sampler = "cuda" if setup.on_gpu else "eager"
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: Run(Path(folder, name)) for name in ("whole", "halves", "detour")}
        for name, run in runs.items():
            end = n if name == "whole" else half
            command(f"train {VOICE} {size} --run-dir {run.path} --max-iterations {end} --checkpoint-every {half} -q")
        command(f"train --resume {runs['detour'].path} --max-iterations {half + 2} --device cpu -q")
        for name in ("halves", "detour"):
            command(f"train --resume {runs[name].path} --max-iterations {n} --device {setup.device} -q")
        command(f"sample {runs['whole'].path} --engine {sampler} --seconds 5 -o {folder}/sound.wav -q")
        losses = {name: [float(row["train_loss"]) for row in read_rows(run.log_file)] for name, run in runs.items()}
        equal = len({run.checkpoints()[-1].read_bytes() for run in (runs["whole"], runs["halves"])}) == 1
        with wave.open(f"{folder}/sound.wav") as file:
            frames = file.getnframes()
    gaps = {name: float(np.abs(np.subtract(losses["whole"], losses[name])).max()) for name in ("halves", "detour")}
    return {
        "ok": frames == 5 * RATE and gaps["halves"] < 0.01 and gaps["detour"] < 0.1,
        "resumed checkpoint is bit-identical": equal,
        "resumed, largest difference of losses": gaps["halves"],
        "resumed after the CPU": gaps["detour"],
    }


def command(line: str) -> None:
    """Run one of the commands; its output goes to standard error."""
    name, *flags = line.split()
    subprocess.run([sys.executable, "-m", f"charrnn.commands.{name}", *flags], cwd=ROOT, stdout=2, check=True)


def median(setup: Setup, work: Callable[[], Any]) -> float:
    """Return the median of the seconds of a call, from several repeats of many calls each."""
    for _ in range(5 if setup.on_gpu else 1):
        work()
    count, found = 1, []
    for repeat in range(REPEATS + 1):
        setup.wait()
        start = time.perf_counter()
        for _ in range(count):
            work()
        setup.wait()
        found.append((time.perf_counter() - start) / count)
        if repeat == 0:
            count = max(1, round(setup.seconds / REPEATS / found.pop()))
    return statistics.median(found)


def run(check: Check, name: str, setup: Setup) -> Figures:
    """Run a check; return its row."""
    start = time.monotonic()
    try:
        row: Figures = {"check": name, "figures": check(setup)}
        setup.wait()
    except Exception as error:
        traceback.print_exc()
        row = {"check": name, "error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
    return row | {"seconds": round(time.monotonic() - start, 2)}


def text_of(row: Figures) -> str:
    """Return a row as a line of text."""
    if "error" in row:
        return f"FAILED  {row['check']}: {row['error']}"
    figures = dict(row["figures"])
    verdict = {True: "passed", False: "FAILED", None: "      "}[figures.pop("ok", None)]
    texts = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )
    return f"{verdict}  {row['check']}: {', '.join(texts)}"


def main(argv: list[str] | None = None) -> int:
    """Run the checks and print the table; 0 if none failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="file to write the results to, as JSON")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only the checks whose names contain TEXT")
    parser.add_argument("--rehearse", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    chosen = {name: check for name, check in checks().items() if args.only in name}
    if not chosen:
        parser.error(f"no check has {args.only!r} in its name.")
    if not args.rehearse and not torch.cuda.is_available():
        parser.exit(1, f"check: {NO_GPU}\n")
    rows = []
    for name, check in chosen.items():
        rows.append(run(check, name, REHEARSAL if args.rehearse else GPU))
        print(text_of(rows[-1]), flush=True)
        if args.json:
            Path(args.json).write_text(json.dumps(rows, indent=1, default=lambda number: number.item()) + "\n")
    return int(any("error" in row or row["figures"].get("ok") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
