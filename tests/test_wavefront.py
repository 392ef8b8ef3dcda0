"""Layers side by side in blocks compute what they do one after the other, and nothing is read before it is there."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from charrnn import frames
from charrnn.config import ModelConfig
from charrnn.frames import FrameConfig
from charrnn.model import build
from charrnn.wavefront import OneLane, Streams, Wavefront, number_of_blocks

CONFIG = ModelConfig(vocab_size=7, wordvec_size=5, rnn_size=6, layers=3)
N, T = 3, 11
NEAR = {"atol": 1e-6, "rtol": 1e-6}  # in double precision, but for the loss, which is made in single
CELLS = ["lstm", "lstmp", "lstmor", "gru", "rnn"]


def random_state(model):
    generator = torch.Generator().manual_seed(9)
    return tuple(tuple(torch.randn(t.shape, generator=generator).to(t) for t in s) for s in model.initial_state(N))


def results(model, x, y):
    """Loss, state and gradients, where the state has come from somewhere to which gradients flow, too."""
    state = tuple(tuple(t.requires_grad_() for t in layer) for layer in random_state(model))
    loss, after = model.loss(x, y, state)
    (loss + sum(t.square().mean() for layer in after for t in layer)).backward()
    learnt = [p for p in model.parameters() if p.requires_grad]
    before = [t for layer in state for t in layer]
    return [loss, *(t for layer in after for t in layer), *(t.grad for t in (*learnt, *before))]


def assert_same(whole, parts):
    assert len(whole) == len(parts) > 10
    for wanted, found in zip(whole, parts, strict=True):
        torch.testing.assert_close(found, wanted, **NEAR)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("blocks", [1, 2, 5, T, 99])
def test_loss_state_and_gradients_are_those_of_one_piece_whatever_the_number_of_blocks(cell, norm, blocks):
    whole, parts = (build(replace(CONFIG, cell=cell, layer_norm=norm), seed=0).double() for _ in range(2))
    parts.wavefront = Wavefront(blocks)
    x, y = torch.randint(7, (2, N, T), generator=torch.Generator().manual_seed(1))
    assert_same(results(whole, x, y), results(parts, x, y))


@pytest.mark.parametrize("loss", frames.LOSSES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_frame_predictor_is_the_same_as_well(cell, loss):
    samples = (3000 * np.sin(np.arange(400) / 7)).astype(np.int16)
    config = FrameConfig(rnn_size=6, layers=2, taps=4, spacing=9, cell=cell, loss=loss, layer_norm=True)
    whole, parts = (frames.build(config, 0, samples).double() for _ in range(2))
    parts.wavefront = Wavefront(4)
    x = torch.randint(-3000, 3000, (N, 3 * 9 + T), generator=torch.Generator().manual_seed(1))
    assert_same(results(whole, x, x[:, -T:]), results(parts, x, x[:, -T:]))


def test_each_block_is_dropped_out_and_normalised_on_its_own_and_none_while_validating():
    model = build(replace(CONFIG, dropout=0.5, layer_norm=True), seed=0)
    x = torch.randint(7, (N, T))
    model.eval()
    plain = model(x, model.initial_state(N))[0]
    seen = []
    model.wavefront = Wavefront(4)
    model.dropout.register_forward_hook(lambda module, given, out: seen.append((tuple(out.shape), (out == 0).any())))
    assert torch.equal(model(x, model.initial_state(N))[0], plain)
    assert [shape for shape, _ in seen] == [(N, T, 6)] * 3
    seen.clear()
    model.train()
    model(x, model.initial_state(N))
    assert [shape[1] for shape, _ in seen] == [2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    assert all(dropped for _, dropped in seen)


def test_the_blocks_of_the_run_of_2016_are_5_and_a_layer_alone_is_not_cut():
    assert number_of_blocks(depth=3, steps=50) == 5
    assert number_of_blocks(depth=1, steps=50) == 1
    assert number_of_blocks(depth=3, steps=1) == 1


@given(st.integers(2, 8), st.integers(1, 5000))
def test_no_other_number_of_blocks_takes_less_time_by_the_formula_than_a_neighbour_of_the_chosen_one(depth, steps):
    def cost(blocks):
        return (blocks + depth - 1) * (steps / blocks + 4)

    chosen = number_of_blocks(depth, steps)
    assert 1 <= chosen <= steps
    best = min(range(1, steps + 1), key=cost)
    assert cost(chosen) <= 1.05 * cost(best)


# Streams: a stand-in keeps account of who has waited for whom


class Stream:
    """A stream that knows up to where it has waited for each: how many of its operations came before."""

    def __init__(self, cuda):
        self.number = len(cuda.streams)
        self.seen = {self.number: 0}
        cuda.streams.append(self)

    def wait_stream(self, other):
        for number, count in other.seen.items():
            self.seen[number] = max(self.seen.get(number, 0), count)


class Cuda(TorchDispatchMode):
    """What stands for `torch.cuda`, and looks at each operation: what it reads has to have been written before, and
    what it reads of another stream's memory has to have been recorded, so that the memory is not given away."""

    def __init__(self, waits=True, records=True):
        super().__init__()
        self.streams, self.homes, self.recorded, self.kept, self.wrong = [], {}, set(), [], set()
        self.current = self.Stream()
        self.waits, self.records = waits, records
        self.used = set()

    def Stream(self):
        stream = Stream(self)
        if self.streams[1:] and not self.waits:
            stream.wait_stream = lambda other: None
        return stream

    def current_stream(self):
        return self.current

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    def record_stream(self, tensor, stream):
        if self.records:
            self.recorded.add((tensor.untyped_storage().data_ptr(), stream.number))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        here = self.current
        for tensor in tensors_in(args):
            place = tensor.untyped_storage().data_ptr()
            home, moment = self.homes.get(place, (here.number, 0))  # what was there before has been waited for
            if here.seen.get(home, 0) < moment:
                self.wrong.add("read too early")
            if home != here.number and (place, here.number) not in self.recorded:
                self.wrong.add("not recorded")
        out = func(*args, **(kwargs or {}))
        here.seen[here.number] += 1
        self.used.add(here.number)
        for tensor in tensors_in((out,)):
            self.kept.append(tensor)  # else its place would be another's
            self.homes.setdefault(tensor.untyped_storage().data_ptr(), (here.number, here.seen[here.number]))
        return out


def tensors_in(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def run_on_streams(monkeypatch, cuda, cell="lstm"):
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: cuda.record_stream(tensor, stream))
    model = build(replace(CONFIG, cell=cell, layer_norm=True), seed=0)
    model.wavefront = Wavefront(4, Streams(3, cuda))
    x, y = torch.randint(7, (2, N, T), generator=torch.Generator().manual_seed(1))
    with cuda:
        _, state = model.loss(x, y, random_state(model))
        _, state = model.loss(x, y, state)  # which comes from the streams
        _ = [t + 1 for layer in state for t in layer]
    return cuda


@pytest.mark.parametrize("cell", CELLS)
def test_on_streams_nothing_is_read_before_it_is_written_nor_its_memory_given_away_while_it_is(monkeypatch, cell):
    cuda = run_on_streams(monkeypatch, Cuda(), cell)
    assert cuda.wrong == set()
    assert cuda.used == {0, 1, 2, 3}


@pytest.mark.parametrize("what", ["waits", "records"])
def test_that_would_be_seen(monkeypatch, what):
    cuda = run_on_streams(monkeypatch, Cuda(**{what: False}))
    assert cuda.wrong == {"read too early" if what == "waits" else "not recorded"}


def test_a_layer_is_at_a_block_while_the_one_below_is_at_the_next():
    """By the waits alone: when layer 1 has done block 0, nothing of layer 0's block 1 had to be done."""
    cuda, seen = Cuda(), []
    streams = Streams(2, cuda)

    def stage(lane):
        def run(x, state):
            seen.append((lane, dict(cuda.current.seen)))
            return x + 1, state

        return run

    torch.Tensor.record_stream, real = lambda tensor, stream: None, torch.Tensor.record_stream
    try:
        with cuda:
            Wavefront(3, streams)([stage(0), stage(1)], torch.zeros(N, 6, 2), [(), ()])
    finally:
        torch.Tensor.record_stream = real
    assert [lane for lane, _ in seen] == [0, 1] * 3
    assert [clocks.get(1, 0) for lane, clocks in seen if lane == 1] == [
        1,
        2,
        3,
    ]  # of layer 0's blocks, as many as its own
    assert [clocks.get(2, 0) for lane, clocks in seen if lane == 0] == [0, 0, 0]  # layer 0 waits for nobody


def test_without_a_gpu_blocks_are_computed_in_one_place():
    model = build(CONFIG, seed=0)
    model.wavefront = Wavefront()
    model(torch.randint(7, (N, T)), model.initial_state(N))
    assert isinstance(model.wavefront._lanes, OneLane)
