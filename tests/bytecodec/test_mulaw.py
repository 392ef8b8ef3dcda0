"""G.711 mu-law against the standard written down a second time, plainly."""

import numpy as np
import pytest

from bytecodec import decode_mulaw, encode_mulaw


def plain_decode(byte: int) -> int:
    """ITU-T G.711, table 2b, at 16 bits: the value of a code word."""
    word = 255 - byte
    segment, step = word // 16 % 8, word % 16
    magnitude = (2 * step + 33) * 2**segment - 33  # at 14 bits
    return 4 * (-magnitude if word >= 128 else magnitude)


def plain_encode(sample: int) -> int:
    """Search the segment whose upper decision value exceeds the biased magnitude, then the step in it."""
    magnitude = min(abs(sample) // 4, 8158) + 33
    segment = next(i for i in range(8) if magnitude < 64 << i)
    step = (magnitude - (32 << segment)) // (2 << segment)
    return 255 - (128 * (sample < 0) + 16 * segment + step)


def test_every_byte_decodes_to_the_value_in_the_standards_table() -> None:
    assert decode_mulaw(np.arange(256, dtype=np.uint8)).tolist() == [plain_decode(byte) for byte in range(256)]


def test_every_16_bit_sample_encodes_as_a_search_through_the_segments_does() -> None:
    samples = np.arange(-32768, 32768, dtype=np.int16)
    assert encode_mulaw(samples).tolist() == [plain_encode(sample) for sample in range(-32768, 32768)]


@pytest.mark.parametrize(
    ("sample", "byte"),
    [
        (0, 0xFF),
        (3, 0xFF),
        (4, 0xFE),
        (-1, 0x7F),
        (-4, 0x7E),
        (123, 0xF0),
        (124, 0xEF),
        (32124, 0x80),
        (32767, 0x80),
        (-32768, 0x00),
    ],
)
def test_known_code_words(sample: int, byte: int) -> None:
    assert encode_mulaw(np.array([sample], np.int16)).tolist() == [byte]


def test_a_decoded_byte_encodes_to_itself_but_for_minus_zero() -> None:
    values = np.arange(256, dtype=np.uint8)
    again = encode_mulaw(decode_mulaw(values))
    assert np.flatnonzero(again != values).tolist() == [0x7F]
    assert again[0x7F] == 0xFF
