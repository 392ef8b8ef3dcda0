"""A barrier of all programs of a Triton kernel, for kernels that stay on a GPU over many steps.

The programs of such a kernel have to be on the GPU at the same time: it is launched cooperatively, and the driver
refuses a grid that does not fit. A barrier is an integer in the GPU's memory, zero when the kernel starts, which every
program adds one to; who waits until it is a multiple of their number has waited for all of them. Arriving and waiting
are two, so that a program can do in between what it needs nobody for.

Nothing here waits for ever: a program whose spins is over goes on, to wrong numbers, and the kernel has to say so.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

SPIN_LIMIT = 1 << 24  # looks at a barrier: seconds, if one takes half a microsecond, a guess

# Triton's interpreter knows no PTX. It looks by adding nothing, which means the same.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y"))


@triton.jit
def arrive(barrier):  # type: ignore[no-untyped-def]
    """What all threads of this program have stored so far, those who wait will see."""
    tl.debug_barrier()  # all threads of the program are here
    tl.atomic_add(barrier, 1, sem="release", scope="gpu")


@triton.jit
def seen(barrier, ONE: tl.constexpr):  # type: ignore[no-untyped-def]
    """How many have arrived; what they had stored before can be read after. See `wait`."""
    if INTERPRETED:
        arrived = tl.atomic_add(barrier, 0, sem="acquire", scope="gpu")
    elif ONE:
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
def wait(barrier, arrivals, spins, ONE: tl.constexpr = True):  # type: ignore[no-untyped-def]
    """Until so many have arrived in all; returns what is left of the spins, 0 for ever once they did not come.

    One thread looks, so that the warps of hundreds of programs do not stand in each other's way at the barrier's place;
    what it has seen the others have, once they have met it. It is the one which stores a single number, so that its
    spins is the one that counts. Not ONE: all threads look, for kernels at the limit of their registers: in a loop
    that threads leave one by one, the compiler does without the uniform ones.
    """
    left = spins
    while (seen(barrier, ONE) < arrivals) & (left > 0):
        left -= 1
    tl.debug_barrier()  # nobody reads before the thread that looks has seen it
    return tl.where(left > 0, spins, 0)
