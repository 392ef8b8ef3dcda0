"""Persistent kernels of an LSTM layer, forward and backward, in Triton: all steps in one launch.

A step needs h of the step before, so steps run one after the other. They are short: reading U from the GPU's memory and
launching kernels would be most of their time. Here each program stays on its multiprocessor, with its own rows of U in
shared memory and its own c in registers. Programs exchange data through the GPU's L2 cache, with one barrier per step
(`charrnn.cuda.grid_barrier`): h in the forward pass, and contributions to the gradient of h in the backward pass. After
Diamos et al. 2016, Persistent RNNs.

A program owns some units, with all four gates of each, of some rows. Tiles of gates are (4 units, rows), because a
tensor-core product on Hopper has 64 rows and as few as 8 columns. All other tiles are (rows, units), as in memory.

The tiles of H units cover a multiple of 64, the pitch. Beyond H weights and gates are read as zeros, so that h and the
gradients of the gates are zero there.
"""

from __future__ import annotations

import triton
import triton.language as tl

from charrnn.cuda.grid_barrier import INTERPRETED, arrive, wait

# All threads wait (FIRST_THREAD_ONLY of `charrnn.cuda.grid_barrier.wait` is False), because registers are scarce here.
LINE = tl.constexpr(32)  # int32s from one barrier to the next, so that each has a cache line of its own


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _load_four(x, mask, H: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load the four gates at x, each H further than the one before."""
    i = tl.load(x, mask=mask, other=0.0)
    f = tl.load(x + H, mask=mask, other=0.0)
    g = tl.load(x + 2 * H, mask=mask, other=0.0)
    o = tl.load(x + 3 * H, mask=mask, other=0.0)
    return i, f, g, o


@triton.jit
def _store_four(x, i, f, g, o, mask, H: tl.constexpr):  # type: ignore[no-untyped-def]
    kind: tl.constexpr = x.dtype.element_ty
    tl.store(x, i.to(kind), mask=mask)
    tl.store(x + H, f.to(kind), mask=mask)
    tl.store(x + 2 * H, g.to(kind), mask=mask)
    tl.store(x + 3 * H, o.to(kind), mask=mask)


@triton.jit
def _partition(n, rows_each, PITCH: tl.constexpr, UNITS: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return a program's block of rows, its number in the block, its rows, which of them exist, and its units."""
    block = tl.program_id(0) // (PITCH // UNITS)
    program = tl.program_id(0) % (PITCH // UNITS)
    row = tl.arange(0, ROWS)
    rows = block * rows_each + row
    return block, program, rows, (row < rows_each) & (rows < n), program * UNITS + tl.arange(0, UNITS)


@triton.jit
def _load_weights(  # type: ignore[no-untyped-def]
    u,
    first,
    H: tl.constexpr,
    UNITS: tl.constexpr,
    PIECES: tl.constexpr,
    REGISTER_PIECES: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    """Load the rows of U (4 H, H) that a program owns, the four gates of a unit next to each other, in pieces
    (4 units, piece), or (piece, 4 units) if TRANSPOSED. The first REGISTER_PIECES of them are in registers; the
    compiler keeps the others in shared memory."""
    row = tl.arange(0, 4 * UNITS)
    unit = first + row // 4
    row = ((row % 4) * H + unit) * H
    weights = ()
    start = 0
    for k in tl.static_range(len(PIECES)):
        column = start + tl.arange(0, PIECES[k])
        if TRANSPOSED:
            inside = (unit[None, :] < H) & (column[:, None] < H)
            piece = tl.load(u + row[None, :] + column[:, None], mask=inside, other=0.0)
        else:
            inside = (unit[:, None] < H) & (column[None, :] < H)
            piece = tl.load(u + row[:, None] + column[None, :], mask=inside, other=0.0)
        if k < REGISTER_PIECES and u.dtype.element_ty.primitive_bitwidth == 16:
            piece = _in_registers(piece)
        weights += (piece,)  # type: ignore[assignment]
        tl.debug_barrier()  # otherwise the compiler issues all loads at once, and runs out of registers
        start += PIECES[k]
    return weights


@triton.jit
def _in_registers(x):  # type: ignore[no-untyped-def]
    """Return the same numbers in registers, as the product with the identity, which is exact.

    Tensor cores read their first operand from registers or from shared memory, and the latter limits products of few
    rows. The compiler moves loaded tiles to shared memory, but leaves the result of a product in registers.
    """
    k = tl.arange(0, x.shape[1])
    identity = tl.where(k[:, None] == k[None, :], 1.0, 0.0).to(x.dtype)
    return tl.dot(_factor(x), _factor(identity)).to(x.dtype)


@triton.jit
def _split(x, UNITS: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return gates (4 units, rows) as i, f, g and o (rows, units)."""
    even, odd = tl.split(tl.permute(tl.reshape(x, (UNITS, 2, 2, ROWS)), (3, 0, 1, 2)))
    i, g = tl.split(even)
    f, o = tl.split(odd)
    return i, f, g, o


@triton.jit
def _join(i, f, g, o, UNITS: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return i, f, g and o (rows, units) as gates (4 units, rows)."""
    x = tl.join(tl.join(i, g), tl.join(f, o))
    return tl.reshape(tl.permute(x, (1, 2, 3, 0)), (4 * UNITS, ROWS))


@triton.jit
def _factor(x):  # type: ignore[no-untyped-def]
    """Return an operand of a product; the interpreter would multiply the bit patterns of bf16."""
    if INTERPRETED:
        x = x.to(tl.float32)
    return x


@triton.jit
def _after_all_loads(x):  # type: ignore[no-untyped-def]
    """Return the same numbers, which the compiler treats as results that are computed after all loads are issued.
    Otherwise it would store each tile to shared memory before it issues the next load."""
    if not INTERPRETED:
        PACK: tl.constexpr = 32 // x.dtype.primitive_bitwidth
        x = tl.inline_asm_elementwise("", "=r,0", [x], dtype=x.dtype, is_pure=True, pack=PACK)
    return x


@triton.jit
def _recurrent_product(  # type: ignore[no-untyped-def]
    weights, h, rows, inside, H: tl.constexpr, UNITS: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr
):
    """Return U h of this program's units, (4 units, rows), from h (N, H) of all."""
    all_h = ()
    start = 0
    for k in tl.static_range(len(PIECES)):
        unit = start + tl.arange(0, PIECES[k])[:, None]
        # Bypass the multiprocessor's own cache, which is not coherent with the stores of others.
        mask = inside[None, :] & (unit < H)
        all_h += (tl.load(h + rows[None, :] * H + unit, mask=mask, other=0.0, cache_modifier=".cg"),)  # type: ignore[assignment]
        start += PIECES[k]
    loaded = ()
    for k in tl.static_range(len(PIECES)):
        loaded += (_after_all_loads(all_h[k]),)  # type: ignore[assignment]
    product = tl.zeros((4 * UNITS, ROWS), tl.float32)
    for k in tl.static_range(len(PIECES)):
        product = tl.dot(_factor(weights[k]), _factor(loaded[k]), product, input_precision="ieee")
    return product


@triton.jit(do_not_specialize=["n", "steps", "rows_each", "spins"])
def forward_kernel(  # type: ignore[no-untyped-def]
    gates_x,  # (T, N, 4, H): W x
    u,  # (4 H, H)
    bias,  # (4, H) fp32
    h0,  # (N, H) fp32, as the next three
    c0,
    h_last,
    c_last,
    outputs,  # (T + 1, N, H): from h0 on
    gates,  # (T, N, 4, H) fp32, or None: i, f, g, o
    cells,  # (T + 1, N, H) fp32, or None: from c0 on
    barriers,  # zeros
    failed,
    n,
    steps,
    rows_each,
    spins,
    H: tl.constexpr,
    PITCH: tl.constexpr,
    UNITS: tl.constexpr,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,
    REGISTER_PIECES: tl.constexpr,
):
    """Run all steps of a layer: outputs, last state and, for the backward pass, gates and cells."""
    block, program, rows, inside, units = _partition(n, rows_each, PITCH, UNITS, ROWS)
    spins = tl.where(tl.load(failed) == 0, spins, 0)  # after one failure, do not wait again
    barrier = barriers + block * LINE
    mask = inside[:, None] & (units[None, :] < H)
    place = rows[:, None] * H + units[None, :]
    place_four = rows[:, None] * 4 * H + units[None, :]
    weights = _load_weights(u, program * UNITS, H, UNITS, PIECES, REGISTER_PIECES, False)
    b_i, b_f, b_g, b_o = _load_four(bias + units[None, :], units[None, :] < H, H)
    h = tl.load(h0 + place, mask=mask, other=0.0)
    c = tl.load(c0 + place, mask=mask, other=0.0)
    tl.store(outputs + place, h.to(u.dtype.element_ty), mask=mask)
    arrive(barrier)
    if cells is not None:
        tl.store(cells + place, c, mask=mask)
    for t in tl.range(0, steps, num_stages=1):  # do not hoist loads of later steps
        i, f, g, o = _load_four(gates_x + place_four, mask, H)
        spins = wait(barrier, (t + 1) * (PITCH // UNITS), spins, False)
        product = _recurrent_product(weights, outputs, rows, inside, H, UNITS, ROWS, PIECES)
        u_i, u_f, u_g, u_o = _split(product, UNITS, ROWS)
        i = tl.sigmoid(i + b_i + u_i)
        f = tl.sigmoid(f + b_f + u_f)
        g = _tanh(g + b_g + u_g)
        o = tl.sigmoid(o + b_o + u_o)
        c = f * c + i * g
        h = o * _tanh(c)
        outputs += n * H
        tl.store(outputs + place, h.to(u.dtype.element_ty), mask=mask)
        arrive(barrier)  # what follows is not needed by other programs
        gates_x += n * 4 * H
        if cells is not None:
            cells += n * H
            tl.store(cells + place, c, mask=mask)
            _store_four(gates + place_four, i, f, g, o, mask, H)
            gates += n * 4 * H
    tl.store(h_last + place, h, mask=mask)
    tl.store(c_last + place, c, mask=mask)
    tl.atomic_add(failed, 1, mask=spins == 0)


@triton.jit
def _load_or_zeros(x, place, mask):  # type: ignore[no-untyped-def]
    """Load a gradient, zeros if it is None."""
    grad = tl.zeros(place.shape, tl.float32)
    if x is not None:
        grad += tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    return grad


@triton.jit
def _store_contributions(  # type: ignore[no-untyped-def]
    sums,
    weights,
    gate_grads,
    program,
    inside,
    PROGRAMS: tl.constexpr,
    UNITS: tl.constexpr,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,
):
    """Write the contribution of this program's gates (4 units, rows) to h' of all units, where each owner reads it."""
    start = 0
    for k in tl.static_range(len(PIECES)):
        product = tl.dot(_factor(weights[k]), _factor(gate_grads), input_precision="ieee")
        unit = start + tl.arange(0, PIECES[k])[:, None]
        tile = sums + (unit // UNITS * PROGRAMS + program) * ROWS * UNITS
        tile += tl.arange(0, ROWS)[None, :] * UNITS + unit % UNITS
        tl.store(tile, product.to(sums.dtype.element_ty), mask=inside[None, :])
        start += PIECES[k]


@triton.jit
def _sum_contributions(  # type: ignore[no-untyped-def]
    sums, program, mask, PROGRAMS: tl.constexpr, UNITS: tl.constexpr, ROWS: tl.constexpr
):
    """Return the sum of the contributions of all programs to this one, (rows, units), always in the same order."""
    tile = (program * PROGRAMS * ROWS + tl.arange(0, ROWS)[:, None]) * UNITS + tl.arange(0, UNITS)[None, :]
    total = tl.zeros((ROWS, UNITS), tl.float32)
    for k in tl.static_range(PROGRAMS):
        one = tl.load(sums + k * ROWS * UNITS + tile, mask=mask, other=0.0, cache_modifier=".cg")
        total += one.to(tl.float32)
    return total


@triton.jit(do_not_specialize=["y_step", "n", "steps", "rows_each", "spins"])
def backward_kernel(  # type: ignore[no-untyped-def]
    y_grad,  # (N, T, H)
    y_row,  # stride of its rows
    y_step,  # stride of its steps
    h_grad,  # (N, H) fp32, or None, as the next one
    c_grad,
    u,  # (4 H, H)
    gates,  # (T, N, 4, H) fp32
    cells,  # (T + 1, N, H) fp32
    gate_grads,  # (T, N, 4, H)
    h0_grad,  # (N, H) fp32, as the next one
    c0_grad,
    bias_grad,  # (blocks, 4, H) fp32
    sums,  # (blocks, 2, programs of a block that read, and that write, rows, units)
    barriers,  # zeros
    failed,
    n,
    steps,
    rows_each,
    spins,
    H: tl.constexpr,
    PITCH: tl.constexpr,
    UNITS: tl.constexpr,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,
    REGISTER_PIECES: tl.constexpr,
):
    """Backpropagate through time. With a' for dL/da and s for the inputs of the gates,
    h_(t-1)' = y_(t-1)' + U^T s_t', a sum to which each program contributes the terms of its own s'. Contributions
    alternate between two buffers: before a program writes to one again, it has waited for all that read from it."""
    PROGRAMS: tl.constexpr = PITCH // UNITS
    PLACE: tl.constexpr = PROGRAMS * PITCH * ROWS
    block, program, rows, inside, units = _partition(n, rows_each, PITCH, UNITS, ROWS)
    spins = tl.where(tl.load(failed) == 0, spins, 0)  # after one failure, do not wait again
    barrier = barriers + block * LINE
    sums += block * 2 * PLACE
    mask = inside[:, None] & (units[None, :] < H)
    place = rows[:, None] * H + units[None, :]
    place_four = rows[:, None] * 4 * H + units[None, :]
    place_y = rows[:, None].to(tl.int64) * y_row + units[None, :]
    weights = _load_weights(u, program * UNITS, H, UNITS, PIECES, REGISTER_PIECES, True)
    h_next, c_next = _load_or_zeros(h_grad, place, mask), _load_or_zeros(c_grad, place, mask)
    zeros = tl.zeros((ROWS, UNITS), tl.float32)
    b_i, b_f, b_g, b_o = zeros, zeros, zeros, zeros
    last = steps.to(tl.int64) - 1
    y_grad += last * y_step
    gates, gate_grads = gates + last * n * 4 * H, gate_grads + last * n * 4 * H
    cells += steps.to(tl.int64) * n * H
    c = tl.load(cells + place, mask=mask, other=0.0)
    for back in tl.range(0, steps, num_stages=1):
        h_next += _load_or_zeros(y_grad, place_y, mask)
        i, f, g, o = _load_four(gates + place_four, mask, H)
        cells -= n * H
        before = tl.load(cells + place, mask=mask, other=0.0)
        spins = wait(barrier, back * PROGRAMS, spins, False)
        h_next += _sum_contributions(sums + (back + 1) % 2 * PLACE, program, mask & (back > 0), PROGRAMS, UNITS, ROWS)
        tanh_c = _tanh(c)
        c_next += h_next * o * (1 - tanh_c * tanh_c)
        o_grad = h_next * tanh_c * o * (1 - o)
        i_grad = c_next * g * i * (1 - i)
        f_grad = c_next * before * f * (1 - f)
        g_grad = c_next * i * (1 - g * g)
        s_grad = _join(i_grad, f_grad, g_grad, o_grad, UNITS, ROWS).to(u.dtype.element_ty)
        _store_contributions(sums + back % 2 * PLACE, weights, s_grad, program, inside, PROGRAMS, UNITS, ROWS, PIECES)
        arrive(barrier)  # what follows is not needed by other programs
        _store_four(gate_grads + place_four, i_grad, f_grad, g_grad, o_grad, mask, H)
        b_i, b_f, b_g, b_o = b_i + i_grad, b_f + f_grad, b_g + g_grad, b_o + o_grad
        h_next, c_next, c = zeros, c_next * f, before
        y_grad, gates, gate_grads = y_grad - y_step, gates - n * 4 * H, gate_grads - n * 4 * H
    spins = wait(barrier, steps * PROGRAMS, spins, False)
    h_next = _sum_contributions(sums + (steps + 1) % 2 * PLACE, program, mask, PROGRAMS, UNITS, ROWS)
    tl.store(h0_grad + place, h_next, mask=mask)
    tl.store(c0_grad + place, c_next, mask=mask)
    b_i, b_f, b_g, b_o = tl.sum(b_i, 0), tl.sum(b_f, 0), tl.sum(b_g, 0), tl.sum(b_o, 0)
    _store_four(bias_grad + block * 4 * H + units, b_i, b_f, b_g, b_o, units < H, H)
    tl.atomic_add(failed, 1, mask=spins == 0)
