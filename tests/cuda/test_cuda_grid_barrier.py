"""Programs of one kernel synchronise at a barrier, with a limit."""

import pytest
import torch
from programs import run_together, shared

triton = pytest.importorskip("triton", reason="kernels are tested where Triton is installed")
import triton.language as tl  # noqa: E402

from charrnn.cuda.grid_barrier import SPIN_LIMIT, arrive, wait  # noqa: E402

pytestmark = pytest.mark.integration


@triton.jit
def pass_on(numbers, barrier, steps, spins):
    """In each step, store one more than the neighbour's number of the step before."""
    me, programs = tl.program_id(0), tl.num_programs(0)
    for t in range(steps):
        number = tl.load(numbers + t * programs + (me + 1) % programs)
        tl.store(numbers + (t + 1) * programs + me, number + 1)
        arrive(barrier)
        spins = wait(barrier, (t + 1) * programs, spins)


@triton.jit
def wait_twice(left, barrier, spins):
    spins = wait(barrier, 1, spins)
    spins = wait(barrier, 0, spins)
    tl.store(left, spins)


@pytest.mark.parametrize("programs", [1, 5])
def test_stores_before_a_barrier_are_visible_after_it(programs):
    steps = 40
    numbers, barrier = shared(torch.full((steps + 1, programs), -1), torch.zeros(1, dtype=torch.int32))
    numbers[0] = torch.arange(programs) * 100
    run_together(pass_on, programs, numbers, barrier, steps, SPIN_LIMIT)
    for t in range(steps + 1):
        assert numbers[t].tolist() == [(k + t) % programs * 100 + t for k in range(programs)]
    assert barrier.item() == steps * programs


@pytest.mark.parametrize(("arrivals", "left"), [(0, 0), (1, 10)])
def test_a_program_waits_no_longer_once_the_limit_was_reached(arrivals, left):
    spins, barrier = torch.full((1,), -1, dtype=torch.int32), torch.full((1,), arrivals, dtype=torch.int32)
    wait_twice[(1,)](spins, barrier, 10)
    assert spins.item() == left
