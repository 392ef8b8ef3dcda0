"""Triton kernels for linear prediction of samples.

A program computes the coefficients of one predictor from one window, and the predictions for which they are used:
autocorrelation, Schur's recursion and sums are in double precision and in the order of the reference where the order
counts. The recursion exchanges numbers between threads through a scratch in the GPU's memory.

N rows. `charrnn.cuda.predictor` allocates the arrays.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["steps", "blocks"])
def predict_blocks(  # type: ignore[no-untyped-def]
    samples,  # (N, HISTORY + steps) fp32
    phase,  # (N,) int32
    window,  # (LENGTH,) fp32
    numbers,  # (5,) fp64, from `charrnn.cuda.predictor`
    values,  # (N, steps + 1, PREDICTORS) fp32, from this predictor's on
    scratch,  # (programs, 6, WIDTH) fp64
    steps,
    blocks,
    ORDER: tl.constexpr,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,  # more than ORDER, a power of two
    HISTORY: tl.constexpr,
    HOP: tl.constexpr,
    PREDICTORS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Compute the coefficients of a row's block, and the predictions of its positions; the grid is (N blocks,)."""
    program = tl.program_id(0)
    row, block = program // blocks, program % blocks
    own = samples + row * (HISTORY + steps)
    first = block * HOP - tl.load(phase + row) % HOP  # of the block's positions
    if first <= steps:
        mine = scratch + program * 6 * WIDTH
        a = _solve(own + HISTORY + first, window, numbers, mine, ORDER, LENGTH, WIDTH, CHUNK)
        for position in range(first, first + HOP):
            if (position >= 0) & (position <= steps):
                at = (row * (steps + 1) + position) * PREDICTORS
                tl.store(values + at, _prediction(own + HISTORY + position, a, ORDER, WIDTH))


@triton.jit
def predict_step(  # type: ignore[no-untyped-def]
    samples,  # (N, HISTORY + 1) fp32; to begin, (N, HISTORY)
    phase,
    window,
    numbers,
    values,  # (N, 2, PREDICTORS)
    scratch,  # (N, 6, ·)
    kept,  # (N, WIDTH) fp64: the coefficients that a stream uses
    BEGIN: tl.constexpr,
    ORDER: tl.constexpr,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    HISTORY: tl.constexpr,
    HOP: tl.constexpr,
    PREDICTORS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Predict the last sample and the next one with the coefficients that are kept, or keep the first ones."""
    row, i = tl.program_id(0), tl.arange(0, WIDTH)
    used = tl.load(phase + row) % HOP
    own, mine, stored = samples + row * (HISTORY + 1 - BEGIN), scratch + row * 6 * WIDTH, kept + row * WIDTH
    if BEGIN:
        a = _solve(own + HISTORY - used, window, numbers, mine, ORDER, LENGTH, WIDTH, CHUNK)
        tl.store(stored + i, a)
    else:
        a = tl.load(stored + i)
        at = row * 2 * PREDICTORS
        tl.store(values + at, _prediction(own + HISTORY, a, ORDER, WIDTH))
        if used == HOP - 1:
            a = _solve(own + HISTORY + 1, window, numbers, mine, ORDER, LENGTH, WIDTH, CHUNK)
            tl.store(stored + i, a)
        tl.store(values + at + PREDICTORS, _prediction(own + HISTORY + 1, a, ORDER, WIDTH))


@triton.jit
def _solve(  # type: ignore[no-untyped-def]
    end,
    window,
    numbers,
    scratch,
    ORDER: tl.constexpr,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Return the coefficients (WIDTH,) from the LENGTH samples before ``end``.

    `charrnn.data.predictor.schur` drops the first element of u and the last of v in each step. Here both stay in their
    places, and v is shifted.
    """
    i = tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH, CHUNK), tl.float64)
    for start in range(0, LENGTH, CHUNK):
        now = start + tl.arange(0, CHUNK)
        before = now[None, :] - i[:, None]
        x = tl.load(end - LENGTH + now) * tl.load(window + now)
        inside = before >= 0
        y = tl.load(end - LENGTH + before, mask=inside, other=0.0) * tl.load(window + before, mask=inside, other=0.0)
        total += x[None, :].to(tl.float64) * y.to(tl.float64)
    v = tl.sum(total, 1)  # the autocorrelation, in whole numbers
    tl.store(scratch + i, v)
    tl.debug_barrier()
    u = tl.load(scratch + i + 1, mask=i < ORDER, other=0.0)
    v = tl.where(i == 0, v * tl.load(numbers) + tl.load(numbers + 1), v)
    a = tl.zeros((WIDTH,), tl.float64)
    tl.debug_barrier()
    for m in range(ORDER):
        rows = scratch + m % 2 * 3 * WIDTH  # alternate, so that one barrier per step is enough
        tl.store(rows + i, u)
        tl.store(rows + WIDTH + i, v)
        tl.store(rows + 2 * WIDTH + i, a)
        tl.debug_barrier()
        first_u, first_v = tl.load(rows + m), tl.load(rows + WIDTH + m)
        k = first_u / first_v
        reversed_a = tl.load(rows + 2 * WIDTH + m - 1 - i, mask=i < m, other=0.0)
        a = tl.where(i < m, a - k * reversed_a, tl.where(i == m, k, 0.0))
        u_before = tl.load(rows + i - 1, mask=i > m, other=0.0)
        v_before = tl.load(rows + WIDTH + i - 1, mask=i > m, other=0.0)
        u, v = u - k * v, v_before - k * u_before
    resolution, largest, whole = tl.load(numbers + 2), tl.load(numbers + 3), tl.load(numbers + 4)
    a = tl.maximum(tl.minimum(a * resolution, largest * resolution), -largest * resolution)
    return ((a + whole) - whole) / resolution


@triton.jit
def _prediction(end, a, ORDER: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the prediction from the samples before ``end``. It is an exact sum, and so the same in any order."""
    i = tl.arange(0, WIDTH)
    history = tl.load(end - 1 - i, mask=i < ORDER, other=0.0)
    return tl.minimum(tl.maximum(tl.sum(a * history.to(tl.float64), 0), -128.0), 127.0)
