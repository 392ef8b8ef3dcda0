"""Random numbers depend on seed, stream and position only, and symbols on nothing else."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.engines.eager import EagerEngine
from charrnn.sampling.generate import generate, prime, uniforms

# seed, stream, position: the first numbers from there on, in units of 2**-24
PINNED = {
    (0, 0, 0): [193722, 4052523, 1869415],
    (0, 1, 0): [13645816, 12605249, 11268401],
    (1, 0, 0): [5093026, 14238970, 2619506],
    (7, 3, 1_000_001): [2636035, 14397523, 13728639],
    (2**64 - 1, 2**64 - 1, 2**64): [11339788, 5293364, 4795167],
}

seeds = st.integers(0, 2**64 - 1)


def joined(chunks):
    return np.concatenate(list(chunks), axis=1)


def test_the_numbers_of_a_seed_never_change():
    """A seed gives the same sound in every version."""
    scaled = [(uniforms(*where, 3).astype(np.float64) * 2**24).tolist() for where in PINNED]
    assert scaled == list(PINNED.values())


def philox(counter, key):
    """Return four 64-bit numbers of Philox4x64-10 (Salmon, Moraes, Dror and Shaw 2011)."""
    mask, (k0, k1) = 2**64 - 1, key
    c0, c1, c2, c3 = (counter >> 64 * i & mask for i in range(4))
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = p1 >> 64 ^ c1 ^ k0, p1 & mask, p0 >> 64 ^ c3 ^ k1, p0 & mask
        k0, k1 = k0 + 0x9E3779B97F4A7C15 & mask, k1 + 0xBB67AE8584CAA73B & mask
    return c0, c1, c2, c3


def test_the_numbers_are_those_of_philox():
    assert philox(0, (0, 0))[0] == 0x16554D9ECA36314C  # from the authors' test vectors
    for seed, stream, position in [(0, 0, 0), (5, 2**63, 7), (2**64 - 1, 1, 4 * 2**64 - 1), (9, 9, 2**66 + 2)]:
        blocks = [philox(position // 4 + 1 + i, (seed, stream)) for i in range(3)]  # numpy increments first
        expected = [number >> 40 for block in blocks for number in block][position % 4 :][:8]
        assert (uniforms(seed, stream, position, 8).astype(np.float64) * 2**24).tolist() == expected


@given(seeds, seeds, st.integers(0, 2**70), st.integers(0, 40))
def test_numbers_are_float32_in_0_to_1_with_24_bits(seed, stream, position, count):
    u = uniforms(seed, stream, position, count)
    assert u.shape == (count,)
    assert u.dtype == np.float32
    assert ((u >= 0) & (u < 1)).all()
    scaled = u.astype(np.float64) * 2**24
    np.testing.assert_array_equal(scaled, np.floor(scaled))


@given(seeds, seeds, st.integers(0, 2**40), st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_numbers_do_not_depend_on_how_they_are_cut(seed, stream, position, counts):
    whole = uniforms(seed, stream, position, sum(counts))
    starts = itertools.accumulate([position, *counts])
    pieces = [uniforms(seed, stream, start, count) for start, count in zip(starts, counts, strict=False)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_streams_and_seeds_differ():
    numbers = {tuple(uniforms(seed, stream, 0, 8)) for seed in range(20) for stream in range(20)}
    assert len(numbers) == 400


def test_numbers_are_uniform():
    u = uniforms(0, 0, 0, 100_000)
    counts = np.histogram(u, bins=100, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 150  # chi-square of 99 degrees: 99 +- 14
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01


@settings(max_examples=20)
@given(st.integers(1, 25), st.integers(0, 50))
def test_the_size_of_a_chunk_has_no_influence_on_symbols(tiny_model, chunk, length):
    whole = joined([np.empty((2, 0), int), *generate(EagerEngine(tiny_model, 2), length, seed=3)])
    chunks = list(generate(EagerEngine(tiny_model, 2), length, seed=3, chunk=chunk))
    assert all(ids.shape[1] == chunk for ids in chunks[:-1])
    np.testing.assert_array_equal(joined([np.empty((2, 0), int), *chunks]), whole)
    assert whole.shape == (2, length)


def test_a_stream_does_not_depend_on_the_number_of_streams(tiny_model):
    many = joined(generate(EagerEngine(tiny_model, 5), 40, seed=3))
    for k in range(5):
        alone = joined(generate(EagerEngine(tiny_model, 1), 40, seed=3, first_stream=k))
        np.testing.assert_array_equal(alone[0], many[k])
    assert len({tuple(row) for row in many}) == 5


def test_sampling_resumes_at_a_position(tiny_model):
    whole = joined(generate(EagerEngine(tiny_model), 40, seed=3))
    engine = EagerEngine(tiny_model)
    halves = [joined(generate(engine, n, seed=3, position=position)) for n, position in ((13, 0), (27, 13))]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole)


def test_without_a_length_sampling_does_not_end(tiny_model):
    endless = generate(EagerEngine(tiny_model), None, seed=3, chunk=7)
    some = joined(itertools.islice(endless, 5))
    np.testing.assert_array_equal(some, joined(generate(EagerEngine(tiny_model), 35, seed=3)))


def test_priming_feeds_the_same_symbols_to_every_stream(tiny_model):
    engine = EagerEngine(tiny_model, 3)
    prime(engine, np.array([1, 2, 3], dtype=np.uint8))
    state, last = engine.get_state()
    assert last.tolist() == [3, 3, 3]
    assert all((array == array[0]).all() for layer in state for array in layer)
    assert state[0][0].any()
