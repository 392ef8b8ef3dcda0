"""The resident kernel's programs share the work and really meet: each is a process here, in Triton's interpreter."""

import hopper
import numpy as np
import pytest
import torch
from programs import run_together, unevenly
from test_engines import numbers, worked

triton = pytest.importorskip("triton", reason="kernels are tested where Triton is installed")

from charrnn.engines.cuda import kernel as cuda_kernel  # noqa: E402
from charrnn.engines.cuda import resident as cuda_resident  # noqa: E402
from charrnn.engines.cuda.resident import Resident, pack, plan, suits  # noqa: E402
from charrnn.engines.eager import EagerEngine  # noqa: E402
from charrnn.models.char_rnn import ModelConfig, build  # noqa: E402

CONFIG = ModelConfig(vocab_size=21, wordvec_size=5, rnn_size=18, layers=2, layer_norm=True)


class Together(Resident):
    """Each program is a process."""

    def _launch(self, *arguments, **constants):
        copies = [a.clone().share_memory_() if torch.is_tensor(a) else a for a in arguments]
        run_together(cuda_kernel.resident, self.plan.programs, *copies, **constants)
        for argument, copy in zip(arguments, copies, strict=True):
            if torch.is_tensor(argument):
                argument.copy_(copy)


def lively(config=CONFIG):
    model = worked(config)
    with torch.no_grad():
        model.output.weight.mul_(4)
    return model.eval()


def symbols_of(model, streams, temperature, kind=Resident, programs=1, steps=6):
    """What is sampled, (N, T), and the state after it."""
    u = numbers(steps, streams)
    last = torch.from_numpy((u[0] * np.float64(model.config.vocab_size)).astype(np.int64))
    first = last.clone()
    heat = torch.tensor(temperature or 1.0, dtype=torch.float64)
    resident = kind(model, torch.float32, last, heat, programs)
    assert resident.plan.programs == programs
    ids = resident.run("draw" if temperature else "likeliest", torch.from_numpy(u[1:].astype(np.float64)))
    resident.check()
    np.testing.assert_array_equal(ids[-1], last)
    return torch.cat([first[None], ids]).T.numpy(), [t.clone() for layer in resident.state for t in layer]


@pytest.mark.parametrize("programs", [2, 5])
@pytest.mark.parametrize("streams", [1, 2, 18])
def test_whatever_the_number_of_programs_the_symbols_are_those_of_the_eager_engine(programs, streams):
    model = lively()
    wanted = EagerEngine(model, streams).run(numbers(4, streams), 0.9)
    found, state = symbols_of(model, streams, 0.9, Together, programs, steps=4)
    np.testing.assert_array_equal(found, wanted)
    _, alone = symbols_of(model, streams, 0.9, steps=4)
    assert all(torch.equal(a, b) for a, b in zip(state, alone, strict=True))


def test_the_likeliest_symbols_are_found_together():
    model, streams = lively(), 2
    wanted = EagerEngine(model, streams).run(numbers(6, streams), 0.0)
    np.testing.assert_array_equal(symbols_of(model, streams, 0.0, Together, 3)[0], wanted)


@pytest.mark.parametrize("streams", [1, 2])
def test_programs_that_have_no_logits_do_not_run_ahead_of_those_that_have(streams):
    model = lively(ModelConfig(vocab_size=3, wordvec_size=5, rnn_size=18, layers=1))
    wanted = EagerEngine(model, streams).run(numbers(12, streams), 0.9)
    with unevenly(0):
        found, _ = symbols_of(model, streams, 0.9, Together, 5, steps=12)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("streams", [1, 2, 18])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("vocab_size", [3, 40])
def test_programs_of_uneven_speed_say_what_the_eager_engine_says(vocab_size, layers, streams, seed):
    model = lively(ModelConfig(vocab_size, wordvec_size=5, rnn_size=14, layers=layers, layer_norm=seed % 2 == 0))
    wanted = EagerEngine(model, streams).run(numbers(10, streams), 0.9)
    with unevenly(seed):
        found, _ = symbols_of(model, streams, 0.9, Together, 2 + (seed + layers) % 3, steps=10)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.slow
def test_hundreds_of_steps_of_many_programs_part_from_nobody():
    model, steps = lively(), 100
    wanted = EagerEngine(model, 1).run(numbers(steps, 1), 1.0)
    np.testing.assert_array_equal(symbols_of(model, 1, 1.0, Together, 5, steps)[0], wanted)


def test_streams_in_several_blocks_of_rows_are_computed_like_others(monkeypatch):
    monkeypatch.setattr(cuda_resident, "MOST_ROWS", 16)
    model, streams = lively(), 35
    found, _ = symbols_of(model, streams, 0.9, Together, 4, steps=3)
    np.testing.assert_array_equal(found, EagerEngine(model, streams).run(numbers(3, streams), 0.9))


def test_launches_of_a_few_steps_are_one_long_one(monkeypatch):
    whole, state = symbols_of(lively(), 2, 0.9, steps=8)
    monkeypatch.setattr(cuda_resident, "STEPS", 3)
    parts, same = symbols_of(lively(), 2, 0.9, steps=8)
    np.testing.assert_array_equal(parts, whole)
    assert all(torch.equal(a, b) for a, b in zip(state, same, strict=True))


def test_programs_that_wait_in_vain_end_and_say_so(monkeypatch):
    monkeypatch.setattr(cuda_resident, "SPIN_LIMIT", 3)
    last, heat = torch.zeros(1, dtype=torch.int64), torch.ones((), dtype=torch.float64)
    resident = Resident(lively(), torch.float32, last, heat, programs=2)  # one after the other: the first one waits
    resident.run("draw", torch.rand(2, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="barrier of the GPU's kernel timed out: sample with --engine auto"):
        resident.check()


def test_a_normalised_network_is_folded_into_weights_that_give_the_same_gates():
    model = lively()
    packed = pack(model, torch.float32)
    z = torch.randn(18, generator=torch.Generator().manual_seed(0))
    norm, upper = model.norms[0], model.layers[1]
    wanted = upper.weight_ih_l0 @ norm(z) + upper.bias_ih_l0
    deviation = (z.var(unbiased=False) + norm.eps).sqrt()
    found = (packed.w[1, :, :18] @ z - z.mean() * packed.w_sums[1]) / deviation + packed.bias[1]
    torch.testing.assert_close(found.view(18, 4).T.flatten(), wanted, atol=1e-5, rtol=1e-5)
    assert not packed.w[:, :, 18:].any()
    assert not packed.u[:, :, 18:].any()


@pytest.mark.parametrize("streams", [1, 2, 16, 17, 64, 65, 512, 5000])
@pytest.mark.parametrize(("units", "size"), [(680, 2), (680, 4), (6, 2), (2048, 2), (2048, 4)])
def test_a_plan_gives_every_program_something_of_each_layer_and_fits_its_registers(streams, units, size):
    made = plan(units, streams, size, 264)
    items = -(-units // made.own) * -(-streams // made.rows)
    assert 1 <= made.programs <= min(264, items)
    assert (made.rows == 1) == (streams == 1)
    if streams == 1:
        assert 4 * made.own * units * size <= 2 * cuda_resident.AHEAD
    else:
        assert made.rows >= 16  # as tensor cores have it
        assert 4 * made.own >= 16


def test_a_product_reads_as_far_ahead_as_there_is_memory_for():
    assert plan(680, 64, 2, 264).stages == 6
    assert plan(680, 64, 4, 264).stages == 4
    assert plan(680, 64, 2, 264, shared=100 << 10).stages == 3  # of a smaller GPU


def test_it_runs_what_its_numbers_have_room_for():
    assert suits(build(CONFIG, 0))
    assert not suits(build(ModelConfig(5000, 5, 6, 1), 0))
    assert not suits(build(ModelConfig(7, 5, 6, 2, cell="lstmp"), 0))
    assert not suits(build(ModelConfig(7, 1, 2049, 1), 0))


COMPILE = """
import json, sys, torch
from hopper import pretend, usage
from charrnn.engines.cuda import kernel as cuda_kernel, resident as cuda_resident
from charrnn.models.char_rnn import ModelConfig, build

pretend()
made = []

class Compiled(cuda_resident.Resident):
    def _launch(self, *arguments, **constants):
        grid, options = (self.plan.programs,), cuda_resident.launch_options(self.plan)
        made.append(cuda_kernel.resident.warmup(*arguments, grid=grid, **constants, **options))

streams, dtype, kind = eval(sys.argv[1])
last, heat = torch.zeros(streams, dtype=torch.int64), torch.ones((), dtype=torch.float64)
model = Compiled(build(ModelConfig(256, layer_norm=True), 0), dtype, last, heat, programs=264)
feed = torch.zeros(9, streams, dtype=torch.int64 if kind == "read" else torch.float64)
for part in (feed, feed[1:], feed[:1]):
    model.run(kind, part)
assert made[0] is made[1] is made[2], "it was compiled anew"
print(json.dumps(usage(made[0])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("streams", [1, 16, 64, 512])
@pytest.mark.parametrize("dtype", ["torch.bfloat16", "torch.float32"])
@pytest.mark.parametrize("kind", ["draw", "read", "likeliest"])
def test_for_a_hopper_gpu_it_is_compiled_once_has_room_twice_on_a_multiprocessor_and_spills_nothing(
    streams, dtype, kind
):
    found = hopper.run(COMPILE, f"({streams}, {dtype}, {kind!r})")
    half_precision = dtype == "torch.bfloat16"
    assert found["shared"] <= 113 * 1024  # the system takes one of 114
    assert found["REG"] <= 255
    assert found["STACK"] == 0 if half_precision else found["STACK"] < 100
    assert found["ld.acquire.gpu"] >= 3
    assert found[".global.gpu.release.add"] >= 2
    assert (found["wgmma.mma_async"] > 0) == (streams >= 64 and half_precision)
    assert (found["mma.sync"] > 0) == (streams == 16 and half_precision)
