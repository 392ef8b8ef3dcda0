"""Measurements of training and sampling on a GPU, and of their baselines."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from setups import RATE, Figures, Setup, batches, engine, stepper
from torch import nn
from torch.nn import functional

from charrnn.models.char_rnn import build

REPEATS = 5


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


def sampling(sampler: str, network: str, streams: int, setup: Setup) -> Figures:
    """Measure symbols of all streams per second, in bf16."""
    streams = min(streams, setup.largest)
    measured = engine(setup, sampler, "bf16", streams, build(setup.networks[network], seed=0).eval())
    block = min(64, setup.block) if sampler == "eager" else setup.block
    u = np.random.default_rng(0).random((block, streams)).astype(np.float32)
    seconds = median(setup, lambda: measured.run(u, 1.0)) / block  # a step
    return {"symbols/s": streams / seconds, "microseconds per step": 1e6 * seconds, "real time": 1 / seconds / RATE}


def speed(setup: Setup, iterate: Callable[[], None], rows: int) -> Figures:
    """Return the time of an iteration, the rate of its symbols and the memory."""
    if setup.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = median(setup, iterate)
    memory = {"GB": torch.cuda.max_memory_allocated() / 1e9} if setup.on_gpu else {}
    return {"ms": 1e3 * seconds, "symbols/s": rows * setup.steps / seconds, **memory}


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
