"""Symbols without end from an engine and a seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_integers, check_number, check_whole
from bytecodec.errors import InputError
from charrnn.engines import Engine

CHUNK = 2048
MOST_KEY = 2**64 - 1  # largest seed and largest number of a stream
MOST_POSITION = 2**128  # larger than any position that can be reached; Philox counts to 2**256
BLOCK = 4  # numbers that Philox4x64 makes of one counter


def uniforms(seed: int, stream: int, position: int, count: int) -> NDArray[np.float32]:
    """``count`` uniform numbers in [0, 1) of a stream, from ``position`` on.

    They are counter-based (Philox4x64-10; Salmon, Moraes, Dror and Shaw 2011): number p of stream k hangs on
    (seed, k, p) alone, so streams do not hang on each other and any place can be started at. A number is the
    upper 24 bits of 64, which float32 holds exactly.

    Parameters
    ----------
    seed, stream
        0 to 2**64 - 1, the two halves of Philox's key.
    position
        0 or more.
    """
    counter, skip = divmod(position, BLOCK)
    philox = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64), counter=counter)
    raw = np.asarray(philox.random_raw(skip + count))[skip:]
    return ((raw >> np.uint64(40)).astype(np.float32)) * np.float32(2**-24)


def generate(
    engine: Engine,
    length: int | None,
    temperature: float = 1.0,
    seed: int = 0,
    chunk: int = CHUNK,
    position: int = 0,
    first_stream: int = 0,
) -> Iterator[NDArray[np.int64]]:
    """Sample from where the engine's streams are.

    Parameters
    ----------
    length
        Number of symbols of each stream; None for no end.
    temperature
        0 or more; see `charrnn.engines.Engine.run`.
    seed
        0 to 2**64 - 1.
    chunk
        How many to hand out at a time, at most; has no influence on them.
    position
        The generator's place: how many numbers of each stream are used up.
    first_stream
        The number of the engine's first stream.

    Yields
    ------
    ids (N, <= chunk).

    Raises
    ------
    InputError
        Before the first block: an argument is out of range.
    """
    if not isinstance(engine, Engine):
        raise InputError(f"engine is a {type(engine).__name__}; it must come from charrnn.engine.")
    if length is not None:
        check_whole("length", length, 0)
    check_number("temperature", temperature, 0)
    check_whole("seed", seed, 0, MOST_KEY)
    check_whole("chunk", chunk, 1)
    check_whole("position", position, 0, MOST_POSITION)
    check_whole("first_stream", first_stream, 0, MOST_KEY - engine.streams)
    return _generated(engine, length, temperature, seed, chunk, position, first_stream)


def _generated(
    engine: Engine, length: int | None, temperature: float, seed: int, chunk: int, position: int, first_stream: int
) -> Iterator[NDArray[np.int64]]:
    end = None if length is None else position + length
    while end is None or position < end:
        count = chunk if end is None else min(chunk, end - position)
        u = np.stack([uniforms(seed, first_stream + k, position, count) for k in range(engine.streams)], axis=1)
        yield engine.run(u, temperature)
        position += count


def prime(engine: Engine, ids: NDArray[np.integer[Any]]) -> None:
    """Have all streams of an engine read the same symbols (P,)."""
    symbols = check_integers("ids", ids, 1)
    engine.prime(np.broadcast_to(symbols, (engine.streams, len(symbols))))
