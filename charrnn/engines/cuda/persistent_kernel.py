"""Persistent kernel: an LSTM network and the sampling of symbols, for many steps of many streams in one launch.

Its programs stay on the GPU and divide the work of each phase. A layer is a phase, the logits are one, and for more
than one stream sampling is one. A barrier (`charrnn.cuda.grid_barrier`) separates two phases, so there are L + 1 or
L + 2 per step. A program owns some units of each layer, with gates, cell and output; programs exchange only h.

A step reads all weights from the GPU's L2 cache, which stores the 19 MB of 3 x 680 in bf16, and each barrier takes
a microsecond or more. So the work of a phase that is independent of the other programs is done before the barrier:
the product of a layer with its own last output, which is half of the work, and for one stream also reading the weights
of the other half.

n streams, L layers, H units, V symbols. Rows of weights and of h are PITCH long, with zeros beyond H. A unit's four
gates are stored one after another: i, f, g, o. An item is the part of a phase that a program computes at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from charrnn.cuda.grid_barrier import INTERPRETED, arrive, wait

KINDS = {"draw": 0, "likeliest": 1, "read": 2}
LINE = tl.constexpr(32)  # int32s from one barrier to the next: each has a line of the cache for itself


# Without these options, each alignment of a feed would compile another kernel.
@triton.jit(
    do_not_specialize=["feed", "ids", "scores", "steps", "n", "spins"],
    do_not_specialize_on_alignment=["feed", "ids", "scores"],
)
def sample_steps(  # type: ignore[no-untyped-def]
    base,  # (V, 4H) fp32: the first layer's gates for each symbol
    bias,  # (L, 4H) fp32 of the layers above the first
    w,  # (L, 4H, PITCH)
    w_sums,  # (L, 4H) fp32: sums of w's rows
    u,  # (L, 4H, PITCH)
    out,  # (V, PITCH)
    out_sums,  # (V,) fp32: sums of out's rows
    out_bias,  # (V,) fp32
    h,  # (2, L, n, PITCH) in the weights' type: steps alternate, and the first one reads h[0]
    c,  # (L, n, H) fp32, in place
    logits,  # (n, V) fp32
    last,  # (n,) int64, in place
    feed,  # (steps, n): float64 numbers in [0, 1), or int64 symbols to read
    temperatures,  # (n,) float64
    ids,  # (steps, n) int64
    scores,  # (steps, n) float64: log-probabilities of symbols that are read
    barriers,  # (L + 2, LINE) int32, zeros
    failed,  # one, int32: 1 if a barrier timed out
    steps,
    n,
    spins,
    LAYERS: tl.constexpr,
    UNITS: tl.constexpr,
    SYMBOLS: tl.constexpr,
    PITCH: tl.constexpr,
    EPSILON: tl.constexpr,
    NORMED: tl.constexpr,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,  # streams per item; 1 only if n is 1
    ITEM_UNITS: tl.constexpr,  # units per item
    ITEM_LOGITS: tl.constexpr,  # logits per item
    INPUTS: tl.constexpr,  # inputs per step of a product's loop; for one stream, per read of a warp
):
    """Draw or read ``steps`` symbols of n streams, and update their state. See the top of this module."""
    SINGLE_STREAM: tl.constexpr = ROWS == 1
    GATES: tl.constexpr = 4 * UNITS
    TILES: tl.constexpr = (UNITS + ITEM_UNITS - 1) // ITEM_UNITS
    LOGIT_TILES: tl.constexpr = (SYMBOLS + ITEM_LOGITS - 1) // ITEM_LOGITS
    program, programs = tl.program_id(0), tl.num_programs(0)  # at most as many programs as items of a layer
    blocks = (n + ROWS - 1) // ROWS
    logit_programs = tl.minimum(programs, LOGIT_TILES * blocks)
    sampling_programs = tl.minimum(programs, n)
    logits_ready, symbols_ready = barriers + LAYERS * LINE, barriers + (LAYERS + 1) * LINE
    symbol = tl.load(last)
    spins = tl.where(tl.load(failed) == 0, spins, 0)  # after one failure, do not wait again
    for t in range(steps):
        old, new = h + (t % 2) * LAYERS * n * PITCH, h + ((t + 1) % 2) * LAYERS * n * PITCH
        for layer in range(LAYERS):
            for item in range(program, TILES * blocks, programs):
                rows, tile = item // TILES * ROWS + tl.arange(0, ROWS), item % TILES
                columns = tile * 4 * ITEM_UNITS + tl.arange(0, 4 * ITEM_UNITS)
                x, own_h = new + (layer - 1) * n * PITCH, old + layer * n * PITCH
                own_w, own_u = w + layer * GATES * PITCH, u + layer * GATES * PITCH
                preloaded = _preload(own_u, columns, GATES, PITCH, ROWS, INPUTS)
                gates = _product(
                    preloaded, own_h, own_u, w_sums, rows, n, columns, GATES, UNITS, PITCH, 0.0, False, ROWS, INPUTS
                )
                preloaded = _preload(own_w, columns, GATES * (layer > 0), PITCH, ROWS, INPUTS)
                offsets, inside = _offsets(layer, rows, n, tile, UNITS, ITEM_UNITS)
                cell = tl.load(c + offsets, mask=inside, other=0.0)
                item_bias = tl.load(bias + layer * GATES + columns, mask=columns < GATES, other=0.0)
                if item == program:  # the results of other programs are needed from here on
                    if layer > 0:
                        spins = wait(barriers + (layer - 1) * LINE, (t + 1) * programs, spins)
                    elif t > 0:
                        if SINGLE_STREAM:
                            spins = wait(logits_ready, t * logit_programs, spins)
                            symbol = _sample(
                                0, t - 1, program == 0, n, logits, feed, temperatures, ids, scores, KIND, SYMBOLS
                            )
                        else:
                            spins = wait(symbols_ready, t * sampling_programs, spins)
                here = (rows[:, None] < n) & (columns[None, :] < GATES)
                if layer > 0:
                    sums = w_sums + layer * GATES
                    gates += _product(
                        preloaded, x, own_w, sums, rows, n, columns, GATES, UNITS, PITCH, EPSILON, NORMED, ROWS, INPUTS
                    )
                    gates += item_bias[None, :]
                else:
                    symbols = tl.load(last + rows, mask=rows < n, other=0)
                    if SINGLE_STREAM:
                        symbols = symbols * 0 + symbol
                    gates += tl.load(base + symbols[:, None] * GATES + columns[None, :], mask=here, other=0.0)
                y, cell = _cell(gates, cell, ROWS, ITEM_UNITS)
                tl.store(c + offsets, cell, mask=inside)
                units = tile * ITEM_UNITS + tl.arange(0, ITEM_UNITS)
                y_offsets = (layer * n + rows[:, None]) * PITCH + units[None, :]
                tl.store(new + y_offsets, y.to(h.dtype.element_ty), mask=inside)
            arrive(barriers + layer * LINE)
        for item in range(program, LOGIT_TILES * blocks, programs):
            rows = item // LOGIT_TILES * ROWS + tl.arange(0, ROWS)
            columns = item % LOGIT_TILES * ITEM_LOGITS + tl.arange(0, ITEM_LOGITS)
            preloaded = _preload(out, columns, SYMBOLS, PITCH, ROWS, INPUTS)
            item_bias = tl.load(out_bias + columns, mask=columns < SYMBOLS, other=0.0)
            if item == program:
                spins = wait(barriers + (LAYERS - 1) * LINE, (t + 1) * programs, spins)
            x = new + (LAYERS - 1) * n * PITCH
            total = _product(
                preloaded, x, out, out_sums, rows, n, columns, SYMBOLS, UNITS, PITCH, EPSILON, NORMED, ROWS, INPUTS
            )
            total += item_bias[None, :]
            inside = (rows[:, None] < n) & (columns[None, :] < SYMBOLS)
            tl.store(logits + rows[:, None] * SYMBOLS + columns[None, :], total, mask=inside)
        if program < logit_programs:
            arrive(logits_ready)
        elif LAYERS == 1:  # the next step reads these outputs, and no other barrier has waited for them
            spins = wait(barriers, (t + 1) * programs, spins)
        if not SINGLE_STREAM and program < sampling_programs:
            spins = wait(logits_ready, (t + 1) * logit_programs, spins)
            for row in range(program, n, programs):
                sampled = _sample(row, t, True, n, logits, feed, temperatures, ids, scores, KIND, SYMBOLS)
                tl.store(last + row, sampled)
            arrive(symbols_ready)
    if SINGLE_STREAM:
        spins = wait(logits_ready, steps * logit_programs, spins)
        symbol = _sample(0, steps - 1, program == 0, n, logits, feed, temperatures, ids, scores, KIND, SYMBOLS)
        tl.store(last, symbol, mask=program == 0)
    tl.store(failed, 1, mask=spins <= 0)


@triton.jit
def _preload(  # type: ignore[no-untyped-def]
    weight,
    columns,
    width,
    PITCH: tl.constexpr,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """For one stream, read rows (columns, PITCH) of a matrix (width, PITCH) before a barrier.

    They are read four rows at a time in pieces (4, INPUTS), one row for each of four warps, so that a sum stays in
    a warp.
    """
    pieces = ()
    if ROWS == 1:
        four, k = tl.arange(0, 4)[:, None], tl.arange(0, INPUTS)[None, :]
        for group in tl.static_range(columns.shape[0] // 4):
            row = tl.min(columns, 0) + 4 * group + four
            for start in tl.static_range(0, PITCH, INPUTS):
                inside = (row < width) & (start + k < PITCH)
                pieces += (tl.load(weight + row * PITCH + start + k, mask=inside, other=0.0),)  # type: ignore[assignment]
    return pieces


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    preloaded,  # result of `_preload`
    x,  # (n, PITCH)
    weight,  # (width, PITCH)
    sums,  # (width,) fp32: sums of the rows of the weight
    rows,
    n,
    columns,
    width,
    UNITS: tl.constexpr,
    PITCH: tl.constexpr,
    EPSILON: tl.constexpr,
    NORMED: tl.constexpr,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Multiply x, normalised if NORMED, by the transposed weight: (ROWS, columns).

    (x - mean) / deviation W' is (x W' - mean 1 W') / deviation, so the product can begin before the mean is computed.
    """
    if ROWS == 1:
        total = _product_of_one(preloaded, x, sums, columns, width, UNITS, PITCH, EPSILON, NORMED, INPUTS)
    else:
        total = tl.zeros((ROWS, columns.shape[0]), tl.float32)
        if NORMED:
            # Sums of differences to a row's first number: their squares are small if the row is nearly constant.
            first = tl.load(x + rows * PITCH, mask=rows < n, other=0.0).to(tl.float32)
            deviations, squares = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
        for start in range(0, PITCH, INPUTS):
            k = start + tl.arange(0, INPUTS)
            z = tl.load(x + rows[:, None] * PITCH + k[None, :], mask=rows[:, None] < n, other=0.0)
            tile = tl.load(weight + columns[None, :] * PITCH + k[:, None], mask=columns[None, :] < width, other=0.0)
            total = _dot(z, tile, total)
            if NORMED:
                differences = tl.where(k[None, :] < UNITS, z.to(tl.float32) - first[:, None], 0.0)
                deviations += tl.sum(differences, 1)
                squares += tl.sum(differences * differences, 1)
        if NORMED:
            deviations = deviations / UNITS
            scale = 1 / tl.sqrt(tl.maximum(squares / UNITS - deviations * deviations, 0.0) + EPSILON)
            row_sums = tl.load(sums + columns, mask=columns < width, other=0.0)
            total = (total - (first + deviations)[:, None] * row_sums[None, :]) * scale[:, None]
    return total


@triton.jit
def _dot(a, b, total):  # type: ignore[no-untyped-def]
    if INTERPRETED:  # the interpreter treats bf16 as integers here
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def _product_of_one(  # type: ignore[no-untyped-def]
    preloaded,
    x,
    sums,
    columns,
    width,
    UNITS: tl.constexpr,
    PITCH: tl.constexpr,
    EPSILON: tl.constexpr,
    NORMED: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Compute the product for one stream's x (PITCH,) and preloaded weights: (1, columns). Every warp has all of x."""
    PIECES: tl.constexpr = (PITCH + INPUTS - 1) // INPUTS
    four, k = tl.zeros((4, 1), tl.int32), tl.arange(0, INPUTS)[None, :]
    all_z, total = (), tl.zeros((4, INPUTS), tl.float32)
    for piece in tl.static_range(PIECES):
        z = tl.load(x + four + piece * INPUTS + k, mask=four + piece * INPUTS + k < PITCH, other=0.0).to(tl.float32)
        all_z += (z,)  # type: ignore[assignment]
        total += z
    if NORMED:
        mean = tl.sum(total, 1) / UNITS  # four equal numbers, like the scale
        squares = tl.zeros((4, INPUTS), tl.float32)
        for piece in tl.static_range(PIECES):
            deviations = tl.where(piece * INPUTS + k < UNITS, all_z[piece] - mean[:, None], 0.0)
            squares += deviations * deviations
        scale = 1 / tl.sqrt(tl.sum(squares, 1) / UNITS + EPSILON)
    products_of_rows = ()
    for group in tl.static_range(columns.shape[0] // 4):
        products = tl.zeros((4, INPUTS), tl.float32)
        for piece in tl.static_range(PIECES):
            products += preloaded[group * PIECES + piece].to(tl.float32) * all_z[piece]
        product = tl.sum(products, 1)
        if NORMED:
            row = tl.min(columns, 0) + 4 * group + tl.arange(0, 4)
            product = (product - mean * tl.load(sums + row, mask=row < width, other=0.0)) * scale
        products_of_rows += (product,)  # type: ignore[assignment]
    return tl.reshape(_concatenate(products_of_rows), (1, columns.shape[0]))


@triton.jit
def _concatenate(rows):  # type: ignore[no-untyped-def]
    """Concatenate one, two or four rows (4,)."""
    if len(rows) == 1:
        row = rows[0]
    elif len(rows) == 2:
        row = tl.reshape(tl.permute(tl.join(rows[0], rows[1]), (1, 0)), (8,))
    else:
        joined = tl.join(tl.join(rows[0], rows[2]), tl.join(rows[1], rows[3]))
        row = tl.reshape(tl.permute(joined, (1, 2, 0)), (16,))
    return row


@triton.jit
def _offsets(layer, rows, n, tile, UNITS: tl.constexpr, ITEM_UNITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the offsets in c of an item's units (ROWS, ITEM_UNITS), and which of these units exist."""
    units = tile * ITEM_UNITS + tl.arange(0, ITEM_UNITS)
    inside = (rows[:, None] < n) & (units[None, :] < UNITS)
    return (layer * n + rows[:, None]) * UNITS + units[None, :], inside


@triton.jit
def _cell(gates, cell, ROWS: tl.constexpr, ITEM_UNITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return output and new cell (ROWS, ITEM_UNITS) for gates (ROWS, 4 ITEM_UNITS) and the old cell."""
    even, odd = tl.split(tl.reshape(gates, (ROWS, ITEM_UNITS, 2, 2)))  # i and g; f and o
    i, g = tl.split(even)
    f, o = tl.split(odd)
    cell = tl.sigmoid(f) * cell + tl.sigmoid(i) * (2 * tl.sigmoid(2 * g) - 1)
    return tl.sigmoid(o) * (2 * tl.sigmoid(2 * cell) - 1), cell


@triton.jit
def _sample(  # type: ignore[no-untyped-def]
    row,
    t,
    write,
    n,
    logits,
    feed,
    temperatures,
    ids,
    scores,
    KIND: tl.constexpr,
    SYMBOLS: tl.constexpr,
):
    """Store and return a stream's next symbol, in double precision like `charrnn.engines.eager.draw`."""
    WIDE: tl.constexpr = triton.next_power_of_2(SYMBOLS)
    k = tl.arange(0, WIDE)
    value, divisor = tl.load(feed + t * n + row), tl.load(temperatures + row)  # loaded together with the logits
    x = tl.load(logits + row * SYMBOLS + k, mask=k < SYMBOLS, other=-float("inf"))
    x = x.to(tl.float64) - tl.max(x, 0).to(tl.float64)
    if KIND == 0:
        p = tl.where(k < SYMBOLS, tl.exp(x / divisor), 0.0)
        cumulated = tl.cumsum(p, 0)
        border = value * tl.max(cumulated, 0)
        symbol = tl.minimum(tl.sum((cumulated <= border).to(tl.int64), 0), SYMBOLS - 1)
    elif KIND == 1:
        symbol = tl.min(tl.where(x == 0.0, k, SYMBOLS - 1), 0).to(tl.int64)
    else:
        symbol = value
        p = tl.where(k < SYMBOLS, tl.exp(x), 0.0)
        score = tl.sum(tl.where(k == symbol, x, 0.0), 0) - tl.log(tl.sum(p, 0))
        tl.store(scores + t * n + row, score, mask=write)
    tl.store(ids + t * n + row, symbol, mask=write)
    return symbol
