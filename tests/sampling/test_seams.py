"""Seams are measured as audible where there are clicks or changes of the spectrum, and nowhere else."""

import numpy as np
import pytest

from bytecodec.errors import InputError
from charrnn.engines.eager import EagerEngine
from charrnn.sampling.seams import SPECTRUM_WINDOW, measure_seams
from charrnn.sampling.stitch import stitch


def sound(kind, n=40000, seed=0):
    """Return a continuous sound of n bytes."""
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


def positions(n=40000, count=20, seed=0):
    return sorted(np.random.default_rng(1000 + seed).choice(np.arange(300, n - 300), count, replace=False).tolist())


kinds = pytest.mark.parametrize("kind", ["noise", "dull noise", "tones"])


@kinds
def test_positions_in_a_continuous_sound_are_not_audible_seams(kind):
    measures = [measure_seams(sound(kind, seed=seed), positions(seed=seed)) for seed in range(20)]
    assert sum(measure.audible() for measure in measures) <= 1  # one of a hundred is, by chance
    assert np.mean([measure.jump for measure in measures]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([measure.spectrum for measure in measures]) == pytest.approx(0.5, abs=0.06)


@kinds
def test_clicks_are_audible_seams_where_they_are_and_nowhere_else(kind):
    samples, seams = sound(kind).astype(int), positions()
    for seam in seams:
        samples[seam : seam + 60] += (150 * np.exp(-np.arange(60) / 15)).astype(int)
    measure = measure_seams(samples, seams)
    assert measure.audible()
    assert measure.jump > 0.8
    assert measure.jump_p < 1e-4
    assert not measure_seams(samples, [seam - 1500 for seam in seams if seam > 2000]).jump_p < 0.005


def test_a_change_of_the_spectrum_is_an_audible_seam_without_a_jump():
    """Pieces of two alternating tones begin and end at a maximum."""
    t = np.arange(2205) / 11025
    pieces = [np.cos(2 * np.pi * f * t) for _ in range(10) for f in (200, 700)]
    noise = np.random.default_rng(0).normal(size=20 * 2205)
    measure = measure_seams(128 + 60 * np.concatenate(pieces) + noise, range(2205, 20 * 2205, 2205))
    assert measure.audible()
    assert measure.spectrum > 0.95
    assert measure.jump < 0.5


def test_seams_near_the_ends_are_left_out():
    samples, inner = sound("tones"), positions()
    assert measure_seams(samples, [0, 5, *inner, 39999, 50000]) == measure_seams(samples, inner)


@pytest.mark.parametrize(("n", "seams"), [(1000, [10, 990]), (600, [300])])
def test_without_a_seam_or_an_inside_there_is_nothing_to_measure(n, seams):
    with pytest.raises(InputError, match=f"{n} samples with windows of 256"):
        measure_seams(sound("noise", n), seams)


def test_silence_has_no_audible_seams():
    assert not measure_seams(np.full(20000, 128, dtype=np.uint8), positions(20000)).audible()


def test_the_inside_is_at_least_a_window_away_from_every_seam(monkeypatch):
    measured = []
    monkeypatch.setattr(
        "charrnn.sampling.seams._jumps", lambda x, at, window: measured.append(at) or np.arange(len(at), dtype=float)
    )
    seams, window = [1000, 1100, 3000], SPECTRUM_WINDOW
    measure_seams(sound("noise", 4000), seams)
    near = {i for seam in seams for i in range(seam - window + 1, seam + window)}
    assert measured[0].tolist() == seams
    assert sorted(measured[1]) == sorted(set(range(window, 4000 - window + 1)) - near)


def test_a_long_sound_with_many_seams_needs_little_memory():
    """A table of positions by seams would be 30 gigabytes for ten minutes with a seam per second."""
    samples = np.tile(sound("tones", 60 * 11025), 10)
    measure = measure_seams(samples, range(11025, len(samples), 11025))
    assert 0 <= measure.jump <= 1


def test_positions_in_a_real_recording_are_not_audible_seams_and_cuts_are(shared_audio):
    for letter in ("A1", "B1", "C1"):
        path = next(shared_audio.glob(f"{letter}_*.wav"))
        x = np.frombuffer(path.read_bytes()[44 + 60 * 11025 : 44 + 120 * 11025], dtype=np.uint8)
        seams = np.arange(1, 40) * (len(x) // 40)
        assert not measure_seams(x, seams).audible(), letter
        pieces = np.random.default_rng(0).permutation(x[: 40 * (len(x) // 40)].reshape(40, -1))
        assert measure_seams(pieces.ravel(), seams).audible(), letter


@pytest.mark.integration  # 20 seconds
def test_carried_seams_of_a_trained_network_are_not_audible_and_reset_ones_are(trained):
    segments, length, measures = 16, 1000, {}
    for join in ("carry", "reset"):
        parts = [ids for _, ids in stitch(EagerEngine(trained.model), segments, length, join=join)]
        measures[join] = measure_seams(np.concatenate(parts, axis=1)[0], range(length, segments * length, length))
    assert not measures["carry"].audible()
    assert measures["reset"].audible()
    assert measures["reset"].jump > measures["carry"].jump
