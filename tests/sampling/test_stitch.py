"""Carried segments are one long run, and what is not carried can be measured."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytecodec.errors import InputError
from charrnn.engines.eager import EagerEngine
from charrnn.sampling.generate import generate, prime
from charrnn.sampling.stitch import SPECTRUM_WINDOW, measure_seams, stitch


def joined(pieces, streams=1):
    return np.concatenate([np.empty((streams, 0), dtype=np.int64), *pieces], axis=1)


def segments_of(engine, segments, *args, **kwargs):
    """Each segment whole."""
    pieces = [[] for _ in range(segments)]
    for number, ids in stitch(engine, segments, *args, **kwargs):
        pieces[number].append(ids)
    return [joined(piece, engine.streams) for piece in pieces]


# Joining


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 14), st.integers(1, 3))
def test_carried_segments_are_one_long_run_however_it_is_cut(tiny_model, segments, length, chunk, streams):
    long = joined(generate(EagerEngine(tiny_model, streams), segments * length, seed=4), streams)
    parts = segments_of(EagerEngine(tiny_model, streams), segments, length, seed=4, chunk=chunk)
    assert [part.shape for part in parts] == [(streams, length)] * segments
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), long)


def test_segments_come_in_order(tiny_model):
    numbers = [number for number, _ in stitch(EagerEngine(tiny_model), 4, 6, chunk=4)]
    assert numbers == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_carried_start_is_read_once(tiny_model):
    start = np.array([3, 1, 4])
    long_engine, engine = EagerEngine(tiny_model), EagerEngine(tiny_model)
    for each in (long_engine, engine):
        prime(each, start)
    parts = segments_of(engine, 3, 10, seed=4, start=start)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), joined(generate(long_engine, 30, seed=4)))


@pytest.mark.parametrize("start", [None, np.array([3, 1, 4])])
def test_a_reset_segment_starts_afresh_reads_the_start_again_and_goes_on_with_the_numbers(tiny_model, start):
    def fresh():
        engine = EagerEngine(tiny_model)
        if start is not None:
            prime(engine, start)
        return engine

    parts = segments_of(fresh(), 3, 10, seed=4, join="reset", start=start, position=5)
    for number, part in enumerate(parts):
        np.testing.assert_array_equal(part, joined(generate(fresh(), 10, seed=4, position=5 + 10 * number)))
    carried = segments_of(fresh(), 3, 10, seed=4, start=start, position=5)
    np.testing.assert_array_equal(parts[0], carried[0])
    assert any((a != b).any() for a, b in zip(parts[1:], carried[1:], strict=True))


def test_a_segment_without_end_goes_on(tiny_model):
    endless = stitch(EagerEngine(tiny_model), 1, None, seed=4, chunk=8)
    some = joined([ids for _, (number, ids) in zip(range(5), endless, strict=False) if number == 0])
    np.testing.assert_array_equal(some, joined(generate(EagerEngine(tiny_model), 40, seed=4)))


# Measuring


def sound(kind, n=40000, seed=0):
    """A continuous sound of n bytes."""
    rng, t = np.random.default_rng(seed), np.arange(n) / 11025
    if kind == "noise":
        x = 30 * rng.normal(size=n)
    elif kind == "dull noise":
        x = 25 * np.convolve(rng.normal(size=n + 7), np.ones(8) / 8**0.5, "valid")
    else:
        phases = 2 * np.pi * rng.random(3)
        x = sum(25 * np.sin(2 * np.pi * f * t + p) for f, p in zip((180, 410, 930), phases, strict=True))
        x = x * (1 + 0.3 * np.sin(2 * np.pi * 3 * t)) + rng.normal(size=n)
    return np.clip(np.rint(128 + x), 0, 255).astype(np.uint8)


def places(n=40000, count=20, seed=0):
    return sorted(np.random.default_rng(1000 + seed).choice(np.arange(300, n - 300), count, replace=False).tolist())


kinds = pytest.mark.parametrize("kind", ["noise", "dull noise", "tones"])


@kinds
def test_places_of_a_continuous_sound_are_no_audible_seams(kind):
    measures = [measure_seams(sound(kind, seed=seed), places(seed=seed)) for seed in range(20)]
    assert sum(measure.audible() for measure in measures) <= 1  # one of a hundred is, by chance
    assert np.mean([measure.jump for measure in measures]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([measure.spectrum for measure in measures]) == pytest.approx(0.5, abs=0.06)


@kinds
@pytest.mark.parametrize("seed", range(4))
def test_clicks_are_audible_seams_where_they_are_and_nowhere_else(kind, seed):
    samples, seams = sound(kind, seed=seed).astype(int), places(seed=seed)
    for seam in seams:  # the wave is pushed off and comes back, as after a jump of a membrane
        samples[seam : seam + 60] += (150 * np.exp(-np.arange(60) / 15)).astype(int)
    measure = measure_seams(samples, seams)
    assert measure.audible()
    assert measure.jump > 0.8
    assert measure.jump_p < 1e-4
    assert not measure_seams(samples, [seam - 1500 for seam in seams if seam > 2000]).jump_p < 0.005


@pytest.mark.parametrize("seed", range(4))
def test_segments_of_other_spectra_are_audible_seams_without_any_jump(seed):
    """Pieces of two tones in turn, each of which begins and ends on a crest."""
    t = np.arange(2205) / 11025
    pieces = [np.cos(2 * np.pi * f * t) for _ in range(10) for f in (200, 700)]
    noise = np.random.default_rng(seed).normal(size=20 * 2205)
    samples = 128 + 60 * np.concatenate(pieces) + noise
    measure = measure_seams(samples, range(2205, 20 * 2205, 2205))
    assert measure.audible()
    assert measure.spectrum > 0.95
    assert measure.jump < 0.5


def test_seams_too_near_the_ends_are_left_out():
    samples, inner = sound("tones"), places()
    assert measure_seams(samples, [0, 5, *inner, 39999, 50000]) == measure_seams(samples, inner)


@pytest.mark.parametrize(
    ("n", "seams"), [(1000, []), (1000, [10, 990]), (2 * SPECTRUM_WINDOW - 1, [255]), (600, [300])]
)
def test_nothing_to_measure_is_refused(n, seams):
    with pytest.raises(InputError, match=f"can be measured in {n} samples with windows of 256"):
        measure_seams(sound("noise", n), seams)


def test_silence_has_no_audible_seams():
    assert not measure_seams(np.full(20000, 128, dtype=np.uint8), places(20000)).audible()


def test_the_inside_is_at_least_a_window_away_from_every_seam(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "charrnn.sampling.stitch._jumps", lambda x, at, window: asked.append(at) or np.arange(len(at), dtype=float)
    )
    seams = [1000, 1100, 3000]
    measure_seams(sound("noise", 4000), seams)
    assert asked[0].tolist() == seams
    inside = set(range(256, 4000 - 256 + 1)) - {i for s in seams for i in range(s - 255, s + 256)}
    assert sorted(asked[1]) == sorted(inside)


def test_a_long_sound_with_many_seams_is_measured_in_little_memory():
    """Ten minutes with a seam a second: a table of places by seams would be 30 gigabytes."""
    samples = np.tile(sound("tones", 60 * 11025), 10)
    measure = measure_seams(samples, range(11025, len(samples), 11025))
    assert 0 <= measure.jump <= 1


@pytest.mark.parametrize("letter", ["A1", "B1", "C1"])
def test_places_of_a_real_recording_are_no_audible_seams_and_cuts_in_it_are(shared_audio, letter):
    path = next(shared_audio.glob(f"{letter}_*.wav"))
    x = np.frombuffer(path.read_bytes()[44 + 60 * 11025 : 44 + 120 * 11025], dtype=np.uint8)
    seams = np.arange(1, 40) * (len(x) // 40)
    assert not measure_seams(x, seams).audible()
    pieces = np.random.default_rng(0).permutation(x[: 40 * (len(x) // 40)].reshape(40, -1))
    assert measure_seams(pieces.ravel(), seams).audible()


# A network that has learnt


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_trained_networks_carried_seams_cannot_be_told_and_its_reset_ones_can(trained, seed):
    segments, length = 16, 1000
    seams = range(length, segments * length, length)
    measures = {}
    for join in ("carry", "reset"):
        parts = segments_of(EagerEngine(trained.model), segments, length, seed=seed, join=join)
        measures[join] = measure_seams(np.concatenate(parts, axis=1)[0], seams)
    assert not measures["carry"].audible()
    assert measures["reset"].audible()
    assert measures["reset"].jump > measures["carry"].jump
