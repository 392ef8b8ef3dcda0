"""The id of a character is its position in the vocabulary, and its byte if the vocabulary is an alphabet."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bytecodec
from bytecodec.errors import InputError
from charrnn.data.vocab import Vocab, code_points, describe

texts = st.text(st.characters(), min_size=1)  # all of Unicode but the surrogates, which no UTF-8 holds


def test_in_an_alphabet_the_id_is_the_byte():
    for alphabet in bytecodec.ALPHABETS:
        vocab = Vocab.of_alphabet(alphabet)
        text = bytecodec.encode(bytes(range(256)), alphabet)
        assert vocab.encode(text).tolist() == list(range(256))
        assert vocab.decode(np.arange(256)) == text
        assert (len(vocab), vocab.alphabet) == (256, alphabet)
        assert vocab.to_json() == {"alphabet": alphabet}
        assert Vocab.from_json(vocab.to_json()) == vocab


def test_other_characters_are_sorted_by_code_point():
    vocab = Vocab.of_code_points(code_points("b\U0001f600aä\nba"))
    assert vocab.characters == "\nabä\U0001f600"
    assert vocab.encode("ab\U0001f600").tolist() == [1, 2, 4]


@given(texts)
def test_encoding_and_decoding_are_inverse_for_any_text(text):
    vocab = Vocab.of_code_points(code_points(text))
    ids = vocab.encode(text)
    assert vocab.decode(ids) == text
    assert ids.dtype == vocab.dtype
    assert vocab.characters == "".join(sorted(set(text)))


def test_a_given_order_is_kept():
    assert Vocab("ba").encode("ab").tolist() == [1, 0]
    assert Vocab("ba").encode("").shape == (0,)


def test_an_unknown_character_is_rejected_with_code_point_and_position():
    with pytest.raises(InputError) as caught:
        Vocab("abc").encode("ab\U0001f600", offset=10)
    assert "'\U0001f600' (U+1F600), character 12" in str(caught.value)
    assert "3 characters from 'a' (U+0061) to 'c' (U+0063)" in str(caught.value)
    with pytest.raises(InputError, match="braille"):
        Vocab.of_alphabet("braille").encode("x")


def test_an_id_takes_the_fewest_bytes_that_are_enough_for_all():
    for size, dtype in [(1, "u1"), (256, "u1"), (257, "u2"), (65536, "u2"), (65537, "u4")]:
        vocab = Vocab.of_code_points(np.arange(0x10000, 0x10000 + size))
        assert vocab.dtype == np.dtype(dtype)
        assert vocab.encode(vocab.characters[-1]).tolist() == [size - 1]


def test_an_id_that_is_out_of_range_raises_an_index_error():
    for bad in (3, -1):
        with pytest.raises(IndexError):
            Vocab("abc").decode(np.array([0, bad]))


@given(texts)
def test_a_vocabulary_is_read_back_from_json(text):
    vocab = Vocab("".join(dict.fromkeys(text)))
    assert Vocab.from_json(json.loads(json.dumps(vocab.to_json()))) == vocab


def test_other_json_is_rejected():
    cases = [
        None,
        "abc",
        {},
        {"alphabet": "klingon"},
        {"alphabet": []},
        {"characters": ""},
        {"characters": "aa"},
        {"characters": ["a"]},
    ]
    for foreign in cases:
        with pytest.raises(ValueError, match="vocabulary"):
            Vocab.from_json(foreign)


def test_a_character_is_described_with_its_code_point():
    assert describe("A") == "'A' (U+0041)"
    assert describe("\n") == "'\\n' (U+000A)"
