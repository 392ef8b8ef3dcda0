"""An LSTM layer over all its steps in one kernel of an NVIDIA GPU, forward and backward, in Triton.

What a step waits for is h of the step before, so a sequence takes as long as its steps do one after the other, and
those are short: reading U from the GPU's memory and starting kernels are most of it. Here each program stays on its
multiprocessor, with its own rows of U in shared memory and its own c in registers, and only what programs need of each
other goes through the GPU's L2 cache, with a barrier a step (`charrnn.grid_barrier`): h on the way forward, and on the
way back what the gates' gradients add to those of all h. After Diamos et al. 2016, Persistent RNNs.

A program owns some units, with all four gates of each, of some rows. Tiles of gates are (4 units, rows): a product of
tensor cores on Hopper has 64 of the first, and as few as 8 of the second. All else is (rows, units), as memory has it.

H units are padded to a multiple of 64, the pitch, and to zeros: a padded unit's h is zero at every step, as are its
gates' gradients (see `charrnn.padding`), and they are written, so that what is read needs no mask along a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from charrnn.grid_barrier import INTERPRETED, PATIENCE, arrive, wait
from charrnn.padding import GATES, up

MULTIPLE = 64  # of the pitch: rows of one product of tensor cores, and the least piece of a sum over units
PIECE = 8192  # numbers of a tile of sums, at most: 32 of a thread's registers
LINE = 32  # integers of a line of the cache, of which each barrier has one for itself
SHARED_MEMORY = 227 * 1024  # bytes, of a program on Hopper
SPARE = 8 * 1024  # bytes of it for small tiles on their way from one thread to another
SHAPES = ((16, 16), (32, 16), (16, 32), (32, 32), (16, 64), (32, 64))  # units and rows of a program: the fastest first


class Layout(NamedTuple):
    """How the programs of a kernel share N rows and H units."""

    units: int  # of a program: a power of two
    rows: int  # of a program's tiles: a power of two
    each: int  # rows of a program that are there
    blocks: int  # of rows, which need nothing of each other
    pitch: int  # H rounded up: a multiple of the units of a program
    warps: int

    @property
    def programs(self) -> int:
        """How many there are, all at once."""
        return self.blocks * self.pitch // self.units

    @property
    def pieces(self) -> tuple[int, ...]:
        """The pitch as a sum of powers of two, which tiles have to be; large ones first."""
        most = max(PIECE // self.rows, MULTIPLE)
        rest = self.pitch % most
        powers = (1 << bit for bit in reversed(range(rest.bit_length())))
        return (most,) * (self.pitch // most) + tuple(power for power in powers if rest & power)


def shared_out(n: int, units: int, shape: tuple[int, int]) -> Layout:
    """A layout of n rows and H units over programs of a shape (units, rows)."""
    blocks = -(-n // shape[1])
    warps = 8 if GATES * shape[0] > 64 else 4  # four to every 64 rows of a tile of gates
    return Layout(*shape, -(-n // blocks), blocks, up(units, max(MULTIPLE, shape[0])), warps)


def alone(n: int, units: int) -> Layout:
    """The layout of a single program, which meets nobody: for Triton's interpreter."""
    return shared_out(n, units, (triton.next_power_of_2(up(units, MULTIPLE)), triton.next_power_of_2(n)))


def layout_for(n: int, units: int, itemsize: int, multiprocessors: int, memory: int = SHARED_MEMORY) -> Layout:
    """The first layout that a GPU has multiprocessors and shared memory for.

    Parameters
    ----------
    itemsize
        Bytes of an operand of a product: 2 or 4.
    memory
        Bytes of shared memory that a program can have.

    Raises
    ------
    ValueError
        Where there is none.
    """
    for shape in SHAPES:
        layout = shared_out(n, units, shape)
        needed = (GATES * layout.units + layout.rows) * layout.pitch * itemsize + SPARE
        if layout.programs <= multiprocessors and needed <= memory:
            return layout
    raise ValueError(
        f"{n} rows of {units} units in {8 * itemsize} bits do not fit on a GPU of {multiprocessors} multiprocessors "
        "at once: this is a layer for cuDNN."
    )


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _load_four(x, mask, PITCH: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Of each gate what is at x, gate after gate a pitch further."""
    i = tl.load(x, mask=mask, other=0.0)
    f = tl.load(x + PITCH, mask=mask, other=0.0)
    g = tl.load(x + 2 * PITCH, mask=mask, other=0.0)
    o = tl.load(x + 3 * PITCH, mask=mask, other=0.0)
    return i, f, g, o


@triton.jit
def _store_four(x, i, f, g, o, mask, PITCH: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    kind: tl.constexpr = x.dtype.element_ty
    tl.store(x, i.to(kind), mask=mask)
    tl.store(x + PITCH, f.to(kind), mask=mask)
    tl.store(x + 2 * PITCH, g.to(kind), mask=mask)
    tl.store(x + 3 * PITCH, o.to(kind), mask=mask)


@triton.jit
def _places(n, each, PITCH: tl.constexpr, UNITS: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """This program's block of rows, its number in there, its rows, which of them there are, and its units."""
    block = tl.program_id(0) // (PITCH // UNITS)
    me = tl.program_id(0) % (PITCH // UNITS)
    row = tl.arange(0, ROWS)
    rows = block * each + row
    return block, me, rows, (row < each) & (rows < n), me * UNITS + tl.arange(0, UNITS)


@triton.jit
def _recurrent_rows(u, first, PITCH: tl.constexpr, UNITS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Where the rows of U (4, pitch, pitch) begin that a program owns: four gates of a unit one after another."""
    row = tl.arange(0, 4 * UNITS)
    return u + ((row % 4) * PITCH + first + row // 4) * PITCH


@triton.jit
def _split(x, UNITS: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Gates (4 units, rows) as i, f, g and o (rows, units)."""
    even, odd = tl.split(tl.permute(tl.reshape(x, (UNITS, 2, 2, ROWS)), (3, 0, 1, 2)))
    i, g = tl.split(even)
    f, o = tl.split(odd)
    return i, f, g, o


@triton.jit
def _join(i, f, g, o, UNITS: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """The other way round."""
    x = tl.join(tl.join(i, g), tl.join(f, o))
    return tl.reshape(tl.permute(x, (1, 2, 3, 0)), (4 * UNITS, ROWS))


@triton.jit
def _factor(x):  # type: ignore[no-untyped-def]
    """What a product takes; the interpreter would multiply the bits of numbers in bf16."""
    if INTERPRETED:
        x = x.to(tl.float32)
    return x


@triton.jit
def forward_kernel(  # type: ignore[no-untyped-def]
    gates_x,  # (T, N, 4, pitch): W x
    u,  # (4, pitch, pitch)
    bias,  # (4, H) fp32
    h0,  # (N, H) fp32, as the next three
    c0,
    h_last,
    c_last,
    outputs,  # (T + 1, N, pitch): from h0 on
    gates,  # (T, N, 4, pitch) fp32, or None: i, f, g, o
    cells,  # (T + 1, N, pitch) fp32, or None: from c0 on
    barriers,  # zeros
    failed,
    n,
    units,
    steps,
    each,
    patience,
    PITCH: tl.constexpr,  # noqa: N803
    UNITS: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    PIECES: tl.constexpr,  # noqa: N803
):
    block, me, rows, inside, own = _places(n, each, PITCH, UNITS, ROWS)
    barrier = barriers + block * 32
    here, known = inside[:, None], inside[:, None] & (own[None, :] < units)
    place = rows[:, None] * PITCH + own[None, :]
    place_four = rows[:, None] * 4 * PITCH + own[None, :]
    place_state = rows[:, None] * units + own[None, :]
    u_rows = _recurrent_rows(u, me * UNITS, PITCH, UNITS)
    weights = ()
    start = 0
    for k in tl.static_range(len(PIECES)):
        weights = weights + (tl.load(u_rows[:, None] + start + tl.arange(0, PIECES[k])[None, :]),)
        start += PIECES[k]
    b_i, b_f, b_g, b_o = _load_four(bias + own[None, :], own[None, :] < units, units)
    h = tl.load(h0 + place_state, mask=known, other=0.0)
    c = tl.load(c0 + place_state, mask=known, other=0.0)
    tl.store(outputs + place, h.to(u.dtype.element_ty), mask=here)
    arrive(barrier)
    if cells is not None:
        tl.store(cells + place, c, mask=here)
    for t in tl.range(0, steps, num_stages=1):  # nothing is read before its time
        i, f, g, o = _load_four(gates_x + place_four, here, PITCH)
        patience = wait(barrier, (t + 1) * (PITCH // UNITS), patience)
        all_h = ()
        start = 0
        for k in tl.static_range(len(PIECES)):
            where = rows[None, :] * PITCH + start + tl.arange(0, PIECES[k])[:, None]
            # Not by way of the multiprocessor's own cache, which does not see what others write.
            piece = tl.load(outputs + where, mask=inside[None, :], other=0.0, cache_modifier=".cg")
            all_h = all_h + (piece,)
            start += PIECES[k]
        product = tl.zeros((4 * UNITS, ROWS), tl.float32)
        for k in tl.static_range(len(PIECES)):
            product = tl.dot(_factor(weights[k]), _factor(all_h[k]), product, input_precision="ieee")
        u_i, u_f, u_g, u_o = _split(product, UNITS, ROWS)
        i = tl.sigmoid(i + b_i + u_i)
        f = tl.sigmoid(f + b_f + u_f)
        g = _tanh(g + b_g + u_g)
        o = tl.sigmoid(o + b_o + u_o)
        c = f * c + i * g
        h = o * _tanh(c)
        outputs += n * PITCH
        tl.store(outputs + place, h.to(u.dtype.element_ty), mask=here)
        arrive(barrier)
        gates_x += n * 4 * PITCH
        if cells is not None:
            cells += n * PITCH
            tl.store(cells + place, c, mask=here)
            _store_four(gates + place_four, i, f, g, o, here, PITCH)
            gates += n * 4 * PITCH
    tl.store(h_last + place_state, h, mask=known)
    tl.store(c_last + place_state, c, mask=known)
    tl.atomic_add(failed, 1, mask=patience == 0)


@triton.jit
def _total(sums, place, there, PROGRAMS: tl.constexpr, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """What all programs of a block have written for this one, added up always in the same order."""
    total = tl.zeros(place.shape, tl.float32)
    for k in tl.static_range(PROGRAMS):
        total += tl.load(sums + k * SIZE + place, mask=there, other=0.0, cache_modifier=".cg").to(tl.float32)
    return total


@triton.jit
def backward_kernel(  # type: ignore[no-untyped-def]
    y_grad,  # (T, N, H) of any steps and rows
    y_step,  # from a step of it to the next
    y_row,  # and from row to row
    h_grad,  # (N, H) fp32, or None, as the next one
    c_grad,
    u,  # (4, pitch, pitch)
    gates,  # (T, N, 4, pitch) fp32
    cells,  # (T + 1, N, pitch) fp32
    gate_grads,  # (T, N, 4, pitch)
    h0_grad,  # (N, H) fp32, as the next one
    c0_grad,
    bias_grad,  # (blocks, 4, pitch) fp32
    sums,  # (blocks, 2, programs of a block that read, and that write, rows, units)
    barriers,  # zeros
    failed,
    n,
    units,
    steps,
    each,
    patience,
    PITCH: tl.constexpr,  # noqa: N803
    UNITS: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    PIECES: tl.constexpr,  # noqa: N803
):
    """With a' for dL/da and s for what the gates take: h_(t-1)' = y_(t-1)' + U' s_t', of which each program adds up
    what its own gates give, for all units, and writes it for their owners. In turns to two places: who writes to one
    again has waited for all who had read there."""
    PROGRAMS: tl.constexpr = PITCH // UNITS
    SIZE: tl.constexpr = ROWS * UNITS
    block, me, rows, inside, own = _places(n, each, PITCH, UNITS, ROWS)
    barrier = barriers + block * 32
    here, known = inside[:, None], inside[:, None] & (own[None, :] < units)
    place = rows[:, None] * PITCH + own[None, :]
    place_four = rows[:, None] * 4 * PITCH + own[None, :]
    place_state = rows[:, None] * units + own[None, :]
    row = tl.arange(0, ROWS)
    tile = row[:, None] * UNITS + tl.arange(0, UNITS)[None, :]
    sums += block * 2 * PROGRAMS * PROGRAMS * SIZE
    u_rows = _recurrent_rows(u, me * UNITS, PITCH, UNITS)
    weights = ()
    start = 0
    for k in tl.static_range(len(PIECES)):
        weights = weights + (tl.load(u_rows[None, :] + start + tl.arange(0, PIECES[k])[:, None]),)
        start += PIECES[k]
    h_next, c_next = tl.zeros((ROWS, UNITS), tl.float32), tl.zeros((ROWS, UNITS), tl.float32)
    if h_grad is not None:
        h_next += tl.load(h_grad + place_state, mask=known, other=0.0)
    if c_grad is not None:
        c_next += tl.load(c_grad + place_state, mask=known, other=0.0)
    b_i, b_f = tl.zeros((ROWS, UNITS), tl.float32), tl.zeros((ROWS, UNITS), tl.float32)
    b_g, b_o = tl.zeros((ROWS, UNITS), tl.float32), tl.zeros((ROWS, UNITS), tl.float32)
    y_grad += (steps - 1) * y_step.to(tl.int64)
    gates += (steps - 1).to(tl.int64) * n * 4 * PITCH
    gate_grads += (steps - 1).to(tl.int64) * n * 4 * PITCH
    cells += steps.to(tl.int64) * n * PITCH
    c = tl.load(cells + place, mask=here, other=0.0)
    for back in tl.range(0, steps, num_stages=1):
        h_next += tl.load(y_grad + rows[:, None] * y_row + own[None, :], mask=known, other=0.0).to(tl.float32)
        i, f, g, o = _load_four(gates + place_four, here, PITCH)
        cells -= n * PITCH
        before = tl.load(cells + place, mask=here, other=0.0)
        patience = wait(barrier, back * PROGRAMS, patience)
        theirs = sums + ((back + 1) % 2 * PROGRAMS + me) * PROGRAMS * SIZE
        h_next += _total(theirs, tile, back > 0, PROGRAMS, SIZE)
        squashed = _tanh(c)
        c_next += h_next * o * (1 - squashed * squashed)
        o = h_next * squashed * o * (1 - o)
        i_grad = c_next * g * i * (1 - i)
        g = c_next * i * (1 - g * g)
        c_next *= f
        f = c_next * before * (1 - f)
        c = before
        all_four = _join(i_grad, f, g, o, UNITS, ROWS).to(u.dtype.element_ty)
        start = 0
        for k in tl.static_range(len(PIECES)):
            product = tl.dot(_factor(weights[k]), _factor(all_four), input_precision="ieee")
            unit = start + tl.arange(0, PIECES[k])[:, None]
            where = ((back % 2 * PROGRAMS + unit // UNITS) * PROGRAMS + me) * SIZE + row[None, :] * UNITS + unit % UNITS
            tl.store(sums + where, product.to(sums.dtype.element_ty))
            start += PIECES[k]
        arrive(barrier)
        _store_four(gate_grads + place_four, i_grad, f, g, o, here, PITCH)
        b_i, b_f, b_g, b_o = b_i + i_grad, b_f + f, b_g + g, b_o + o
        y_grad -= y_step
        gates -= n * 4 * PITCH
        gate_grads -= n * 4 * PITCH
        h_next = tl.zeros((ROWS, UNITS), tl.float32)
    patience = wait(barrier, steps * PROGRAMS, patience)
    h_next += _total(sums + ((steps + 1) % 2 * PROGRAMS + me) * PROGRAMS * SIZE, tile, True, PROGRAMS, SIZE)
    tl.store(h0_grad + place_state, h_next, mask=known)
    tl.store(c0_grad + place_state, c_next, mask=known)
    b_i, b_f, b_g, b_o = tl.sum(b_i, 0), tl.sum(b_f, 0), tl.sum(b_g, 0), tl.sum(b_o, 0)
    _store_four(bias_grad + block * 4 * PITCH + own, b_i, b_f, b_g, b_o, own < PITCH, PITCH)
    tl.atomic_add(failed, 1, mask=patience == 0)


_failures: dict[torch.device, Tensor] = {}


def failures(device: torch.device) -> Tensor:
    """How many programs on a device have gone on without the others since they ran out of patience: one int32.

    Anything but zero says that numbers since are wrong. It is counted where it is, and read by whoever waits for the
    GPU anyhow. It has to be there before a CUDA graph is recorded, which a first iteration sees to.
    """
    if device not in _failures:
        _failures[device] = torch.zeros(1, dtype=torch.int32, device=device)
    return _failures[device]


def launch(kernel: Any, layout: Layout, *arguments: Tensor | int | None) -> None:
    """Run a kernel, all of whose programs have to be there at once: the driver refuses it where they cannot."""
    kernel[(layout.programs,)](
        *arguments,
        *(layout.pitch, layout.units, layout.rows, layout.pieces),
        num_warps=layout.warps,
        num_stages=1,
        launch_cooperative_grid=True,
    )


def run_forward(
    layout: Layout, gates_x: Tensor, u: Tensor, bias: Tensor, h0: Tensor, c0: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """A layer's outputs, from what its gates take of its inputs.

    Parameters
    ----------
    gates_x
        (T, N, 4, pitch), in the precision of the products, as u (4, pitch, pitch).
    bias, h0, c0
        (4 H,), (N, H) and (N, H), contiguous, fp32.
    keep
        Whether a backward pass is to follow.

    Returns
    -------
    h0 and the outputs (T + 1, N, pitch), the last h and c (N, H), and for the backward pass the gates
    (T, N, 4, pitch) and cells (T + 1, N, pitch), all of these fp32.
    """
    steps, n = gates_x.shape[:2]
    outputs = gates_x.new_empty(steps + 1, n, layout.pitch)
    gates = torch.empty_like(gates_x, dtype=torch.float32) if keep else None
    cells = torch.empty_like(outputs, dtype=torch.float32) if keep else None
    h, c = torch.empty_like(h0), torch.empty_like(c0)
    launch(
        forward_kernel,
        layout,
        *(gates_x, u, bias, h0, c0, h, c, outputs, gates, cells, *_meeting(layout, h0.device)),
        *(n, h0.shape[1], steps, layout.each, PATIENCE),
    )
    return outputs, h, c, gates, cells


def run_backward(
    layout: Layout, grads: tuple[Tensor, Tensor | None, Tensor | None], u: Tensor, gates: Tensor, cells: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of what the gates take (T, N, 4, pitch), of h0 and c0 (N, H) and of the biases (4, H).

    Parameters
    ----------
    grads
        Of the outputs (N, T, H), their rows contiguous, and of the last h and c, (N, H) fp32, contiguous, or None.
    """
    y_grad, h_grad, c_grad = grads
    n, steps, units = y_grad.shape
    gate_grads = torch.empty_like(gates, dtype=u.dtype)
    h0_grad, c0_grad = gates.new_empty(n, units), gates.new_empty(n, units)
    bias_grad = gates.new_empty(layout.blocks, GATES, layout.pitch)
    sums = u.new_empty(layout.blocks, 2, layout.pitch // layout.units, layout.pitch, layout.rows)
    launch(
        backward_kernel,
        layout,
        *(y_grad, y_grad.stride(1), y_grad.stride(0), h_grad, c_grad, u, gates, cells),
        *(gate_grads, h0_grad, c0_grad, bias_grad, sums, *_meeting(layout, u.device)),
        *(n, units, steps, layout.each, PATIENCE),
    )
    return gate_grads, h0_grad, c0_grad, bias_grad.sum(0)[:, :units]


def _meeting(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    """New barriers, one for each block of rows, and the count of failures."""
    return torch.zeros(layout.blocks * LINE, dtype=torch.int32, device=device), failures(device)
