"""Symbols without end from an engine and a seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.engines import Engine

CHUNK = 2048
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
        Symbols of each stream; None: for ever.
    chunk
        How many to hand out at a time, at most; has no influence on them.
    position
        The generator's place: how many numbers of each stream are used up.
    first_stream
        The number of the engine's first stream.

    Yields
    ------
    ids (N, <= chunk).
    """
    end = None if length is None else position + length
    while end is None or position < end:
        count = chunk if end is None else min(chunk, end - position)
        u = np.stack([uniforms(seed, first_stream + k, position, count) for k in range(engine.streams)], axis=1)
        yield engine.run(u, temperature)
        position += count


def prime(engine: Engine, ids: NDArray[np.integer[Any]]) -> None:
    """Have all streams of an engine read the same symbols (P,)."""
    engine.prime(np.broadcast_to(np.asarray(ids), (engine.streams, len(ids))))
