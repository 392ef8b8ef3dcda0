"""Segments of sampled sound, joined by carrying the hidden state over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_choice, check_integers, check_whole
from charrnn.engines import Engine
from charrnn.sampling.generate import CHUNK, generate, prime

JOINS = ("carry", "reset")


def stitch(
    engine: Engine,
    segments: int,
    length: int | None,
    temperature: float = 1.0,
    seed: int = 0,
    join: str = "carry",
    start: NDArray[np.integer[Any]] | None = None,
    position: int = 0,
    first_stream: int = 0,
    chunk: int = CHUNK,
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Sample segments one after another.

    With ``carry``, a segment starts from the hidden state and the last symbol of the segment before it, so that all
    segments together equal one long sample. With ``reset``, each starts from the zero state and the start symbols. The
    positions of the random numbers count up in both cases.

    Parameters
    ----------
    segments, length
        Number of segments, and symbols per segment (None: one segment without an end).
    start
        Symbols (P,) that the engine was primed with, to prime it with again after each reset.
    temperature, seed, position, first_stream, chunk
        As in `charrnn.sampling.generate.generate`.

    Yields
    ------
    The segment's number, from 0, and the next ids (N, <= chunk) of it.

    Raises
    ------
    InputError
        Before the first chunk: an argument is out of range.
    """
    check_whole("segments", segments, 1)
    check_choice("join", join, JOINS)
    start = None if start is None else check_integers("start", start, 1)
    generate(engine, length, temperature, seed, chunk, position, first_stream)  # checks its arguments, computes nothing

    def chunks() -> Iterator[tuple[int, NDArray[np.int64]]]:
        for number in range(segments):
            # The engine keeps its state between two segments, so "carry" needs no code.
            if join == "reset" and number:
                engine.reset()
                if start is not None and len(start):
                    prime(engine, start)
            first = position + number * (length or 0)
            for ids in generate(engine, length, temperature, seed, chunk, first, first_stream):
                yield number, ids

    return chunks()
