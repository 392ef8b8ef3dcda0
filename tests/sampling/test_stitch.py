"""Segments with carried state equal one long sample."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.engines.eager import EagerEngine
from charrnn.sampling.generate import generate, prime
from charrnn.sampling.stitch import stitch

START = np.array([3, 1, 4])


def joined(pieces, streams=1):
    return np.concatenate([np.empty((streams, 0), dtype=np.int64), *pieces], axis=1)


def segments_of(engine, segments, *args, **kwargs):
    """Return the ids (N, length) of each segment."""
    pieces = [[] for _ in range(segments)]
    for number, ids in stitch(engine, segments, *args, **kwargs):
        pieces[number].append(ids)
    return [joined(piece, engine.streams) for piece in pieces]


def primed(model, start):
    engine = EagerEngine(model)
    if start is not None:
        prime(engine, start)
    return engine


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 14), st.integers(1, 3))
def test_carried_segments_are_one_long_sample_however_it_is_cut(tiny_model, segments, length, chunk, streams):
    long = joined(generate(EagerEngine(tiny_model, streams), segments * length, seed=4), streams)
    parts = segments_of(EagerEngine(tiny_model, streams), segments, length, seed=4, chunk=chunk)
    assert [part.shape for part in parts] == [(streams, length)] * segments
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), long)


def test_with_carry_the_start_is_read_once(tiny_model):
    parts = segments_of(primed(tiny_model, START), 3, 10, seed=4, start=START)
    np.testing.assert_array_equal(
        np.concatenate(parts, axis=1), joined(generate(primed(tiny_model, START), 30, seed=4))
    )


def test_after_a_reset_the_start_is_read_again_and_the_positions_continue(tiny_model):
    for start in (None, START):
        parts = segments_of(primed(tiny_model, start), 3, 10, seed=4, join="reset", start=start, position=5)
        for number, part in enumerate(parts):
            alone = generate(primed(tiny_model, start), 10, seed=4, position=5 + 10 * number)
            np.testing.assert_array_equal(part, joined(alone))
        carried = segments_of(primed(tiny_model, start), 3, 10, seed=4, start=start, position=5)
        np.testing.assert_array_equal(parts[0], carried[0])
        assert any((a != b).any() for a, b in zip(parts[1:], carried[1:], strict=True))
