"""Bits per symbol of FLAC, bzip2 and the histogram: figures of the real programs, and properties that always hold."""

from __future__ import annotations

import bz2
import io
import math
import wave

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from bytecodec.pcm import decode_mulaw, encode_mulaw
from charrnn.data import baselines
from charrnn.data.baselines import (
    bzip2_bits,
    entropy_bits,
    flac_bits,
    mulaw_levels,
    order0_bits,
    short_summary,
    summary,
    total_symbols,
)
from charrnn.data.vocab import Vocab

BYTES = Vocab.of_alphabet("braille")
some_bytes = st.lists(st.integers(0, 255), min_size=1, max_size=300).map(lambda x: np.array(x, np.uint8))


def uniform(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, n, dtype=np.uint8)


@pytest.mark.parametrize(
    ("recording", "part", "flac", "order0"),  # flac -8 -e -p --no-padding --no-seektable 1.4.2, bytes * 8 / samples
    [
        ("A1_voice_kathleen_11025_u8.wav", "val", 3.292, 5.249),
        ("B1_piano_wtc_11025_u8.wav", "val", 3.250, 5.746),
        ("C1_synth_espeak_f3_alice_11025_u8.wav", "test", 3.991, 5.163),
    ],
)
def test_recordings_need_within_a_percent_of_the_bits_of_the_flac_program(shared_audio, recording, part, flac, order0):
    with wave.open(str(shared_audio / recording)) as file:
        ids = np.frombuffer(file.readframes(file.getnframes()), np.uint8)
    n = len(ids) // 10
    train, val, test = np.split(ids, [len(ids) - 2 * n, len(ids) - n])
    ids = {"val": val, "test": test}[part]
    assert flac <= flac_bits(ids, 11025) < 1.01 * flac
    assert order0_bits(train, ids, 256) == pytest.approx(order0, abs=6e-4)


def test_flac_is_measured_by_a_file_of_8_bits_with_the_samples(tone):
    file = io.BytesIO()
    samples = (tone.astype(np.int16) - 128) << 8
    soundfile.write(file, samples, 11025, "PCM_S8", format="FLAC", compression_level=1.0)
    assert flac_bits(tone, 11025) == 8 * len(file.getvalue()) / len(tone)
    file.seek(0)
    assert np.array_equal(soundfile.read(file, dtype="int16")[0], samples)


def test_flac_needs_8_bits_for_noise_and_nearly_none_for_silence():
    assert 8 < flac_bits(uniform(200_000), 11025) < 8.03
    assert flac_bits(np.full(200_000, 128, np.uint8), 11025) < 0.04


def test_the_bits_of_flac_hardly_depend_on_the_rate(tone):
    for rate in (1000, 44100, 655_350, 655_351, 768_000):
        assert flac_bits(tone, rate) == pytest.approx(flac_bits(tone, 11025), abs=0.01)


@settings(max_examples=30)
@given(some_bytes, st.integers(1, 50))
def test_the_bits_of_flac_are_the_same_in_blocks_of_any_size(ids, block):
    whole = flac_bits(ids, 11025)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "BLOCK", block)
        assert flac_bits(ids, 11025) == whole


def test_mulaw_levels_sort_the_bytes_by_amplitude():
    bytes_by_level = np.argsort(mulaw_levels()).astype(np.uint8)
    assert sorted(bytes_by_level) == list(range(256))
    assert (np.diff(decode_mulaw(bytes_by_level).astype(int)) >= 0).all()
    assert list(mulaw_levels()[[0x7F, 0xFF]]) == [127, 128]  # the two zeros


def test_flac_needs_fewer_bits_for_sorted_mulaw_bytes(tone):
    mulaw = encode_mulaw((tone.astype(np.int16) - 128) << 8)
    assert flac_bits(mulaw, 11025, mulaw=True) < flac_bits(mulaw, 11025) - 0.5


def test_bzip2_codes_the_text_as_utf_8():
    text = "Žluťoučký kůň úpěl ďábelské ódy. 你好世界。\n" * 40
    vocab = Vocab("".join(sorted(set(text))))
    assert bzip2_bits(vocab.encode(text), vocab) == 8 * len(bz2.compress(text.encode(), 9)) / len(text)


def test_order_0_bits_of_a_small_histogram_are_those_computed_by_hand():
    train, ids = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 3])
    # counts plus 1: 4, 3, 2 and 1 of 10
    bits = -(math.log2(0.4) + math.log2(0.3) + math.log2(0.1)) / 3
    assert order0_bits(train, ids, 4) == pytest.approx(bits)


def test_order_0_needs_8_bits_for_uniform_bytes_and_none_for_an_expected_constant():
    assert order0_bits(uniform(500_000), uniform(100_000, 1), 256) == pytest.approx(8, abs=0.001)
    assert entropy_bits(np.repeat(np.arange(256, dtype=np.uint8), 3), 256) == 8
    silence = np.full(100_000, 128, np.uint8)
    assert order0_bits(silence, silence, 256) < 0.01
    assert order0_bits(uniform(100_000), silence, 256) > 7.8
    assert entropy_bits(silence, 256) == 0


@given(some_bytes, some_bytes, st.randoms(use_true_random=False))
def test_order_0_depends_neither_on_the_order_nor_on_the_names_of_symbols(train, ids, random):
    bits = order0_bits(train, ids, 256)
    names = list(range(256))
    random.shuffle(names)
    renamed = np.array(names, np.uint8)
    assert order0_bits(renamed[train], renamed[ids[::-1]], 256) == pytest.approx(bits)
    assert entropy_bits(renamed[ids[::-1]], 256) == pytest.approx(entropy_bits(ids, 256))


@given(some_bytes, some_bytes)
def test_no_histogram_needs_fewer_bits_than_that_of_the_part_itself(train, ids):
    assert -1e-9 <= entropy_bits(ids, 256) <= min(8, order0_bits(train, ids, 256)) + 1e-9


def test_symbols_of_any_integer_type_are_counted():
    for dtype in (np.uint8, np.uint16, np.uint32):
        assert entropy_bits(np.array([0, 1, 2, 3], dtype), 70_000) == 2


def test_a_large_part_is_measured_by_blocks_at_equal_distances(monkeypatch):
    monkeypatch.setattr(baselines, "BLOCK", 10)
    monkeypatch.setattr(baselines, "MAX_SYMBOLS", 30)
    seen = []
    ids = np.arange(101, dtype=np.uint8)
    assert entropy_bits(ids, 256, seen.append) == pytest.approx(math.log2(30))
    assert seen == [10, 10, 10]
    assert [list(block) for block in baselines._blocks(ids)] == [[*range(k, k + 10)] for k in (0, 45, 91)]
    assert flac_bits(ids, 11025) == pytest.approx(flac_bits(np.concatenate([*baselines._blocks(ids)]), 11025))


def test_the_sample_of_a_large_uniform_part_needs_the_bits_of_the_whole(monkeypatch, tone):
    large = np.tile(tone, 40)
    whole = baselines.measure_baselines(large, large, BYTES, 11025)
    monkeypatch.setattr(baselines, "BLOCK", 1 << 14)
    monkeypatch.setattr(baselines, "MAX_SYMBOLS", 16 << 14)
    assert baselines.measure_baselines(large, large, BYTES, 11025) == pytest.approx(whole, rel=0.01)


@pytest.mark.parametrize(("rate", "has_train"), [(11025, True), (11025, False), (None, True)])
def test_each_kind_has_its_own_baselines_and_progress_counts_each_symbol(tone, rate, has_train):
    counts = []
    part, train = tone[:5000], tone[5000:] if has_train else None
    bits = baselines.measure_baselines(part, train, BYTES, rate, on_progress=counts.append)
    assert set(bits) == {"flac" if rate else "bzip2", "order0" if has_train else "entropy"}
    assert sum(counts) == total_symbols(part, train)


def test_ids_that_are_not_bytes_are_coded_by_bzip2_whatever_the_rate(tone):
    vocab = Vocab("".join(map(chr, range(300, 556))))
    assert set(baselines.measure_baselines(tone, None, vocab, 11025)) == {"bzip2", "entropy"}


def test_the_encoding_is_passed_on_to_flac(tone):
    assert baselines.measure_baselines(tone, None, BYTES, 11025, True)["flac"] == flac_bits(tone, 11025, True)


def test_summaries_have_two_decimals_and_a_unit():
    sound, text = {"flac": 3.294, "order0": 5.249}, {"bzip2": 2.0, "order0": 4.5}
    assert (
        summary(sound) == "3.29 bits per sample in FLAC, 5.25 in order-0 coding by the histogram of the training part"
    )
    assert (
        summary(text) == "2.00 bits per symbol in bzip2, 4.50 in order-0 coding by the histogram of the training part"
    )
    assert short_summary(sound) == "FLAC 3.29, order-0 5.25"
    assert short_summary({}) == ""
