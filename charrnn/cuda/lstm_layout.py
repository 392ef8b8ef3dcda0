"""Layouts: the division of rows and units among the programs of `charrnn.cuda.lstm_kernels`, and their limits."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from bytecodec.errors import InputError
from charrnn.models.config import CELLS

GATES = CELLS["lstm"]
MULTIPLE = 64  # divisor of the pitch: rows of a tensor-core product, and the smallest piece of a sum over units
PIECE = 8192  # maximum of numbers in a tile of sums, which are 32 registers per thread
FEW_ROWS = 16  # maximum of rows for which reading U from shared memory limits a product
REGISTER_PIECES = (128, 128, 64)  # pieces of U that are kept in registers: 80 of the 255 per thread
SHARED_MEMORY = 227 * 1024  # bytes that a program can have on Hopper
SPARE = 6 * 1024  # bytes of it for conversions between layouts of threads
# Units and rows of a program. The first that fits is the fastest one that fits (docs/experiments/gpu.md, for an H200).
SHAPES = ((16, 16), (32, 16), (16, 32), (32, 32), (16, 64), (32, 64))


def round_up(size: int, multiple: int) -> int:
    """Return the least multiple that is not less than a size."""
    return -(-size // multiple) * multiple


class Layout(NamedTuple):
    """Division of N rows and H units among the programs of a kernel."""

    units: int  # of a program: a power of two
    rows: int  # of a program's tiles: a power of two
    rows_each: int  # rows of a program that exist
    blocks: int  # of rows, which are independent of each other
    pitch: int  # H rounded up: a multiple of the units of a program
    warps: int

    @property
    def programs(self) -> int:
        """The number of programs."""
        return self.blocks * self.pitch // self.units

    @property
    def register_pieces(self) -> int:
        """The number of leading pieces of U that are kept in registers, if it has 16 bits."""
        if self.rows > FEW_ROWS:
            return 0
        return sum(total <= self.pitch for total in accumulate(REGISTER_PIECES))

    @property
    def pieces(self) -> tuple[int, ...]:
        """The pitch as a sum of powers of two, which sizes of tiles must be."""
        first = REGISTER_PIECES[: self.register_pieces]
        rest = self.pitch - sum(first)
        largest = max(min(PIECE // self.rows, 256), MULTIPLE)
        powers = (1 << bit for bit in reversed(range(largest.bit_length() - 1)))
        return first + (largest,) * (rest // largest) + tuple(power for power in powers if rest & power)


def divide(n: int, units: int, shape: tuple[int, int]) -> Layout:
    """Return a layout of n rows and H units over programs of a shape (units, rows)."""
    blocks = -(-n // shape[1])
    warps = 8 if GATES * shape[0] > 64 or shape[1] > 32 else 4  # four for every 64 rows of a tile of gates
    return Layout(*shape, -(-n // blocks), blocks, round_up(units, max(MULTIPLE, shape[0])), warps)


def single_program(n: int, units: int) -> Layout:
    """Return the layout of a single program, for Triton's interpreter."""
    return divide(n, units, (power_of_two(round_up(units, MULTIPLE)), power_of_two(n)))


def layout_for(n: int, units: int, itemsize: int, multiprocessors: int, memory: int = SHARED_MEMORY) -> Layout:
    """Return the first layout for which a GPU has enough multiprocessors and shared memory, or raise InputError.

    An operand of a product has ``itemsize`` bytes, and a program ``memory`` bytes of shared memory.
    """
    for shape in SHAPES:
        layout = divide(n, units, shape)
        # Pieces that are kept in registers pass through shared memory as well.
        needed = (GATES * layout.units + layout.rows) * layout.pitch * itemsize + SPARE
        if layout.programs <= multiprocessors and needed <= memory:
            return layout
    raise InputError(
        f"{n} rows of {units} units in {8 * itemsize} bits do not fit on a GPU of {multiprocessors} multiprocessors "
        "at once."
    )


def power_of_two(size: int) -> int:
    """Return the least power of two that is not less than a size."""
    return 1 << (size - 1).bit_length()
