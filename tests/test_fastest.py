"""The fastest way of computing layers is found out and kept, and no way that is wrong or cannot be gone."""

import dataclasses
import sys
import weakref
from functools import partial

import pytest
import torch
from kernel_stand_in import exact, put_kernel
from test_step import replayed

from bytecodec.errors import InputError
from charrnn import fastest, gpu_layers, trial
from charrnn.config import ModelConfig
from charrnn.fastest import choose, decide
from charrnn.model import build
from charrnn.recipe import GPU_LAYERS, RECIPES, Settings
from charrnn.step import GraphedStep

CONFIG = ModelConfig(vocab_size=7, wordvec_size=5, rnn_size=6, layers=2)
N, T = 3, 8
GIVE_BACK = fastest._give_back
SETTINGS = Settings(**RECIPES["modern"] | {"batch_size": N, "seq_length": T, "device": "cuda"})  # as if there were one
BATCH = tuple(torch.randint(7, (2, N, T), generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def kernel(monkeypatch):
    """``kernel(function)`` puts a kernel in place; there is one already."""
    put_kernel(monkeypatch)
    return partial(put_kernel, monkeypatch)


@pytest.fixture(autouse=True)
def _as_small_as_can_be_and_no_gpu_is_asked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_layers, "MULTIPLE", 16)
    monkeypatch.setattr(fastest, "_give_back", lambda settings: None)  # among all that tests leave, it takes its time


class Clock:
    """Time passes where a way says so, and is otherwise a little each time that somebody looks."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1e-6
        return self.now

    def way(self, seconds, function=exact):
        """A way that takes so long, in which something is done."""

        def run(lstm, x, h, c):
            self.now += seconds
            return function(lstm, x, h, c)

        return run


MEASURING = {"make_step": partial(GraphedStep, aside=lambda work: work(), record=replayed)}


@pytest.fixture
def timed(monkeypatch, kernel):
    """``timed(way=seconds, ...)`` has ways take so long a layer, others a second; returns the clock."""

    def put(**seconds):
        clock = Clock()
        real = gpu_layers.set_way

        def with_times(model, way):
            real(model, way)
            for layer in model.layers:
                own = layer.way or exact
                layer.way = clock.way(seconds.get(way.replace("-", "_"), 1.0), own)

        monkeypatch.setattr(gpu_layers, "set_way", with_times)
        return clock

    return put


# The fastest


def test_the_fastest_is_kept_and_a_line_says_what_each_took(timed, capsys):
    clock = timed(padded=0.5, overlapped=0.1, kernel=0.125, kernel_overlapped=0.3)
    assert choose(build(CONFIG, 0), BATCH, SETTINGS, clock=clock, **MEASURING) == "overlapped"
    said = capsys.readouterr().err
    assert said.startswith(
        "layers    overlapped, the fastest here in ms an iteration: torch 2e+03, padded 1e+03, overlap"
    )
    assert "kernel 250, " in said
    assert said.count("\n") == 1


def test_of_two_that_are_as_fast_the_simpler_one_is_kept(timed, capsys):
    clock = timed(torch=1.0, padded=0.999, overlapped=0.99, kernel=2, kernel_overlapped=2)
    assert choose(build(CONFIG, 0), BATCH, SETTINGS, clock=clock, **MEASURING) == "torch"


def test_a_way_that_raises_is_left_out_with_the_reason(timed, kernel, capsys):
    def raises(lstm, x, h, c):
        raise ValueError("6 units are no multiple of 16.\nAnd more.")

    kernel(raises)
    clock = timed(kernel=0.01, kernel_overlapped=0.01, padded=0.5)
    assert choose(build(CONFIG, 0), BATCH, SETTINGS, clock=clock, **MEASURING) == "padded"
    said = capsys.readouterr().err
    assert "layers that are kernel are left out: 6 units are no multiple of 16.\n" in said
    assert "layers that are kernel-overlapped are left out: 6 units" in said
    assert said.count("\n") == 3


def test_a_way_that_breaks_the_gpu_itself_ends_the_run_in_a_sentence(timed, kernel, monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nand more")

    kernel(broken)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    sentence = (
        r"^the GPU could not be used any more once layers that are kernel were tried "
        r"\(CUDA error: an illegal memory access was encountered\): start again with --gpu-layers torch\.$"
    )
    with pytest.raises(InputError, match=sentence):
        choose(build(CONFIG, 0), BATCH, SETTINGS, clock=timed(), **MEASURING)
    with pytest.raises(InputError, match=sentence):
        decided("kernel")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda y, h, c: (1.05 * y, h, c), "its gradient is 0."),
        (lambda y, h, c: (y + 1, h, c), "its loss is "),
        (
            lambda y, h, c: (y.detach() + 0 * y, h, c),
            "its gradient is ",
        ),
        (lambda y, h, c: (y, h + torch.nan, c), "its loss or gradient is not finite"),
        (lambda y, h, c: (torch.where(torch.arange(T)[:, None] == 4, y.detach(), y), h, c), "its gradient is 0."),
    ],
    ids=["scaled", "moved", "without a gradient", "not a number", "without a step's gradient"],
)
def test_a_way_that_is_wrong_is_left_out_with_the_reason(timed, kernel, capsys, spoil, reason):
    kernel(lambda *args: spoil(*exact(*args)))
    clock = timed(kernel=0.01, kernel_overlapped=1.0)
    model = build(dataclasses.replace(CONFIG, rnn_size=32), 0)
    assert choose(model, BATCH, SETTINGS, clock=clock, **MEASURING) == "torch"
    assert f"layers that are kernel are left out: {reason}" in capsys.readouterr().err


def test_in_bf16_gradients_are_compared_without_the_losss_scale(timed, kernel, capsys, monkeypatch):
    on_cpu = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    monkeypatch.setattr("charrnn.step.autocast", lambda precision, device: on_cpu(enabled=precision == "bf16"))
    settings = dataclasses.replace(SETTINGS, precision="bf16")
    model = build(dataclasses.replace(CONFIG, rnn_size=32), 0)

    def other_way_round(lstm, x, h, c):
        y, h, c = exact(lstm, x, h, c)
        return 2 * y.detach() - y, h, c

    assert choose(model, BATCH, settings, clock=timed(kernel=0.01), **MEASURING) == "kernel"
    assert "left out" not in capsys.readouterr().err
    kernel(other_way_round)
    assert choose(model, BATCH, settings, clock=timed(kernel=0.01), **MEASURING) == "torch"
    assert "layers that are kernel are left out: its gradient is " in capsys.readouterr().err


def test_a_way_that_rounds_otherwise_is_no_other_network(timed, kernel):
    kernel(lambda *args: tuple(t.half().float() for t in exact(*args)))
    clock = timed(kernel=0.01)
    assert choose(build(CONFIG, 0), BATCH, SETTINGS, clock=clock, **MEASURING) == "kernel"


def test_a_way_is_held_to_the_exact_numbers_and_may_be_twice_as_far_from_them_as_torchs():
    def found(*off):
        return trial.Trial(torch.ones(4, 2), [torch.ones(5) + error for error in off])

    def wrong(of_it, of_torch):
        return trial.difference(found(0, of_it), found(0, of_torch), found(0, 0), SETTINGS)

    assert wrong(0.02, 0) == wrong(0.39, 0.2) == wrong(0, 0.4) == ""
    assert wrong(0.03, 0) == "its gradient is 0.03 away from the exact one, and rounding explains 0.025"
    assert wrong(0.41, 0.2) == "its gradient is 0.41 away from the exact one, and rounding explains 0.4"


def test_a_kernel_that_gives_up_is_left_out_and_the_next_one_begins_anew(timed, kernel, capsys):
    def gives_up(lstm, x, h, c):
        if x.shape[1] < T:  # beside others
            module.flag.fill_(1)
        return exact(lstm, x, h, c)

    module = kernel(gives_up)
    config = dataclasses.replace(CONFIG, layers=4)
    clock = timed(kernel=0.1, kernel_overlapped=0.01)
    assert choose(build(config, 0), BATCH, SETTINGS, clock=clock, **MEASURING) == "kernel"
    said = capsys.readouterr().err
    assert "layers that are kernel-overlapped are left out: its programs waited for each other in vain.\n" in said
    assert module.flag.item() == 0


def test_where_torchs_own_way_fails_it_is_torchs_without_a_measurement(capsys):
    def fails(model, optimizer, settings):
        raise RuntimeError("CUDA out of memory. Tried to allocate")

    assert choose(build(CONFIG, 0), BATCH, SETTINGS, make_step=fails, clock=Clock()) == "torch"
    assert capsys.readouterr().err.startswith(
        "the layers are torch's, and other ways to compute them not measured: CUDA out"
    )


def test_a_step_that_cannot_be_recorded_counts_as_a_failure():
    def fails(work):
        raise RuntimeError("operation not permitted when stream is capturing")

    step = partial(trial._RecordedStep, aside=lambda work: work(), record=fails)
    with pytest.raises(RuntimeError, match="not permitted"):
        trial.measure("torch", build(CONFIG, 0), BATCH, SETTINGS, step, Clock())


def test_measuring_changes_neither_the_network_nor_random_numbers(timed):
    model = build(dataclasses.replace(CONFIG, dropout=0.5), 0)
    before, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    choose(model, BATCH, SETTINGS, quiet=True, clock=timed(overlapped=0.5), **MEASURING)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(layer.way is None for layer in model.layers)
    assert model.wavefront is model.failures is None
    assert model.dropout.p == 0.5
    assert all(p.grad is None for p in model.parameters())


def test_what_was_measured_with_is_thrown_away(timed, monkeypatch):
    made = []
    monkeypatch.setattr(fastest, "_give_back", GIVE_BACK)

    class Watched(trial.Copy):
        def __init__(self, *args):
            super().__init__(*args)
            made.extend(weakref.ref(kept) for kept in (self.model, self.step, self.step.optimizer))

    monkeypatch.setattr(trial, "Copy", Watched)
    choose(build(CONFIG, 0), BATCH, SETTINGS, quiet=True, clock=timed(overlapped=0.5), **MEASURING)
    assert len(made) == 3 * (1 + 5)
    assert not any(kept() for kept in made)


def test_quietly_it_says_nothing(timed, kernel, capsys):
    kernel(lambda *args: 1 / 0)
    choose(build(CONFIG, 0), BATCH, SETTINGS, quiet=True, clock=timed(overlapped=0.5), **MEASURING)
    assert capsys.readouterr().err == ""


def test_cudnns_persistent_kernels_are_not_tried_beside_each_other(monkeypatch):
    """If each waited for a place that another has, the run would hang."""
    monkeypatch.setattr(gpu_layers, "MULTIPLE", 128)

    def tried(rows=8, precision="bf16", **changes):
        model = build(dataclasses.replace(CONFIG, rnn_size=128, layers=3, **changes), 0)
        return fastest._to_be_tried(model, rows, dataclasses.replace(SETTINGS, precision=precision))

    most = ["torch", "padded", "overlapped", "kernel", "kernel-overlapped"]
    assert tried() == ["torch", "padded", "kernel", "kernel-overlapped"]
    assert tried(rows=50) == tried(precision="fp32") == most
    model = build(dataclasses.replace(CONFIG, rnn_size=680, layers=3), 0)
    assert fastest._to_be_tried(model, 8, SETTINGS) == most
    assert decided("padded-overlapped") == "padded-overlapped"  # who asks for it may have it


def test_a_network_with_one_way_is_not_measured(capsys):
    assert choose(build(dataclasses.replace(CONFIG, cell="gru", layers=1), 0), BATCH, SETTINGS) == "torch"
    assert capsys.readouterr().err == ""


def test_slow_ways_are_measured_in_few_iterations_and_fast_ones_in_ten_a_round(kernel):
    for seconds, count in ((10.0, 4 + 1 + 3), (1e-9, 4 + 1 + 30)):
        clock = Clock()
        kernel(clock.way(seconds))
        assert (
            len(trial.measure("kernel", build(CONFIG, 0), BATCH, SETTINGS, **MEASURING, clock=clock).outcomes) == count
        )


# The decision of a run


def decided(asked, model=None, processes=1, **changes):
    return decide(asked, model or build(CONFIG, 0), lambda: BATCH, dataclasses.replace(SETTINGS, **changes), processes)


def test_auto_is_torchs_on_a_cpu_an_apple_and_on_several_processes_at_once_and_silently(monkeypatch, capsys):
    monkeypatch.setattr(fastest, "choose", lambda *args: pytest.fail("it was measured"))
    assert decided("auto", device="cpu") == decided("auto", device="mps") == decided("auto", processes=2) == "torch"
    assert capsys.readouterr().err == ""


def test_auto_is_the_fastest_on_a_gpu(monkeypatch):
    monkeypatch.setattr(fastest, "choose", lambda model, batch, settings, quiet: "overlapped" if batch is BATCH else "")
    assert decided("auto") == "overlapped"


@pytest.mark.parametrize("way", GPU_LAYERS)
def test_a_way_that_was_asked_for_is_kept_if_it_can_be_gone(kernel, way, capsys):
    assert decided(way) == decided(way, processes=2) == way
    assert capsys.readouterr().err == ""


def test_a_way_that_cannot_be_gone_is_refused_in_a_sentence(kernel):
    gru = build(dataclasses.replace(CONFIG, cell="gru"), 0)
    with pytest.raises(
        InputError, match=r"^--gpu-layers padded is not possible here \(a network of 2 x gru has no layers "
    ):
        decided("padded", gru)
    with pytest.raises(
        InputError, match=r"it is for NVIDIA GPUs, and this run is on cpu\): leave it out, or say torch\.$"
    ):
        decided("overlapped", device="cpu")
    kernel(lambda *args: 1 / 0)
    with pytest.raises(InputError, match=r"kernel is not possible here \(division by zero\)"):
        decided("kernel")
    module = kernel(lambda *args: module.flag.fill_(1) is not None and exact(*args))
    with pytest.raises(InputError, match=r"waited for each other in vain"):
        decided("kernel")
    assert module.flag.item() == 0
    assert decided("torch", device="cpu") == "torch"


def test_without_triton_the_kernel_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "charrnn.kernel_lstm", None)
    with pytest.raises(InputError, match=r"^--gpu-layers kernel is not possible here \(import of charrnn.kernel_lstm"):
        decided("kernel")


def test_a_run_that_goes_on_keeps_its_way_on_a_gpu_and_for_a_gpu(kernel, capsys):
    assert decided(None, gpu_layers="kernel") == "kernel"
    assert decided(None, gpu_layers="kernel", device="cpu") == "kernel"
    assert decided(None) == "torch"
    assert capsys.readouterr().err == ""


def test_a_run_that_goes_on_where_its_way_is_not_possible_says_so_and_takes_torchs(kernel, capsys):
    kernel(lambda *args: 1 / 0)
    assert decided(None, gpu_layers="kernel") == "torch"
    said = capsys.readouterr().err
    assert said == (
        "the run's layers were kernel, which is not possible here (division by zero): it goes on with torch's.\n"
    )
