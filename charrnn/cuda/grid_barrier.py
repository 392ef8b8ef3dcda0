"""A barrier of all programs of a Triton kernel, for kernels that run for many steps.

The programs of such a kernel must be on the GPU at the same time: it is launched cooperatively, and the driver
rejects a grid that does not fit. A barrier is an integer in the GPU's memory, zero when the kernel starts, to which
every program adds one. A program that waits until it is a multiple of their number has waited for all of them. Arriving
and waiting are separate functions, so that a program can do independent work in between.

Waiting is limited: a program that reaches the limit of spins continues with wrong numbers, and the kernel must report
that.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

SPIN_LIMIT = 1 << 24  # reads of a barrier before a program stops waiting: several seconds

# Triton's interpreter has no PTX. It reads the barrier by adding zero.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y"))


@triton.jit
def arrive(barrier):  # type: ignore[no-untyped-def]
    """Signal that all stores of this program so far are visible to the programs that wait."""
    tl.debug_barrier()  # all threads of the program are here
    tl.atomic_add(barrier, 1, sem="release", scope="gpu")


@triton.jit
def count_arrivals(barrier, FIRST_THREAD_ONLY: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return how many programs have arrived; what they stored before is visible after. See `wait`."""
    if INTERPRETED:
        arrived = tl.atomic_add(barrier, 0, sem="acquire", scope="gpu")
    elif FIRST_THREAD_ONLY:
        arrived = tl.inline_asm_elementwise(
            """{
            .reg .pred %first;
            .reg .u32 %thread;
            mov.u32 %thread, %tid.x;
            setp.eq.u32 %first, %thread, 0;
            mov.u32 $0, 0x7fffffff;
            @%first ld.acquire.gpu.global.u32 $0, [$1];
            }""",
            "=&r,l",
            [barrier],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
    else:
        arrived = tl.inline_asm_elementwise(
            "ld.acquire.gpu.global.u32 $0, [$1];", "=r,l", [barrier], dtype=tl.int32, is_pure=False, pack=1
        )
    return arrived


@triton.jit
def wait(barrier, arrivals, spins, FIRST_THREAD_ONLY: tl.constexpr = True):  # type: ignore[no-untyped-def]
    """Wait until ``arrivals`` programs have arrived in all; return the limit of spins, or 0 after a timeout.

    With FIRST_THREAD_ONLY, only the first thread reads the barrier, so that the warps of hundreds of programs do not
    contend for its cache line; the others wait for that thread. It is the thread that stores scalars, so its result
    counts. Without it all threads read the barrier, for kernels that use almost all registers: in a loop that threads
    leave one by one, the compiler uses no uniform registers.
    """
    left = spins
    while (count_arrivals(barrier, FIRST_THREAD_ONLY) < arrivals) & (left > 0):
        left -= 1
    tl.debug_barrier()  # no thread continues before the first one has seen the arrivals
    return tl.where(left > 0, spins, 0)
