"""Generation of symbols with an engine and a seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_integers, check_number, check_whole
from bytecodec.errors import InputError
from charrnn.engines import Engine

CHUNK = 2048
MAX_KEY = 2**64 - 1  # largest seed and largest number of a stream
MAX_POSITION = 2**128  # larger than any position that can be reached; Philox counts to 2**256
NUMBERS_PER_COUNTER = 4  # of Philox4x64


def uniforms(seed: int, stream: int, position: int, count: int) -> NDArray[np.float32]:
    """Return ``count`` uniform numbers in [0, 1) of a stream, beginning at ``position``.

    The generator is counter-based (Philox4x64-10; Salmon, Moraes, Dror and Shaw 2011): a number depends only on the
    seed, the stream and the position. So streams are independent of each other, and any position can be computed
    directly. A number is the upper 24 of 64 bits, which float32 represents exactly. Seed and stream, 0 to 2**64 - 1,
    are the two halves of Philox's key.
    """
    counter, skip = divmod(position, NUMBERS_PER_COUNTER)
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
    """Sample from the current state of the engine's streams.

    Parameters
    ----------
    length
        Number of symbols per stream; None for no end.
    temperature
        0 or more; see `charrnn.engines.Engine.run`.
    seed
        0 to 2**64 - 1.
    chunk
        Largest number of symbols to yield at a time; it has no influence on the symbols.
    position
        Number of random numbers that each stream has already used.
    first_stream
        Number of the engine's first stream.

    Yields
    ------
    ids (N, <= chunk).

    Raises
    ------
    InputError
        Before the first chunk: an argument is out of range.
    """
    if not isinstance(engine, Engine):
        raise InputError(f"engine is a {type(engine).__name__}; it must come from charrnn.engine.")
    if length is not None:
        check_whole("length", length, 0)
    check_number("temperature", temperature, 0)
    check_whole("seed", seed, 0, MAX_KEY)
    check_whole("chunk", chunk, 1)
    check_whole("position", position, 0, MAX_POSITION)
    check_whole("first_stream", first_stream, 0, MAX_KEY - engine.streams)

    def chunks() -> Iterator[NDArray[np.int64]]:
        at, end = position, None if length is None else position + length
        while end is None or at < end:
            count = chunk if end is None else min(chunk, end - at)
            u = np.stack([uniforms(seed, first_stream + k, at, count) for k in range(engine.streams)], axis=1)
            yield engine.run(u, temperature)
            at += count

    return chunks()


def prime(engine: Engine, ids: NDArray[np.integer[Any]]) -> None:
    """Feed the same symbols (P,) to all streams of an engine."""
    symbols = check_integers("ids", ids, 1)
    engine.prime(np.broadcast_to(symbols, (engine.streams, len(symbols))))
