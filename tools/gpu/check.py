"""Check and measure everything that needs an NVIDIA GPU, in about five minutes.

    python tools/gpu/check.py                    a table on standard output
    python tools/gpu/check.py --json gpu.json    the same as JSON as well, to attach to a report

Run it while nothing else uses the GPU. Checks run in a process of their own. If a check raises a CUDA error, crashes or
exceeds its time limit, its row says so and the remaining checks run in a new process. The JSON file is rewritten after
each check, so an interrupted run leaves the results so far. The exit status is 0 if every check passed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import selectors
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import wave
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from charrnn.config import ModelConfig
from charrnn.cuda import graphs
from charrnn.cuda.backends import set_backend
from charrnn.engines.cuda import CudaEngine
from charrnn.engines.cuda_plain import STEPS
from charrnn.engines.eager import EagerEngine
from charrnn.generate import uniforms
from charrnn.model import CharRNN, build
from charrnn.recipe import RECIPES, Settings
from charrnn.runlog import Run, read_rows
from charrnn.step import GraphedStep, Step, make_optimizer

ROOT = Path(__file__).resolve().parents[2]
VOICE = ROOT / "data" / "voice.wav"
RATE = 11025  # Hz, of the sound whose samples are the symbols
LIMIT = 30.0  # seconds of one check
REPEATS = 5
BACKENDS = ("torch", "padded", "kernel", "overlapped", "kernel-overlapped")
SAMPLERS = ("resident", "torch")
NO_GPU = "torch finds no NVIDIA GPU here: run this on a machine with one and a torch that is built for CUDA."

Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Setup:
    """Device and sizes. The rehearsal on a CPU runs the same code on tiny networks, for the tests."""

    device: str = "cuda"
    networks: dict[str, ModelConfig] = dataclasses.field(
        default_factory=lambda: {
            "3x680": ModelConfig(256),
            "2x256": ModelConfig(256, wordvec_size=64, rnn_size=256, layers=2),
        }
    )
    seconds: float = 0.6  # of a measurement
    largest: int = 8192  # rows or streams
    block: int = 1024  # symbols that a sampling engine returns at a time
    iterations: int = 20  # of a comparison

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    @property
    def recording(self) -> dict[str, Any]:
        """How work is recorded; on a CPU it is repeated instead."""
        return {} if self.device == "cuda" else {"aside": lambda work: work(), "record": lambda work: work}


GPU = Setup()
REHEARSAL = Setup(
    "cpu",
    {"3x680": ModelConfig(9, 5, 6, 3), "2x256": ModelConfig(9, 5, 6, 2)},
    seconds=0.01,
    largest=8,
    block=8,
    iterations=4,
)


@dataclasses.dataclass(frozen=True)
class Check:
    """A named function that returns figures; the figure ``ok`` says whether the check passed."""

    name: str
    run: Callable[[Setup], Figures]
    limit: float = LIMIT
    fresh: bool = False  # in a process in which nothing else has run


def checks() -> list[Check]:
    """Return all checks, the most important ones first."""
    found = [Check("machine", machine), Check("ceilings", ceilings)]
    found += [
        Check(f"gradients: {backend}, {precision}", partial(gradients, backend=backend, precision=precision))
        for precision in ("bf16", "fp32")
        for backend in BACKENDS
        if not (backend.startswith("kernel") and precision == "fp32")
    ]
    for recipe, precision in (("torch-rnn", "bf16"), ("modern", "bf16"), ("torch-rnn", "fp32")):
        name = f"CUDA graph as plain steps: {recipe}, {precision}"
        found.append(Check(name, partial(graph_as_steps, recipe=recipe, precision=precision)))
    found.append(Check("training in fp32 as on the CPU", as_on_the_cpu))
    found.append(Check("a loss that is not finite changes no weight", not_finite))
    for sampler in SAMPLERS:
        for precision, streams, normalised in (
            ("fp32", 1, True),
            ("fp32", 3, False),
            ("bf16", 1, True),
            ("bf16", 64, True),
        ):
            name = f"symbols: {sampler}, {precision}, {streams} streams" + ", normalised" * normalised
            options = {"sampler": sampler, "precision": precision, "streams": streams, "normalised": normalised}
            found.append(Check(name, partial(symbols, **options)))
    for network, rows in (("3x680", 50), ("3x680", 100), ("2x256", 50), ("2x256", 100), ("3x680", 512)):
        found.append(
            Check(f"train: plain nn.LSTM loop, {network}, {rows} x 50", partial(plain_loop, network=network, rows=rows))
        )
        for backend in BACKENDS:
            name = f"train: {backend}, {network}, {rows} x 50"
            found.append(Check(name, partial(training, backend=backend, network=network, rows=rows)))
    for streams in (1, 8, 64, 512):
        found.append(
            Check(f"sample: eager torch, 3x680, {streams}", partial(sampling, sampler="eager", streams=streams))
        )
        for sampler in SAMPLERS:
            found.append(
                Check(f"sample: {sampler}, 3x680, {streams}", partial(sampling, sampler=sampler, streams=streams))
            )
    for sampler in SAMPLERS:
        name = f"first {STEPS} symbols: {sampler}"
        found.append(Check(name, partial(first_symbols, sampler=sampler), fresh=True))
    found.append(Check("commands", commands, limit=150.0))
    for backend in BACKENDS:
        name = f"train without a graph: {backend}, 3x680, 50 x 50"
        found.append(Check(name, partial(training, backend=backend, network="3x680", rows=50, graphed=False)))
    for rows in (2048, 8192):
        for backend in ("torch", "padded", "overlapped", "kernel"):
            name = f"train: {backend}, 3x680, {rows} x 50"
            found.append(Check(name, partial(training, backend=backend, network="3x680", rows=rows)))
    risky = "padded-overlapped"
    found.append(Check(f"gradients: {risky}", partial(gradients, backend=risky, precision="bf16")))
    found.append(Check(f"train: {risky}, 3x680, 50 x 50", partial(training, backend=risky, network="3x680", rows=50)))
    return found


# -- the machine ------------------------------------------------


def machine(setup: Setup) -> Figures:
    """Return the versions and the device."""
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    found: Figures = {"torch": torch.__version__, "CUDA": torch.version.cuda, "cuDNN": cudnn, "numpy": np.__version__}
    with contextlib.suppress(ImportError):
        import triton

        found["Triton"] = triton.__version__
    if setup.device != "cuda":
        return {"device": "rehearsal on a CPU: the figures mean nothing", **found}
    card = torch.cuda.get_device_properties(0)
    return {"device": card.name, "multiprocessors": card.multi_processor_count, "GB": card.total_memory / 1e9, **found}


def ceilings(setup: Setup) -> Figures:
    """Return the rates of a large copy and a large matrix product, and the time of a small kernel in a CUDA graph."""
    n, size = (8192, 1 << 30) if setup.device == "cuda" else (8, 1 << 10)
    a, b = (torch.randn(n, n, device=setup.device, dtype=torch.bfloat16) for _ in range(2))
    x = torch.zeros(1, device=setup.device)
    source = torch.empty(size, dtype=torch.uint8, device=setup.device).random_()
    target, product = torch.empty_like(source), torch.empty_like(a)

    def kernels() -> None:
        for _ in range(1000):
            x.add_(1)

    record = setup.recording.get("record", graphs.recorded)
    return {
        "TFLOP/s of a bf16 product": 2 * n**3 / median(setup, lambda: torch.mm(a, b, out=product)) / 1e12,
        "GB/s of a copy": 2 * size / median(setup, lambda: target.copy_(source)) / 1e9,
        "microseconds of a kernel in a graph": 1e3 * median(setup, record(kernels)),
    }


# -- training ------------------------------------------------


def settings_for(setup: Setup, rows: int, precision: str, recipe: str = "torch-rnn") -> Settings:
    """Return the settings of a recipe with ``rows`` x 50."""
    shape = {"batch_size": rows, "seq_length": 50 if setup.device == "cuda" else 4}
    return Settings(**RECIPES[recipe] | shape, recipe=recipe, precision=precision, device=setup.device)


def stepper(setup: Setup, network: str, settings: Settings, backend: str = "torch", graphed: bool = True) -> Step:
    """Return the training step of a new network."""
    normalised = settings.recipe == "modern"
    model = build(dataclasses.replace(setup.networks[network], layer_norm=normalised), seed=0).to(setup.device)
    if setup.device == "cuda" or not backend.startswith("kernel"):
        set_backend(model, backend)
    optimizer = make_optimizer(model, settings)
    if graphed:
        return GraphedStep(model, optimizer, settings, **setup.recording)
    return Step(model, optimizer, settings)


def batches(setup: Setup, settings: Settings, vocab_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of symbols in an order that can be learnt, without end."""
    steps = settings.seq_length
    moves = np.random.default_rng(0).integers(0, 3, (settings.batch_size, steps * 16 + 1))
    ids = torch.from_numpy(np.cumsum(moves, axis=1) % vocab_size).to(setup.device)
    while True:
        for start in range(0, ids.shape[1] - 1, steps):
            yield ids[:, start : start + steps], ids[:, start + 1 : start + steps + 1]


def train(setup: Setup, step: Step, rate: float, iterations: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Train for some iterations with the state carried; return their losses."""
    settings = step.settings
    source = batches(setup, settings, step.model.config.vocab_size)
    state, outcomes = step.model.initial_state(settings.batch_size), []
    for _ in range(iterations):
        outcome, state = step(*next(source), state, rate)
        outcomes.append(outcome)
    return torch.stack(outcomes)[:, 0].double().cpu().numpy()


def gradients(setup: Setup, backend: str, precision: str) -> Figures:
    """Compare losses and gradients with torch's in fp32 without TF32 on the same weights, after 5 iterations with the
    state carried and a rate of 0. The limit is twice the error of torch's own layers in this precision, or 2.5 %."""

    def found(backend: str, precision: str, graphed: bool) -> tuple[float, list[torch.Tensor]]:
        step = stepper(setup, "3x680", settings_for(setup, 50, precision), backend, graphed)
        losses = train(setup, step, 0.0, 5)
        return losses[-1], [p.grad.detach().clone() for p in step.parameters if p.grad is not None]

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        loss, wanted = found("torch", "fp32", False)
    total = torch.stack([g.norm() for g in wanted]).norm()

    def error(gradients: list[torch.Tensor]) -> float:
        errors = [
            (a - b).norm() / torch.maximum(b.norm(), 1e-3 * total) for a, b in zip(gradients, wanted, strict=True)
        ]
        return float(torch.stack(errors).max())

    own_loss, own = found("torch", precision, False)
    its_loss, its = found(backend, precision, True)
    limit = max(2 * error(own), 0.025)
    return {
        "ok": error(its) <= limit and abs(its_loss - loss) <= 2 * max(abs(own_loss - loss), 1e-3),
        "largest relative error of a gradient": error(its),
        "the same of torch's layers": error(own),
        "loss": its_loss,
        "nats from the exact loss": its_loss - loss,
    }


def graph_as_steps(setup: Setup, recipe: str, precision: str) -> Figures:
    """Compare the losses of steps in a CUDA graph with those of plain steps."""
    settings = settings_for(setup, 50, precision, recipe)
    one, other = (
        train(setup, stepper(setup, "3x680", settings, graphed=graphed), 2e-3, setup.iterations)
        for graphed in (True, False)
    )
    return same_losses(one, other, 1e-3 if precision == "fp32" else 2e-2)


def as_on_the_cpu(setup: Setup) -> Figures:
    """Compare the losses of training in fp32 on the device with those on the CPU."""
    host = dataclasses.replace(setup, device="cpu")
    one, other = (
        train(s, stepper(s, "3x680", settings_for(s, 50, "fp32"), graphed=False), 2e-3, setup.iterations)
        for s in (setup, dataclasses.replace(host, networks=setup.networks))
    )
    return same_losses(one, other, 1e-2)


def same_losses(one: Any, other: Any, limit: float) -> Figures:
    """Return the largest difference of two series of losses, which must be at most a limit."""
    difference = float(np.abs(one - other).max())
    return {"ok": difference <= limit, "largest difference in nats": difference, "first": one[0], "last": one[-1]}


def not_finite(setup: Setup) -> Figures:
    """Run a step from a state that is not a number; no weight may change."""
    step = stepper(setup, "2x256", settings_for(setup, 50, "bf16"))
    source = batches(setup, step.settings, step.model.config.vocab_size)
    state = step.model.initial_state(50)
    for _ in range(5):
        _, state = step(*next(source), state, 2e-3)
    before = [p.detach().clone() for p in step.parameters]
    spoilt = tuple(tuple(t * float("nan") for t in layer) for layer in state)
    outcome, _ = step(*next(source), spoilt, 2e-3)
    kept = all(torch.equal(a, b) for a, b in zip(before, step.parameters, strict=True))
    return {"ok": kept and not bool(outcome.isfinite().any()), "loss": float(outcome[0])}


def training(setup: Setup, backend: str, network: str, rows: int, graphed: bool = True) -> Figures:
    """Measure an iteration of training, with the symbols on the device."""
    settings = settings_for(setup, min(rows, setup.largest), "bf16")
    step = stepper(setup, network, settings, backend, graphed)
    source = batches(setup, settings, step.model.config.vocab_size)
    state = step.model.initial_state(settings.batch_size)

    def iterate() -> None:
        nonlocal state
        _, state = step(*next(source), state, 2e-3)

    return speed(setup, iterate, settings)


def plain_loop(setup: Setup, network: str, rows: int) -> Figures:
    """Measure the loop that most people would write: nn.LSTM with all layers, autocast, clip, Adam; no graph."""
    config, settings = setup.networks[network], settings_for(setup, min(rows, setup.largest), "bf16")
    embedding = nn.Embedding(config.vocab_size, config.wordvec_size).to(setup.device)
    lstm = nn.LSTM(config.wordvec_size, config.rnn_size, config.layers, batch_first=True).to(setup.device)
    output = nn.Linear(config.rnn_size, config.vocab_size).to(setup.device)
    parameters = [*embedding.parameters(), *lstm.parameters(), *output.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    source = batches(setup, settings, config.vocab_size)
    zeros = torch.zeros(config.layers, settings.batch_size, config.rnn_size, device=setup.device)
    state = (zeros, zeros)

    def iterate() -> None:
        nonlocal state
        x, y = next(source)
        with torch.autocast(setup.device, torch.bfloat16):
            hidden, state = lstm(embedding(x), state)
            logits = output(hidden)
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), y.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_value_(parameters, 5.0)
        optimizer.step()
        h, c = state
        state = (h.detach().float(), c.detach().float())

    return speed(setup, iterate, settings)


def speed(setup: Setup, iterate: Callable[[], None], settings: Settings) -> Figures:
    """Return the time of an iteration, the rate of its symbols and the memory."""
    if setup.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = median(setup, iterate)
    found = {"ms": 1e3 * seconds, "symbols/s": settings.batch_size * settings.seq_length / seconds}
    if setup.device == "cuda":
        found["GB"] = torch.cuda.max_memory_allocated() / 1e9
    return found


# -- sampling ------------------------------------------------


def engine(setup: Setup, model: CharRNN, sampler: str, precision: str, streams: int) -> CudaEngine:
    """Return the engine; ``eager`` is plain torch without a graph."""
    recording = setup.recording
    if sampler == "eager":
        recording = {"aside": lambda work: None, "record": lambda work: work}
    backend = "torch" if sampler == "eager" else sampler
    return CudaEngine(model, streams, precision, backend, device=setup.device, **recording)


def symbols(setup: Setup, sampler: str, precision: str, streams: int, normalised: bool) -> Figures:
    """Compare symbols, drawn in two pieces, and scores with those of the eager engine in fp32 on the CPU."""
    model = build(dataclasses.replace(setup.networks["3x680"], layer_norm=normalised), seed=0).eval()
    with torch.no_grad():
        model.output.weight.mul_(8)  # so that probabilities differ as much as a trained network's
    ours, reference = engine(setup, model, sampler, precision, streams), EagerEngine(model, streams)
    u = np.stack([uniforms(0, k, 0, 130) for k in range(streams)], axis=1)
    wanted = reference.run(u, 1.0)
    drawn = np.concatenate([ours.run(u[:47], 1.0), ours.run(u[47:], 1.0)], axis=1)
    difference = ours.score(wanted) - reference.score(wanted)
    ours.set_state(*reference.get_state())
    likeliest = float((ours.run(u[:20], 0.0) == reference.run(u[:20], 0.0)).mean())
    same, mean, largest = (
        float((drawn == wanted).mean()),
        abs(float(difference.mean())),
        float(np.abs(difference).max()),
    )
    exact = precision == "fp32"
    return {
        "ok": mean <= (0.005 if streams > 3 or exact else 0.01) and (not exact or (largest < 1e-2 and same > 0.9)),
        "mean difference of scores in nats": mean,
        "largest": largest,
        "share of equal symbols": same,
        "of the likeliest": likeliest,
    }


def sampling(setup: Setup, sampler: str, streams: int) -> Figures:
    """Measure symbols of all streams per second."""
    streams = min(streams, setup.largest)
    ours = engine(setup, build(setup.networks["3x680"], seed=0).eval(), sampler, "bf16", streams)
    block = setup.block if sampler != "eager" else min(64, setup.block)
    u = np.random.default_rng(0).random((block, streams)).astype(np.float32)
    rate = u.size / median(setup, lambda: ours.run(u, 1.0))
    return {
        "symbols/s": rate,
        "times real time, each stream": rate / streams / RATE,
        "microseconds a step": 1e6 * streams / rate,
    }


def first_symbols(setup: Setup, sampler: str) -> Figures:
    """Measure the time from a network in memory to its first symbols, the first time in this process and later."""
    model = build(setup.networks["3x680"], seed=0).eval()
    u = np.random.default_rng(0).random((STEPS + 1, 1)).astype(np.float32)
    torch.zeros(1, device=setup.device)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        engine(setup, model, sampler, "bf16", 1).run(u, 1.0)
        seconds.append(time.perf_counter() - start)
    return {"seconds, first": seconds[0], "seconds, later": statistics.median(seconds[1:])}


# -- the commands ------------------------------------------------


def commands(setup: Setup) -> Figures:
    """Train in one run and in two halves, the second one after a detour on the CPU, and sample."""
    cuda = setup.device == "cuda"
    size = "--rnn-size 256 --layers 2" if cuda else "--rnn-size 6 --layers 1"
    iterations = 400 if cuda else 4
    engine_name = "cuda" if cuda else "eager"
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder, "sound.wav")
        new = f"train {VOICE} {size} --device {setup.device} -q --checkpoint-every {iterations // 2}"
        started = time.monotonic()
        command(f"{new} --run-dir {folder}/whole --max-iterations {iterations}")
        seconds = time.monotonic() - started
        command(f"{new} --run-dir {folder}/parts --max-iterations {iterations // 2}")
        command(f"train --resume {folder}/parts --max-iterations {iterations // 2 + 2} --device cpu -q")
        command(f"train --resume {folder}/parts --max-iterations {iterations} --device {setup.device} -q")
        command(f"sample {folder}/whole --engine {engine_name} --seconds 5 -o {sound} -q")
        rows = [list(read_rows(Run(Path(folder, name)).log_file)) for name in ("whole", "parts")]
        validation = [list(read_rows(Run(Path(folder, name)).val_file))[-1]["val_bits"] for name in ("whole", "parts")]
        with wave.open(str(sound)) as file:
            frames = file.getnframes()
    numbers = [[int(row["iteration"]) for row in part] for part in rows]
    half = iterations // 2
    losses = [[float(row["train_loss"]) for row in part] for part in rows]
    complete = numbers[0] == numbers[1] == list(range(1, iterations + 1)) and frames == 5 * RATE
    return {
        "ok": complete and abs(float(validation[0]) - float(validation[1])) < 0.2,
        "seconds of charrnn-train": seconds,
        "largest difference of the first half's losses": float(np.abs(np.subtract(*losses))[:half].max()),
        "validation bits in one run": float(validation[0]),
        "in parts": float(validation[1]),
    }


def command(line: str) -> None:
    """Run one of the commands; raise ValueError with its message if it fails."""
    name, *flags = line.split()
    done = subprocess.run(
        [sys.executable, "-m", f"charrnn.commands.{name}", *flags], cwd=ROOT, capture_output=True, text=True
    )
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise ValueError(f"charrnn-{name} failed: {done.stderr.strip()[-300:]}")


# -- measuring and running ------------------------------------------------


def median(setup: Setup, work: Callable[[], Any]) -> float:
    """Return the median of the seconds that the work takes, of several repeats of many calls each."""
    for _ in range(5 if setup.device == "cuda" else 1):
        work()
    setup.wait()
    start = time.perf_counter()
    work()
    setup.wait()
    count = max(1, round(setup.seconds / REPEATS / (time.perf_counter() - start)))
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(count):
            work()
        setup.wait()
        found.append((time.perf_counter() - start) / count)
    return statistics.median(found)


def work(first: int, setup: Setup) -> int:
    """Run checks from a number on and print a line of JSON for each; 1 after an error that may have broken the GPU."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever checks print goes to standard error
    for number, check in list(enumerate(checks()))[first:]:
        if check.fresh and number != first:
            return 0
        start, broken = time.monotonic(), False
        try:
            row: Figures = {"figures": check.run(setup)}
        except Exception as error:
            traceback.print_exc()
            row = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
            broken = isinstance(error, RuntimeError)
        row |= {"check": check.name, "seconds": round(time.monotonic() - start, 2)}
        print(json.dumps(row, default=lambda number: number.item()), file=results, flush=True)
        if broken or check.fresh:
            return 0
        if setup.device == "cuda":
            torch.cuda.empty_cache()
    return 0


def rows_of(only: str, minutes: float, rehearse: bool) -> Iterator[Figures]:
    """Yield a row for each check, from processes that are replaced where a check breaks them."""
    started, number, plan, new = time.monotonic(), 0, checks(), False
    process: subprocess.Popen[str] | None = None
    try:
        while number < len(plan):
            if only not in plan[number].name or time.monotonic() - started > 60 * minutes:
                if only in plan[number].name:
                    yield {"check": plan[number].name, "error": "not run: the time is over"}
                number += 1
                end(process)
                process = None
                continue
            if process is None or process.poll() is not None:
                command = [sys.executable, __file__, "--worker", str(number), *["--rehearse"] * rehearse]
                new = True
                process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True
                )
            line = next_line(process, plan[number].limit + new * 30)
            new = False
            if line:
                yield json.loads(line)
                number += 1
            elif process.poll() == 0:  # it wants a new process for the next check
                process = None
            else:
                code = process.poll()
                reason = f"exit status {code}" if code is not None else f"more than {plan[number].limit:g} s"
                yield {"check": plan[number].name, "error": f"the process failed: {reason}"}
                number += 1
                end(process)
                process = None
    finally:
        end(process)


def next_line(process: subprocess.Popen[str], limit: float) -> str:
    """Return the next line of a process; empty if it ends, or if the limit (and the time to start) passes."""
    assert process.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(limit):
            return ""
    line = process.stdout.readline()
    if not line:
        process.wait(10)
    return line


def end(process: subprocess.Popen[str] | None) -> None:
    """End a process and all that it started."""
    if process and process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def text_of(row: Figures) -> str:
    """Return a row as a line of text."""
    if "error" in row:
        return f"FAILED  {row['check']}: {row['error']}"
    figures = dict(row["figures"])
    verdict = {True: "passed", False: "FAILED", None: "      "}[figures.pop("ok", None)]
    values = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )
    return f"{verdict}  {row['check']}: " + ", ".join(values)


def main(argv: list[str] | None = None) -> int:
    """Run the checks and print the table; 0 if all passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="file to write the results to, as JSON")
    parser.add_argument("--minutes", type=float, default=5.0, help="start no check after this time (default: 5)")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only the checks whose names contain TEXT")
    parser.add_argument("--rehearse", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker is not None:
        return work(args.worker, REHEARSAL if args.rehearse else GPU)
    if not args.rehearse and not torch.cuda.is_available():
        print(f"check: {NO_GPU}", file=sys.stderr)
        return 1
    rows = []
    for row in rows_of(args.only, args.minutes, args.rehearse):
        rows.append(row)
        print(text_of(row), flush=True)
        if args.json:
            Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    return int(any("error" in row or row["figures"].get("ok") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
