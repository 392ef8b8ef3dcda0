"""Sample formats: G.711 mu-law against a second, plain implementation of the standard, and conversion to int16."""

import numpy as np
import pytest

from bytecodec import decode_mulaw, encode_mulaw
from bytecodec.pcm import bytes_to_int16, floats_to_int16, looks_like_mulaw

EVERY_BYTE = np.arange(256, dtype=np.uint8)


def plain_decode(byte):
    """Return the value of a code word at 16 bits by ITU-T G.711, table 2b."""
    word = 255 - byte
    segment, step = word // 16 % 8, word % 16
    magnitude = (2 * step + 33) * 2**segment - 33  # at 14 bits
    return 4 * (-magnitude if word >= 128 else magnitude)


def plain_encode(sample):
    """Search the segment whose upper decision value exceeds the biased magnitude, then the step in it."""
    magnitude = min(abs(sample) // 4, 8158) + 33
    segment = next(i for i in range(8) if magnitude < 64 << i)
    step = (magnitude - (32 << segment)) // (2 << segment)
    return 255 - (128 * (sample < 0) + 16 * segment + step)


def test_mu_law_is_told_from_linear_samples_of_sound():
    t = np.arange(20_000)
    tone = 3000 * np.sin(0.05 * t) * np.sin(0.0007 * t) + np.random.default_rng(0).normal(0, 100, len(t))
    assert looks_like_mulaw(encode_mulaw(tone.astype(np.int16))) is True
    assert looks_like_mulaw((tone / 256 + 128).astype(np.uint8)) is False
    for unclear in (np.random.default_rng(0).integers(0, 256, 20_000), np.full(100, 128), np.array([5]), np.array([])):
        assert looks_like_mulaw(unclear.astype(np.uint8)) is None


def test_every_byte_decodes_to_the_value_in_the_table_of_the_standard():
    assert decode_mulaw(EVERY_BYTE).tolist() == [plain_decode(byte) for byte in range(256)]


def test_every_16_bit_sample_encodes_as_a_search_through_the_segments():
    samples = np.arange(-32768, 32768, dtype=np.int16)
    assert encode_mulaw(samples).tolist() == [plain_encode(sample) for sample in range(-32768, 32768)]
    expected = {0: 0xFF, 3: 0xFF, 4: 0xFE, -1: 0x7F, -4: 0x7E, 123: 0xF0, 124: 0xEF, 32767: 0x80, -32768: 0x00}
    assert encode_mulaw(np.array([*expected], np.int16)).tolist() == [*expected.values()]


def test_a_decoded_byte_encodes_to_itself_except_minus_zero():
    again = encode_mulaw(decode_mulaw(EVERY_BYTE))
    assert np.flatnonzero(again != EVERY_BYTE).tolist() == [0x7F]
    assert again[0x7F] == 0xFF


@pytest.mark.parametrize("mulaw", [False, True])
def test_bytes_become_16_bit_samples(mulaw):
    samples = bytes_to_int16(EVERY_BYTE, mulaw)
    assert samples.dtype == np.int16
    expected = [plain_decode(b) for b in range(256)] if mulaw else [256 * (b - 128) for b in range(256)]
    assert samples.tolist() == expected


def test_floats_are_rounded_and_clipped_to_16_bits():
    samples = floats_to_int16(np.float32([-1, 1, 32767 / 32768, -2, 2, 0, 0.5 / 32768, -0.5 / 32768]))
    assert samples.dtype == np.int16
    assert samples.tolist() == [-32768, 32767, 32767, -32768, 32767, 0, 1, 0]
