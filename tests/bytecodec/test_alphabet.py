"""Alphabets: every byte, any division into chunks, and each message about an invalid text."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytecodec import ALPHABETS, Decoder, Encoder, InputError, alphabet_of, decode, encode

ALL_BYTES = bytes(range(256))
DOCS = Path(__file__).parents[2] / "docs"
offsets = st.lists(st.integers(0, 999), max_size=9)


def divided(data, offsets):
    edges = [0, *sorted(offset % (len(data) + 1) for offset in offsets), len(data)]
    return [data[i:j] for i, j in itertools.pairwise(edges)]


def stream(coder, chunks):
    return b"".join(coder.feed(chunk) for chunk in chunks) + coder.close()


def message(text):
    with pytest.raises(InputError) as caught:
        stream(Decoder(), [text])
    return str(caught.value)


@pytest.mark.parametrize(("alphabet", "first"), [("braille", 0x2800), ("cjk", 0x3900), ("latin", 0x0100)])
def test_byte_b_is_the_character_b_after_the_first_one_of_the_alphabet(alphabet, first):
    assert encode(ALL_BYTES, alphabet) == "".join(chr(first + byte) for byte in range(256))
    assert decode(encode(ALL_BYTES, alphabet)) == ALL_BYTES
    page = next(DOCS.rglob("formats.md")).read_text("utf-8")
    width = len(chr(first).encode())
    (line,) = (line for line in page.splitlines() if line.startswith(f"- `{alphabet}`"))
    assert f": U+{first:04X} to U+{first + 255:04X}, {width} bytes" in line


@given(
    data=st.binary(max_size=300),
    alphabet=st.sampled_from(sorted(ALPHABETS)),
    offsets=offsets,
    mark=st.booleans(),
    end=st.sampled_from(["", "\n", "\r\n"]),
)
def test_any_bytes_are_decoded_from_any_chunks_with_a_mark_and_a_line_end(data, alphabet, offsets, mark, end):
    text = stream(Encoder(alphabet), divided(data, offsets))
    assert text == encode(data, alphabet).encode()
    text = "\ufeff".encode() * mark + text + end.encode()
    assert stream(Decoder(), divided(text, offsets)) == data
    assert decode(text.decode()) == data


@given(text=st.text(alphabet=st.sampled_from("⠀⠁⣿㤀Āa\n\r\ufeff🂡\udc80"), max_size=12), offsets=offsets)
def test_skip_keeps_exactly_the_characters_of_the_first_alphabet(text, offsets):
    data = text.encode("utf-8", "surrogatepass").replace("\udc80".encode("utf-8", "surrogatepass"), b"\xff")
    whole, parts = Decoder(errors="skip"), Decoder(errors="skip")
    values = stream(whole, [data])
    assert stream(parts, divided(data, offsets)) == values
    assert parts.skipped == whole.skipped
    name = next((alphabet for alphabet in map(alphabet_of, text) if alphabet), None)
    expected = bytes(ord(c) - ALPHABETS[name] for c in text if alphabet_of(c) == name) if name else b""
    assert (whole.alphabet, values) == (name, expected)
    body = text.removeprefix("\ufeff")
    end = 2 if body.endswith("\r\n") else body.endswith("\n")
    assert whole.skipped == len(body) - end - len(values)


@given(data=st.binary(min_size=1, max_size=20), at=st.integers(0, 20), offsets=offsets)
def test_the_offset_of_an_error_does_not_depend_on_the_chunks(data, at, offsets):
    at = 1 + at % len(data)
    text = encode(data[:at]) + "A" + encode(data[at:])
    with pytest.raises(InputError, match=rf"^U\+0041 'A' at character {at} \(byte {3 * at}\) is not"):
        stream(Decoder(), divided(text.encode(), offsets))
    with pytest.raises(ValueError, match=rf"^U\+0041 'A' at character {at} is not"):
        decode(text)


def test_a_character_of_another_alphabet_is_reported_with_its_offset():
    invalid = {
        "⠀㤁": "U+3901 '㤁' at character 1 (byte 3) is of the cjk alphabet",
        "ĀĂ⠂": "U+2802 '⠂' at character 2 (byte 4) is of the braille alphabet",
        "A⠀": "U+0041 'A' at character 0 (byte 0) is not in the braille",
        "Hello": "U+0048 'H' at character 0 (byte 0) is in no alphabet (braille, cjk, latin)",
        "⠀\n\n": "U+000A '\\n' at character 1 (byte 3)",
        "⠀\r": "U+000D '\\r' at character 1 (byte 3)",
        "\ufeff\ufeff⠀": "U+FEFF '\\ufeff' at character 1 (byte 3)",
        "\ufeff⠀🂡": "U+1F0A1 '🂡' at character 2 (byte 6)",
        "⠀\u2900": "U+2900",
        "⠀\u27ff": "U+27FF",
        "⠀" * 200_000 + "A": "at character 200000 (byte 600000)",
    }
    for text, words in invalid.items():
        assert words in message(text.encode())


def test_bytes_that_are_not_utf8_are_reported_with_their_offset():
    invalid = {
        "⠀⠁".encode()[:-1]: "within a character, at character 1 (byte 3)",
        "⠀⠁".encode() + b"\xff" + "⠀".encode(): "byte 0xFF at character 2 (byte 6) is not UTF-8",
        "\ufeff".encode() + b"\xe2\x41": "byte 0xE2 at character 1 (byte 3) is not UTF-8",
        "⠀A".encode() + b"\xff": "U+0041 'A' at character 1 (byte 3)",
    }
    for data, words in invalid.items():
        assert words in message(data)


def test_skip_counts_the_characters_that_it_leaves_out():
    decoder = Decoder(errors="skip")
    assert stream(decoder, ["⠁A⠂\n㤁⠃".encode() + b"\xff" + "⠄".encode()[:-1]]) == b"\x01\x02\x03"
    assert (decoder.alphabet, decoder.skipped) == ("braille", 5)


def test_a_text_without_characters_has_no_bytes():
    for text in ("", "\ufeff", "\n", "\r\n", "\ufeff\n"):
        assert decode(text) == stream(Decoder(), [text.encode()]) == b""


def test_a_lone_surrogate_is_reported():
    with pytest.raises(InputError, match=r"^U\+D800 '\\ud800' at character 1 "):
        decode("⠀\ud800")


def test_alphabet_of_returns_the_one_alphabet_of_all_characters():
    texts = ["⠀⣿", {"㤀", "㧿"}, ["Ā", "ǿ"], "", "⠀㤀", "⠀a", "abc"]
    assert [*map(alphabet_of, texts)] == ["braille", "cjk", "latin", None, None, None, None]


def test_unknown_names_are_rejected_with_the_valid_ones():
    for call in (lambda: encode(b"", "greek"), lambda: Encoder("greek")):
        with pytest.raises(InputError, match=r"'greek'.*braille, cjk, latin"):
            call()
    with pytest.raises(InputError, match="table is a str"):
        Decoder(table="voice.table")
    with pytest.raises(InputError, match=r"'ignore'.*strict or skip"):
        Decoder(errors="ignore")
