"""Resident kernel: an LSTM network and the choice of symbols, for many steps of many streams in one launch.

Its programs stay on the GPU and divide the work of each phase: a layer is a phase, the logits are one, and for more
than one stream the choice is one. A barrier (`charrnn.cuda.grid_barrier`) separates two phases, so there are L + 1 or
L + 2 per step. A program owns some units of each layer, with gates, cell and output, and programs exchange only h.

What limits it: a step reads all weights from the GPU's L2 cache, which holds the 19 MB of 3 x 680 in bf16; and each
barrier takes a microsecond or more. So the work of a phase that is independent of the other programs is done before
the barrier: the product of a layer with its own last output, half of the work; and for one stream also reading the
weights of the other half.

n streams, L layers, H units, V symbols. Rows of weights and of h are PITCH long, zeros beyond H. A unit's four gates
lie one after another: i, f, g, o.
"""

from __future__ import annotations

import triton
import triton.language as tl

from charrnn.cuda.grid_barrier import INTERPRETED, arrive, wait

KINDS = {"draw": 0, "likeliest": 1, "read": 2}
LINE = tl.constexpr(32)  # int32s from one barrier to the next: each has a line of the cache for itself


# Feeds begin anywhere, and must not be what the kernel is compiled anew for.
@triton.jit(
    do_not_specialize=["feed", "ids", "scores", "steps", "n", "spins"],
    do_not_specialize_on_alignment=["feed", "ids", "scores"],
)
def resident(  # type: ignore[no-untyped-def]
    base,  # (V, 4H) fp32: of each symbol the first layer's gates
    bias,  # (L, 4H) fp32, of the layers above it
    w,  # (L, 4H, PITCH)
    w_sums,  # (L, 4H) fp32, of w's rows
    u,  # (L, 4H, PITCH)
    out,  # (V, PITCH)
    out_sums,  # (V,) fp32, of out's rows
    out_bias,  # (V,) fp32
    h,  # (2, L, n, PITCH), of the weights' type: steps take turns, the first one reads h[0]
    c,  # (L, n, H) fp32, in place
    logits,  # (n, V) fp32
    last,  # (n,) int64, in place
    feed,  # (steps, n): float64 numbers in [0, 1), or int64 symbols to read
    temperature,  # one, float64
    ids,  # (steps, n) int64
    scores,  # (steps, n) float64, of what is read
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
    ROWS: tl.constexpr,  # streams of an item; 1 only where n is 1
    OWN: tl.constexpr,  # units of an item
    SAID: tl.constexpr,  # logits of an item
    INPUTS: tl.constexpr,  # of a step of a product's loop; of one stream: that a warp takes at a time
):
    SINGLE_PROCESS: tl.constexpr = ROWS == 1
    GATES: tl.constexpr = 4 * UNITS
    TILES: tl.constexpr = (UNITS + OWN - 1) // OWN
    VOICES: tl.constexpr = (SYMBOLS + SAID - 1) // SAID
    me, programs = tl.program_id(0), tl.num_programs(0)  # no more than there are items of a layer
    blocks = (n + ROWS - 1) // ROWS
    speakers = tl.minimum(programs, VOICES * blocks)
    choosers = tl.minimum(programs, n)
    spoken, chosen = barriers + LAYERS * LINE, barriers + (LAYERS + 1) * LINE
    symbol = tl.load(last)
    spins = tl.where(tl.load(failed) == 0, spins, 0)  # after one failure, do not wait again
    for t in range(steps):
        old, new = h + (t % 2) * LAYERS * n * PITCH, h + ((t + 1) % 2) * LAYERS * n * PITCH
        for layer in range(LAYERS):
            for item in range(me, TILES * blocks, programs):
                rows, tile = item // TILES * ROWS + tl.arange(0, ROWS), item % TILES
                columns = tile * 4 * OWN + tl.arange(0, 4 * OWN)
                x, own_h = new + (layer - 1) * n * PITCH, old + layer * n * PITCH
                own_w, own_u = w + layer * GATES * PITCH, u + layer * GATES * PITCH
                ahead = _ahead(own_u, columns, GATES, PITCH, ROWS, INPUTS)
                gates = _product(
                    ahead, own_h, own_u, w_sums, rows, n, columns, GATES, UNITS, PITCH, 0.0, False, ROWS, INPUTS
                )
                ahead = _ahead(own_w, columns, GATES * (layer > 0), PITCH, ROWS, INPUTS)
                place, inside = _places(layer, rows, n, tile, UNITS, OWN)
                cell = tl.load(c + place, mask=inside, other=0.0)
                own_bias = tl.load(bias + layer * GATES + columns, mask=columns < GATES, other=0.0)
                if item == me:  # what the others do is needed from here on
                    if layer > 0:
                        spins = wait(barriers + (layer - 1) * LINE, (t + 1) * programs, spins)
                    elif t > 0:
                        if SINGLE_PROCESS:
                            spins = wait(spoken, t * speakers, spins)
                            symbol = _choose(
                                0, t - 1, me == 0, n, logits, feed, temperature, ids, scores, KIND, SYMBOLS
                            )
                        else:
                            spins = wait(chosen, t * choosers, spins)
                here = (rows[:, None] < n) & (columns[None, :] < GATES)
                if layer > 0:
                    sums = w_sums + layer * GATES
                    gates += _product(
                        ahead, x, own_w, sums, rows, n, columns, GATES, UNITS, PITCH, EPSILON, NORMED, ROWS, INPUTS
                    )
                    gates += own_bias[None, :]
                else:
                    symbols = tl.load(last + rows, mask=rows < n, other=0)
                    if SINGLE_PROCESS:
                        symbols = symbols * 0 + symbol
                    gates += tl.load(base + symbols[:, None] * GATES + columns[None, :], mask=here, other=0.0)
                y, cell = _cell(gates, cell, ROWS, OWN)
                tl.store(c + place, cell, mask=inside)
                own = tile * OWN + tl.arange(0, OWN)
                y_place = (layer * n + rows[:, None]) * PITCH + own[None, :]
                tl.store(new + y_place, y.to(h.dtype.element_ty), mask=inside)
            arrive(barriers + layer * LINE)
        for item in range(me, VOICES * blocks, programs):
            rows = item // VOICES * ROWS + tl.arange(0, ROWS)
            columns = item % VOICES * SAID + tl.arange(0, SAID)
            ahead = _ahead(out, columns, SYMBOLS, PITCH, ROWS, INPUTS)
            own_bias = tl.load(out_bias + columns, mask=columns < SYMBOLS, other=0.0)
            if item == me:
                spins = wait(barriers + (LAYERS - 1) * LINE, (t + 1) * programs, spins)
            x = new + (LAYERS - 1) * n * PITCH
            total = _product(
                ahead, x, out, out_sums, rows, n, columns, SYMBOLS, UNITS, PITCH, EPSILON, NORMED, ROWS, INPUTS
            )
            total += own_bias[None, :]
            inside = (rows[:, None] < n) & (columns[None, :] < SYMBOLS)
            tl.store(logits + rows[:, None] * SYMBOLS + columns[None, :], total, mask=inside)
        if me < speakers:
            arrive(spoken)
        elif LAYERS == 1:  # whose outputs the next step begins with, and nothing else has waited for
            spins = wait(barriers, (t + 1) * programs, spins)
        if not SINGLE_PROCESS and me < choosers:
            spins = wait(spoken, (t + 1) * speakers, spins)
            for row in range(me, n, programs):
                said = _choose(row, t, True, n, logits, feed, temperature, ids, scores, KIND, SYMBOLS)
                tl.store(last + row, said)
            arrive(chosen)
    if SINGLE_PROCESS:
        spins = wait(spoken, steps * speakers, spins)
        symbol = _choose(0, steps - 1, me == 0, n, logits, feed, temperature, ids, scores, KIND, SYMBOLS)
        tl.store(last, symbol, mask=me == 0)
    tl.store(failed, 1, mask=spins <= 0)


@triton.jit
def _ahead(  # type: ignore[no-untyped-def]
    weight,
    columns,
    width,
    PITCH: tl.constexpr,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """For one stream, rows (columns, PITCH) of a matrix (width, PITCH), read before anybody is waited for.

    They come four rows after four, in pieces (4, INPUTS): one of these rows for each of four warps, so that no sum goes
    from warp to warp.
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
    ahead,  # what `_ahead` gave
    x,  # (n, PITCH)
    weight,  # (width, PITCH)
    sums,  # (width,) fp32, of the rows of the weight
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
    """x, normalised or as it is, times weight': (ROWS, columns).

    (x - mean) / deviation W' is (x W' - mean 1 W') / deviation: so that nobody has to know the mean to begin.
    """
    if ROWS == 1:
        total = _product_of_one(ahead, x, sums, columns, width, UNITS, PITCH, EPSILON, NORMED, INPUTS)
    else:
        total = tl.zeros((ROWS, columns.shape[0]), tl.float32)
        if NORMED:
            # Sums of what is away from a row's first number, whose squares are small where the row is nearly even.
            first = tl.load(x + rows * PITCH, mask=rows < n, other=0.0).to(tl.float32)
            away, squares = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
        for start in range(0, PITCH, INPUTS):
            k = start + tl.arange(0, INPUTS)
            z = tl.load(x + rows[:, None] * PITCH + k[None, :], mask=rows[:, None] < n, other=0.0)
            tile = tl.load(weight + columns[None, :] * PITCH + k[:, None], mask=columns[None, :] < width, other=0.0)
            total = _dot(z, tile, total)
            if NORMED:
                from_first = tl.where(k[None, :] < UNITS, z.to(tl.float32) - first[:, None], 0.0)
                away += tl.sum(from_first, 1)
                squares += tl.sum(from_first * from_first, 1)
        if NORMED:
            away = away / UNITS
            scale = 1 / tl.sqrt(tl.maximum(squares / UNITS - away * away, 0.0) + EPSILON)
            row_sums = tl.load(sums + columns, mask=columns < width, other=0.0)
            total = (total - (first + away)[:, None] * row_sums[None, :]) * scale[:, None]
    return total


@triton.jit
def _dot(a, b, total):  # type: ignore[no-untyped-def]
    if INTERPRETED:  # which takes bf16 for whole numbers here
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def _product_of_one(  # type: ignore[no-untyped-def]
    ahead,
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
    """The same for one stream's x (PITCH,) and what was read ahead: (1, columns). Every warp has all of x."""
    PIECES: tl.constexpr = (PITCH + INPUTS - 1) // INPUTS
    four, k = tl.zeros((4, 1), tl.int32), tl.arange(0, INPUTS)[None, :]
    all_z, total = (), tl.zeros((4, INPUTS), tl.float32)
    for piece in tl.static_range(PIECES):
        z = tl.load(x + four + piece * INPUTS + k, mask=four + piece * INPUTS + k < PITCH, other=0.0).to(tl.float32)
        all_z += (z,)  # type: ignore[assignment]
        total += z
    if NORMED:
        mean = tl.sum(total, 1) / UNITS  # the same one four times, as the next
        squares = tl.zeros((4, INPUTS), tl.float32)
        for piece in tl.static_range(PIECES):
            away = tl.where(piece * INPUTS + k < UNITS, all_z[piece] - mean[:, None], 0.0)
            squares += away * away
        scale = 1 / tl.sqrt(tl.sum(squares, 1) / UNITS + EPSILON)
    found = ()
    for group in tl.static_range(columns.shape[0] // 4):
        products = tl.zeros((4, INPUTS), tl.float32)
        for piece in tl.static_range(PIECES):
            products += ahead[group * PIECES + piece].to(tl.float32) * all_z[piece]
        product = tl.sum(products, 1)
        if NORMED:
            row = tl.min(columns, 0) + 4 * group + tl.arange(0, 4)
            product = (product - mean * tl.load(sums + row, mask=row < width, other=0.0)) * scale
        found += (product,)  # type: ignore[assignment]
    return tl.reshape(_one_after_another(found), (1, columns.shape[0]))


@triton.jit
def _one_after_another(rows):  # type: ignore[no-untyped-def]
    """One, two or four rows (4,) as one."""
    if len(rows) == 1:
        row = rows[0]
    elif len(rows) == 2:
        row = tl.reshape(tl.permute(tl.join(rows[0], rows[1]), (1, 0)), (8,))
    else:
        joined = tl.join(tl.join(rows[0], rows[2]), tl.join(rows[1], rows[3]))
        row = tl.reshape(tl.permute(joined, (1, 2, 0)), (16,))
    return row


@triton.jit
def _places(layer, rows, n, tile, UNITS: tl.constexpr, OWN: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where an item's units (ROWS, OWN) lie in c, and which of them there are."""
    own = tile * OWN + tl.arange(0, OWN)
    inside = (rows[:, None] < n) & (own[None, :] < UNITS)
    return (layer * n + rows[:, None]) * UNITS + own[None, :], inside


@triton.jit
def _cell(gates, cell, ROWS: tl.constexpr, OWN: tl.constexpr):  # type: ignore[no-untyped-def]
    """Output and cell (ROWS, OWN) of gates (ROWS, 4 OWN) and the cell before."""
    even, odd = tl.split(tl.reshape(gates, (ROWS, OWN, 2, 2)))  # i and g; f and o
    i, g = tl.split(even)
    f, o = tl.split(odd)
    cell = tl.sigmoid(f) * cell + tl.sigmoid(i) * (2 * tl.sigmoid(2 * g) - 1)
    return tl.sigmoid(o) * (2 * tl.sigmoid(2 * cell) - 1), cell


@triton.jit
def _choose(  # type: ignore[no-untyped-def]
    row,
    t,
    write,
    n,
    logits,
    feed,
    temperature,
    ids,
    scores,
    KIND: tl.constexpr,
    SYMBOLS: tl.constexpr,
):
    """A stream's next symbol, in double precision as `charrnn.engines.eager.draw` has it; it is written down too."""
    WIDE: tl.constexpr = triton.next_power_of_2(SYMBOLS)
    k = tl.arange(0, WIDE)
    fed, heat = tl.load(feed + t * n + row), tl.load(temperature)  # on their way with the logits
    x = tl.load(logits + row * SYMBOLS + k, mask=k < SYMBOLS, other=-float("inf"))
    x = x.to(tl.float64) - tl.max(x, 0).to(tl.float64)
    if KIND == 0:
        p = tl.where(k < SYMBOLS, tl.exp(x / heat), 0.0)
        totals = tl.cumsum(p, 0)
        border = fed * tl.max(totals, 0)
        symbol = tl.minimum(tl.sum((totals <= border).to(tl.int64), 0), SYMBOLS - 1)
    elif KIND == 1:
        symbol = tl.min(tl.where(x == 0.0, k, SYMBOLS - 1), 0).to(tl.int64)
    else:
        symbol = fed
        p = tl.where(k < SYMBOLS, tl.exp(x), 0.0)
        score = tl.sum(tl.where(k == symbol, x, 0.0), 0) - tl.log(tl.sum(p, 0))
        tl.store(scores + t * n + row, score, mask=write)
    tl.store(ids + t * n + row, symbol, mask=write)
    return symbol
