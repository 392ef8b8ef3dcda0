"""Checks that training and sampling on a GPU give the same results as the reference on the CPU."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from setups import RATE, Figures, Setup, batches, engine, stepper

from charrnn.data import predictor
from charrnn.data.predictor import PREDICTORS, history
from charrnn.engines.eager import EagerEngine
from charrnn.models.char_rnn import build
from charrnn.sampling.generate import uniforms
from charrnn.storage.csv_log import read_rows
from charrnn.storage.run_dir import Run
from charrnn.training.own_sound import EVERY, OwnSound
from charrnn.training.step import Step

ROOT = Path(__file__).resolve().parents[2]
VOICE = ROOT / "data" / "voice.wav"
PREDICTIONS = {"torch": "charrnn.models.predictor", "kernel": "charrnn.cuda.predictor"}


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


def own_sound(setup: Setup) -> Figures:
    """Compare own sound, and the hidden state of rows that restart from it, on the device and on the CPU."""
    rows, found = 3, []
    for device in ("cpu", setup.device):
        model = build(setup.networks["2x256 with prediction"], seed=0).to(device)
        sound = OwnSound(model, slice(0, rows), rows, setup.steps, seed=0)
        state, hidden = sound.initial_state(rows), model.initial_state(rows, training=True)
        for iteration in range(2 * EVERY // setup.steps + 1):
            if sound.draw_is_due(iteration):
                state = sound.draw(state, iteration)
            sound.restart_rows(state, hidden, iteration)
        found.append([tensor.cpu() for tensor in chain.from_iterable((*state, *hidden))])
    equal = all(map(torch.equal, *found))
    drawn = bool(state[-1][0].any())  # not without the compiled engine
    return {"ok": equal and drawn, "equal": equal, "drawn": drawn}


def commands(setup: Setup) -> Figures:
    """Train in one run, in two halves, and in two halves with some iterations on the CPU in between; sample.

    The recipe is torch-rnn's, whose learning rate does not depend on the planned end. Modern runs in two halves, too.
    """
    n, half = setup.iterations, setup.iterations // 2
    size = f"--rnn-size {256 if setup.on_gpu else 6} --layers 2 --device {setup.device}"
    sampler = "cuda" if setup.on_gpu else "eager"
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: Run(Path(folder, name)) for name in ("whole", "halves", "detour", "modern")}
        for name, run in runs.items():
            flags = f"{size} --recipe {name if name == 'modern' else 'torch-rnn'} --checkpoint-every {half} -q"
            end = n if name == "whole" else half
            command(f"train {VOICE} {flags} --run-dir {run.path} --max-iterations {end}")
        command(f"train --resume {runs['detour'].path} --max-iterations {half + 2} --device cpu -q")
        for name in ("halves", "detour", "modern"):
            command(f"train --resume {runs[name].path} --max-iterations {n} --device {setup.device} -q")
        for name in ("whole", "modern"):
            command(f"sample {runs[name].path} --engine {sampler} --seconds 5 -o {folder}/{name}.wav -q")
        losses = {name: [float(row["train_loss"]) for row in read_rows(run.log_file)] for name, run in runs.items()}
        equal = len({run.checkpoints()[-1].read_bytes() for run in (runs["whole"], runs["halves"])}) == 1
        lengths = {soundfile.info(f"{folder}/{name}.wav").frames for name in ("whole", "modern")}
    gaps = {name: float(np.abs(np.subtract(losses["whole"], losses[name])).max()) for name in ("halves", "detour")}
    learns = losses["modern"][-1] < losses["modern"][0] or not setup.on_gpu  # a rehearsal is too short
    return {
        "ok": lengths == {5 * RATE} and gaps["halves"] < 0.01 and gaps["detour"] < 0.1 and learns,
        "resumed checkpoint is bit-identical": equal,
        "resumed, largest difference of losses": gaps["halves"],
        "resumed after the CPU": gaps["detour"],
        "modern, first loss": losses["modern"][0],
        "modern, last loss": losses["modern"][-1],
    }


def train(setup: Setup, step: Step, rate: float = 2e-3, iterations: int = 20) -> Any:
    """Train for some iterations with the state carried over; return their losses as an array."""
    rows = step.settings.batch_size
    state = step.model.initial_state(rows, training=True)
    source, outcomes = batches(setup, rows, step.model.config.vocab_size), []
    for _ in range(iterations):
        outcome, state = step(*next(source), state, rate)
        outcomes.append(outcome)
    return torch.stack(outcomes)[:, 0].double().cpu().numpy()


def compare(losses: list[Any], tolerance: float) -> Figures:
    """Compare the losses in nats of two runs."""
    one, other = losses
    difference = float(np.abs(one - other).max())
    return {"ok": difference <= tolerance, "largest difference": difference, "first loss": one[0], "last": one[-1]}


def command(line: str) -> None:
    """Run one of the commands; its output goes to standard error."""
    name, *flags = line.split()
    subprocess.run([sys.executable, "-m", f"charrnn.commands.{name}", *flags], cwd=ROOT, stdout=2, check=True)
