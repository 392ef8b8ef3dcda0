"""How the programs of the kernels of `charrnn.cuda.lstm_kernels` share rows and units, and what a GPU has place for."""

from __future__ import annotations

from typing import NamedTuple

from bytecodec.errors import InputError

GATES = 4
MULTIPLE = 64  # of the pitch: rows of one product of tensor cores, and the least piece of a sum over units
PIECE = 8192  # numbers of a tile of sums, at most: 32 of a thread's registers
FEW_ROWS = 16  # with which a product lasts as long as shared memory takes to give U, where U comes from there
HELD = (128, 128, 64)  # pieces of U for registers: of 255 a thread they take 80
SHARED_MEMORY = 227 * 1024  # bytes, of a program on Hopper
SPARE = 6 * 1024  # bytes of it for small tiles on their way from one thread to another
# Units and rows of a program; the fastest comes first, as measured on an H200 (docs/benchmarks.md).
SHAPES = ((16, 16), (32, 16), (16, 32), (32, 32), (16, 64), (32, 64))


def up(size: int, multiple: int) -> int:
    """Return the least multiple that is not less than a size."""
    return -(-size // multiple) * multiple


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
    def held(self) -> int:
        """How many pieces of U there are registers for, if it is in 16 bits: the first ones."""
        return sum(sum(HELD[: k + 1]) <= self.pitch for k in range(len(HELD))) if self.rows <= FEW_ROWS else 0

    @property
    def pieces(self) -> tuple[int, ...]:
        """The pitch as a sum of powers of two, which tiles have to be."""
        first = HELD[: self.held]
        rest = self.pitch - sum(first)
        most = max(min(PIECE // self.rows, 256), MULTIPLE)
        powers = (1 << bit for bit in reversed(range(most.bit_length() - 1)))
        return first + (most,) * (rest // most) + tuple(power for power in powers if rest & power)


def shared_out(n: int, units: int, shape: tuple[int, int]) -> Layout:
    """A layout of n rows and H units over programs of a shape (units, rows)."""
    blocks = -(-n // shape[1])
    warps = 8 if GATES * shape[0] > 64 or shape[1] > 32 else 4  # four to every 64 rows of a tile of gates
    return Layout(*shape, -(-n // blocks), blocks, up(units, max(MULTIPLE, shape[0])), warps)


def alone(n: int, units: int) -> Layout:
    """The layout of a single program, which meets nobody: for Triton's interpreter."""
    return shared_out(n, units, (_power_of_two(up(units, MULTIPLE)), _power_of_two(n)))


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
    InputError
        Where there is none.
    """
    for shape in SHAPES:
        layout = shared_out(n, units, shape)
        # The pieces that are held in registers come there by way of shared memory, too.
        needed = (GATES * layout.units + layout.rows) * layout.pitch * itemsize + SPARE
        if layout.programs <= multiprocessors and needed <= memory:
            return layout
    raise InputError(
        f"{n} rows of {units} units in {8 * itemsize} bits do not fit on a GPU of {multiprocessors} multiprocessors "
        "at once: this is a layer for cuDNN."
    )


def _power_of_two(size: int) -> int:
    """The least that is not less than a size."""
    return 1 << (size - 1).bit_length()
