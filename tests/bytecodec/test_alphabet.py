"""Bytes to characters and back: every byte, every alphabet, any chunking, and each sentence of refusal."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytecodec import ALPHABETS, Decoder, Encoder, InputError, alphabet_of, decode, encode

ALL_BYTES = bytes(range(256))
alphabets = pytest.mark.parametrize("alphabet", ALPHABETS)
steady = settings(derandomize=True, deadline=None)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[i:j] for i, j in itertools.pairwise(edges)]


def stream(coder: Encoder | Decoder, chunks: list[bytes]) -> bytes:
    return b"".join(coder.feed(chunk) for chunk in chunks) + coder.close()


def refusal(text: bytes) -> str:
    with pytest.raises(InputError) as caught:
        stream(Decoder(), [text])
    return str(caught.value)


@pytest.mark.parametrize(("alphabet", "first"), [("braille", 0x2800), ("cjk", 0x3900), ("latin", 0x0100)])
def test_byte_b_is_the_character_b_after_the_alphabets_first(alphabet: str, first: int) -> None:
    assert encode(ALL_BYTES, alphabet) == "".join(chr(first + byte) for byte in range(256))
    assert ALPHABETS[alphabet] == first


def test_the_document_lists_the_alphabets_as_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
    for name, first in ALPHABETS.items():
        width = len(chr(first).encode())
        assert f"| `{name}` | U+{first:04X} | U+{first:04X} + b | U+{first + 255:04X} | {width} |" in page


@alphabets
def test_all_bytes_come_back_from_text(alphabet: str) -> None:
    assert decode(encode(ALL_BYTES, alphabet)) == ALL_BYTES


@steady
@given(data=st.binary(max_size=300), alphabet=st.sampled_from(sorted(ALPHABETS)), places=st.lists(st.integers(0, 999)))
def test_any_bytes_come_back_through_any_chunks(data: bytes, alphabet: str, places: list[int]) -> None:
    text = stream(Encoder(alphabet), cut(data, places))
    assert text == encode(data, alphabet).encode()
    assert stream(Decoder(), cut(text, places)) == data


@steady
@given(
    data=st.binary(max_size=40),
    places=st.lists(st.integers(0, 999)),
    mark=st.booleans(),
    end=st.sampled_from(["", "\n", "\r\n"]),
)
def test_a_mark_and_one_line_end_are_allowed_however_the_text_is_cut(
    data: bytes, places: list[int], mark: bool, end: str
) -> None:
    text = "\ufeff" * mark + encode(data) + end
    assert decode(text) == data
    assert stream(Decoder(), cut(text.encode(), places)) == data


@steady
@given(
    text=st.text(alphabet=st.sampled_from("⠀⠁⣿㤀Āa\n\r\ufeff🂡\udc80"), max_size=12),
    places=st.lists(st.integers(0, 999), max_size=4),
)
def test_skip_keeps_just_the_characters_of_the_first_alphabet(text: str, places: list[int]) -> None:
    data = text.encode("utf-8", "surrogatepass").replace("\udc80".encode("utf-8", "surrogatepass"), b"\xff")
    whole, parts = Decoder(errors="skip"), Decoder(errors="skip")
    values = stream(whole, [data])
    assert stream(parts, cut(data, places)) == values
    assert parts.skipped == whole.skipped
    name = next((alphabet for alphabet in map(alphabet_of, text) if alphabet), None)
    assert (whole.alphabet, values) == (
        name,
        bytes(ord(c) - ALPHABETS[name] for c in text if alphabet_of(c) == name) if name else b"",
    )
    tolerated = (
        text.startswith("\ufeff")
        + len(text.removeprefix("\ufeff"))
        - len(_without_line_end(text.removeprefix("\ufeff")))
    )
    assert whole.skipped == len(text) - len(values) - tolerated


def _without_line_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\r\n") else text.removesuffix("\n")


@steady
@given(
    data=st.binary(min_size=1, max_size=20), place=st.integers(0, 20), places=st.lists(st.integers(0, 99), max_size=5)
)
def test_a_foreign_character_is_refused_with_its_offset_however_the_text_is_cut(
    data: bytes, place: int, places: list[int]
) -> None:
    place = 1 + place % len(data)
    text = encode(data[:place]) + "A" + encode(data[place:])
    with pytest.raises(
        InputError, match=rf"^U\+0041 'A' at character {place} \(byte {3 * place}\) is not of the braille alphabet\.$"
    ):
        stream(Decoder(), cut(text.encode(), places))
    with pytest.raises(ValueError, match=rf"^U\+0041 'A' at character {place} is not of the braille alphabet\.$"):
        decode(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("⠀⠁A⠂", "U+0041 'A' at character 2 (byte 6) is not of the braille alphabet."),
        ("⠀㤁", "U+3901 '㤁' at character 1 (byte 3) is of the cjk alphabet, and the text began in braille."),
        ("ĀĂ⠂", "U+2802 '⠂' at character 2 (byte 4) is of the braille alphabet, and the text began in latin."),
        ("A⠀", "U+0041 'A' at character 0 (byte 0) is not of the braille alphabet."),
        (
            "Hello",
            "U+0048 'H' at character 0 (byte 0) is of no alphabet (braille, cjk, latin): "
            "this is no text made from bytes.",
        ),
        ("⠀\n⠁", "U+000A '\\n' at character 1 (byte 3) is not of the braille alphabet."),
        ("⠀\n\n", "U+000A '\\n' at character 1 (byte 3) is not of the braille alphabet."),
        ("⠀\r", "U+000D '\\r' at character 1 (byte 3) is not of the braille alphabet."),
        ("\ufeff\ufeff⠀", "U+FEFF '\\ufeff' at character 1 (byte 3) is not of the braille alphabet."),
        ("⠀\ufeff", "U+FEFF '\\ufeff' at character 1 (byte 3) is not of the braille alphabet."),
        ("\ufeff⠀🂡", "U+1F0A1 '🂡' at character 2 (byte 6) is not of the braille alphabet."),
        ("⠀\u2900", "U+2900 '⤀' at character 1 (byte 3) is not of the braille alphabet."),
        ("⠀\u27ff", "U+27FF '⟿' at character 1 (byte 3) is not of the braille alphabet."),
    ],
)  # fmt: skip
def test_what_is_foreign_is_named_with_code_point_and_offset(text: str, sentence: str) -> None:
    assert refusal(text.encode()) == sentence


def test_a_foreign_character_far_into_a_long_text_is_found() -> None:
    text = encode(bytes(200_000)) + "A"
    assert refusal(text.encode()) == "U+0041 'A' at character 200000 (byte 600000) is not of the braille alphabet."
    with pytest.raises(InputError, match="at character 200000 is"):
        decode(text)


def test_a_text_cut_in_the_middle_of_a_character_is_refused_at_its_end() -> None:
    assert refusal("⠀⠁".encode()[:-1]) == "the text ends in the middle of a character, at character 1 (byte 3)."


def test_bytes_that_are_not_utf8_are_refused_with_their_offset() -> None:
    assert refusal("⠀⠁".encode() + b"\xff" + "⠀".encode()) == "byte 0xFF at character 2 (byte 6) is not UTF-8."
    assert refusal("\ufeff".encode() + b"\xe2\x41") == "byte 0xE2 at character 1 (byte 3) is not UTF-8."


def test_a_foreign_character_before_broken_utf8_is_named_first() -> None:
    assert refusal("⠀A".encode() + b"\xff").startswith("U+0041 'A' at character 1 (byte 3)")


def test_skip_counts_what_it_leaves_out() -> None:
    decoder = Decoder(errors="skip")
    assert stream(decoder, ["⠁A⠂\n㤁⠃".encode() + b"\xff" + "⠄".encode()[:-1]]) == b"\x01\x02\x03"
    assert (decoder.alphabet, decoder.skipped) == ("braille", 5)


@pytest.mark.parametrize("text", ["", "\ufeff", "\n", "\r\n", "\ufeff\n"])
def test_an_empty_text_is_no_bytes(text: str) -> None:
    assert decode(text) == b""
    assert stream(Decoder(), [text.encode()]) == b""


def test_lone_surrogates_are_foreign() -> None:
    with pytest.raises(InputError, match=r"^U\+D800 '\\ud800' at character 1 is not of the braille alphabet\.$"):
        decode("⠀\ud800")


@pytest.mark.parametrize(
    ("characters", "alphabet"),
    [
        ("⠀⣿", "braille"),
        ({"㤀", "㧿"}, "cjk"),
        (["Ā", "ǿ"], "latin"),
        ("", None),
        ("⠀㤀", None),
        ("⠀a", None),
        ("abc", None),
    ],
)
def test_alphabet_of_names_the_one_alphabet_that_holds_all(characters: str, alphabet: str | None) -> None:
    assert alphabet_of(characters) == alphabet


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"^there is no alphabet 'greek': choose one of braille, cjk, latin\.$"):
        encode(b"", "greek")
    with pytest.raises(InputError, match=r"^there is no alphabet 'greek'"):
        Encoder("greek")
    with pytest.raises(InputError, match=r"^there is no way 'ignore' to deal with errors: choose strict or skip\.$"):
        Decoder(errors="ignore")
