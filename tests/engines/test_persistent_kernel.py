"""The persistent kernel's programs share the work and synchronise: each is a process here, in Triton's interpreter."""

import itertools

import hopper
import numpy as np
import pytest
import torch
from engine_inputs import perturbed, uniform_numbers
from pairwise import pairwise
from programs import run_together, unevenly

triton = pytest.importorskip("triton", reason="kernels are tested where Triton is installed")

from charrnn.engines.cuda import persistent, persistent_kernel  # noqa: E402
from charrnn.engines.cuda.persistent import PersistentSampler, pack, plan, supports  # noqa: E402
from charrnn.engines.eager import EagerEngine  # noqa: E402
from charrnn.models.char_rnn import ModelConfig, build  # noqa: E402

pytestmark = pytest.mark.integration

CONFIG = ModelConfig(vocab_size=21, wordvec_size=5, rnn_size=18, layers=2, layer_norm=True)


class Processes(PersistentSampler):
    """Sampler whose programs are processes."""

    def _launch(self, *arguments, **constants):
        copies = [a.clone().share_memory_() if torch.is_tensor(a) else a for a in arguments]
        run_together(persistent_kernel.sample_steps, self.plan.programs, *copies, **constants)
        for argument, copy in zip(arguments, copies, strict=True):
            if torch.is_tensor(argument):
                argument.copy_(copy)


def network(config=CONFIG):
    return perturbed(config, sharpness=4)


def symbols_of(model, streams, temperature, kind=PersistentSampler, programs=1, steps=6):
    """Return the sampled symbols (N, T) and the state after them."""
    u = uniform_numbers(steps, streams)
    last = torch.from_numpy((u[0] * np.float64(model.config.vocab_size)).astype(np.int64))
    first = last.clone()
    sampler = kind(
        model, torch.float32, last, torch.full((streams,), temperature or 1.0, dtype=torch.float64), programs
    )
    assert sampler.plan.programs == programs
    ids = sampler.run("draw" if temperature else "likeliest", torch.from_numpy(u[1:].astype(np.float64)))
    sampler.check()
    np.testing.assert_array_equal(ids[-1], last)
    return torch.cat([first[None], ids]).T.numpy(), [t.clone() for layer in sampler.state for t in layer]


@pytest.mark.parametrize(("programs", "streams"), [(5, 1), (2, 2), (5, 18)])
def test_for_any_number_of_programs_the_symbols_are_those_of_the_eager_engine(programs, streams):
    model = network()
    expected = EagerEngine(model, streams).run(uniform_numbers(4, streams), 0.9)
    found, state = symbols_of(model, streams, 0.9, Processes, programs, steps=4)
    np.testing.assert_array_equal(found, expected)
    _, alone = symbols_of(model, streams, 0.9, steps=4)
    assert all(torch.equal(a, b) for a, b in zip(state, alone, strict=True))


def test_several_programs_find_the_likeliest_symbols():
    model, streams = network(), 2
    expected = EagerEngine(model, streams).run(uniform_numbers(6, streams), 0.0)
    np.testing.assert_array_equal(symbols_of(model, streams, 0.0, Processes, 3)[0], expected)


@pytest.mark.parametrize("streams", [1, 2])
def test_programs_without_logits_wait_for_those_that_have_some(streams):
    model = network(ModelConfig(vocab_size=3, wordvec_size=5, rnn_size=18, layers=1))
    expected = EagerEngine(model, streams).run(uniform_numbers(12, streams), 0.9)
    with unevenly(0):
        found, _ = symbols_of(model, streams, 0.9, Processes, 5, steps=12)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vocab_size", "layers", "streams", "seed"), pairwise((3, 40), (1, 2, 3), (1, 2, 18), range(3))
)
def test_programs_of_uneven_speed_sample_what_the_eager_engine_samples(vocab_size, layers, streams, seed):
    model = network(ModelConfig(vocab_size, wordvec_size=5, rnn_size=14, layers=layers, layer_norm=seed % 2 == 0))
    expected = EagerEngine(model, streams).run(uniform_numbers(10, streams), 0.9)
    with unevenly(seed):
        found, _ = symbols_of(model, streams, 0.9, Processes, 2 + (seed + layers) % 3, steps=10)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_a_hundred_steps_of_many_programs_are_those_of_the_eager_engine():
    model, steps = network(), 100
    expected = EagerEngine(model, 1).run(uniform_numbers(steps, 1), 1.0)
    np.testing.assert_array_equal(symbols_of(model, 1, 1.0, Processes, 5, steps)[0], expected)


def test_streams_in_several_blocks_of_rows_are_computed_like_others(monkeypatch):
    monkeypatch.setattr(persistent, "MAX_ROWS", 16)
    model, streams = network(), 35
    found, _ = symbols_of(model, streams, 0.9, Processes, 4, steps=3)
    np.testing.assert_array_equal(found, EagerEngine(model, streams).run(uniform_numbers(3, streams), 0.9))


def test_launches_of_a_few_steps_equal_one_long_launch(monkeypatch):
    whole, state = symbols_of(network(), 2, 0.9, steps=8)
    monkeypatch.setattr(persistent, "STEPS", 3)
    parts, same = symbols_of(network(), 2, 0.9, steps=8)
    np.testing.assert_array_equal(parts, whole)
    assert all(torch.equal(a, b) for a, b in zip(state, same, strict=True))


def test_a_barrier_that_times_out_is_reported(monkeypatch):
    monkeypatch.setattr(persistent, "SPIN_LIMIT", 3)
    last, temperatures = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.float64)
    # In one process the programs run one after the other, so the first one waits for the second.
    sampler = PersistentSampler(network(), torch.float32, last, temperatures, programs=2)
    sampler.run("draw", torch.rand(2, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="timed out"):
        sampler.check()


def test_a_normalised_network_is_folded_into_weights_that_give_the_same_gates():
    model = network()
    packed = pack(model, torch.float32)
    z = torch.randn(18, generator=torch.Generator().manual_seed(0))
    norm, upper = model.norms[0], model.layers[1]
    expected = upper.weight_ih_l0 @ norm(z) + upper.bias_ih_l0
    deviation = (z.var(unbiased=False) + norm.eps).sqrt()
    found = (packed.w[1, :, :18] @ z - z.mean() * packed.w_sums[1]) / deviation + packed.bias[1]
    torch.testing.assert_close(found.view(18, 4).T.flatten(), expected, atol=1e-5, rtol=1e-5)
    assert not packed.w[:, :, 18:].any()
    assert not packed.u[:, :, 18:].any()


def test_a_plan_gives_every_program_an_item_of_each_layer_and_fits_its_registers():
    sizes = ((680, 2), (680, 4), (6, 2), (2048, 2), (2048, 4))
    for streams, (units, size) in itertools.product((1, 2, 16, 17, 64, 65, 512, 5000), sizes):
        made = plan(units, streams, size, 264)
        items = -(-units // made.units) * -(-streams // made.rows)
        assert 1 <= made.programs <= min(264, items)
        assert (made.rows == 1) == (streams == 1)
        if streams == 1:
            assert 4 * made.units * units * size <= 2 * persistent.PRELOAD
        else:
            assert made.rows >= 16  # the smallest product of tensor cores
            assert 4 * made.units >= 16


def test_a_product_prefetches_as_many_stages_as_fit_in_shared_memory():
    assert plan(680, 64, 2, 264).stages == 6
    assert plan(680, 64, 4, 264).stages == 4
    assert plan(680, 64, 2, 264, shared=100 << 10).stages == 3  # a smaller GPU


def test_networks_that_exceed_its_limits_are_not_supported():
    assert supports(build(CONFIG, 0))
    assert not supports(build(ModelConfig(5000, 5, 6, 1), 0))
    assert not supports(build(ModelConfig(7, 5, 6, 2, cell="lstmp"), 0))
    assert not supports(build(ModelConfig(7, 1, 2049, 1), 0))


COMPILE = """
import json, sys, torch
from hopper import pretend, usage
from charrnn.engines.cuda import persistent, persistent_kernel
from charrnn.models.char_rnn import ModelConfig, build

pretend()
made = []

class Compiled(persistent.PersistentSampler):
    def _launch(self, *arguments, **constants):
        grid, options = (self.plan.programs,), persistent.launch_options(self.plan)
        made.append(persistent_kernel.sample_steps.warmup(*arguments, grid=grid, **constants, **options))

streams, dtype, kind = eval(sys.argv[1])
last, temperatures = torch.zeros(streams, dtype=torch.int64), torch.ones(streams, dtype=torch.float64)
model = Compiled(build(ModelConfig(256, layer_norm=True), 0), dtype, last, temperatures, programs=264)
feed = torch.zeros(9, streams, dtype=torch.int64 if kind == "read" else torch.float64)
for part in (feed, feed[1:], feed[:1]):
    model.run(kind, part)
assert made[0] is made[1] is made[2], "it was compiled again"
print(json.dumps(usage(made[0])))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("streams", "dtype", "kind"),
    pairwise((1, 16, 64, 512), ("torch.bfloat16", "torch.float32"), ("draw", "read", "likeliest")),
)
def test_for_a_hopper_gpu_it_is_compiled_once_fits_twice_on_a_multiprocessor_and_spills_nothing(streams, dtype, kind):
    found = hopper.run(COMPILE, f"({streams}, {dtype}, {kind!r})")
    half_precision = dtype == "torch.bfloat16"
    assert found["shared"] <= 113 * 1024  # the system reserves one of 114
    assert found["REG"] <= 255
    assert found["STACK"] == 0 if half_precision else found["STACK"] < 100
    assert found["ld.acquire.gpu"] >= 3
    assert found[".global.gpu.release.add"] >= 2
    assert (found["wgmma.mma_async"] > 0) == (streams >= 64 and half_precision)
    assert (found["mma.sync"] > 0) == (streams == 16 and half_precision)
