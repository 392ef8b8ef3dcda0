"""Programs of one kernel wait for each other, and not for ever."""

import pytest
import torch
from programs import run_together, shared

triton = pytest.importorskip("triton", reason="kernels are tested where Triton is installed")
import triton.language as tl  # noqa: E402

from charrnn.cuda.grid_barrier import SPIN_LIMIT, arrive, wait  # noqa: E402


@triton.jit
def pass_on(numbers, barrier, steps, spins):
    """Each step, a program writes down one more than its neighbour's number of the step before."""
    me, programs = tl.program_id(0), tl.num_programs(0)
    for t in range(steps):
        number = tl.load(numbers + t * programs + (me + 1) % programs)
        tl.store(numbers + (t + 1) * programs + me, number + 1)
        arrive(barrier)
        spins = wait(barrier, (t + 1) * programs, spins)


@triton.jit
def wait_in_vain(left, barrier, spins):
    spins = wait(barrier, 1, spins)
    spins = wait(barrier, 0, spins)
    tl.store(left, spins)


@pytest.mark.parametrize("programs", [1, 2, 5])
def test_what_the_others_wrote_before_a_barrier_is_read_after_it(programs):
    steps = 40
    numbers, barrier = shared(torch.full((steps + 1, programs), -1), torch.zeros(1, dtype=torch.int32))
    numbers[0] = torch.arange(programs) * 100
    run_together(pass_on, programs, numbers, barrier, steps, SPIN_LIMIT)
    for t in range(steps + 1):
        assert numbers[t].tolist() == [(k + t) % programs * 100 + t for k in range(programs)]
    assert barrier.item() == steps * programs


def test_spins_ends_and_does_not_come_back():
    left, barrier = torch.full((1,), -1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    wait_in_vain[(1,)](left, barrier, 10)
    assert left.item() == 0


def test_spins_is_whole_again_once_all_have_come():
    left, barrier = torch.full((1,), -1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    wait_in_vain[(1,)](left, barrier, 10)
    assert left.item() == 10
