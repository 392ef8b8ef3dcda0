"""Texts and recordings become ids on disk, which are divided into parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bytecodec
from bytecodec.errors import InputError
from charrnn.data import texts
from charrnn.data.batches import ContiguousBatches
from charrnn.data.corpus import Corpus, last_symbols, open_corpus, prepare_corpus
from charrnn.data.inputs import Input
from charrnn.data.recordings import SoundOptions
from charrnn.data.vocab import Vocab

OPTIONS = SoundOptions()


@pytest.fixture
def corpus(tmp_path):
    """``corpus(*inputs, vocab=None)`` prepares files."""

    def make(*inputs, vocab=None, options=OPTIONS):
        return prepare_corpus([str(i) for i in inputs], tmp_path / "corpus.bin", options, vocab, quiet=True)

    return make


def written(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def test_parts_have_the_sizes_of_torch_rnn():
    cases = [
        (6615000, (0.1, 0.1), (5292000, 661500, 661500)),  # torch-rnn's sizes for 10 minutes
        (19, (0.1, 0.1), (17, 1, 1)),
        (9, (0.1, 0.1), (9, 0, 0)),
        (10, (0.25, 0), (8, 2, 0)),
    ]
    for n, fractions, sizes in cases:
        ids = np.arange(n)
        parts = Corpus(ids, Vocab("ab"), ()).split(*fractions)
        assert list(parts) == ["train", "val", "test"]
        assert tuple(map(len, parts.values())) == sizes
        np.testing.assert_array_equal(np.concatenate(list(parts.values())), ids)


# Texts


def test_the_vocabulary_of_a_plain_text_is_its_characters(corpus, tmp_path):
    found = corpus(written(tmp_path / "a.txt", "\ufeffhä\U0001f600\nh\n"))  # without its byte order mark
    assert found.vocab == Vocab("\nhä\U0001f600")
    assert found.ids.tolist() == [1, 2, 3, 0, 1, 0]
    assert found.names == (str(tmp_path / "a.txt"),)


@pytest.mark.parametrize(
    ("alphabet", "mark", "joint", "ending"),
    [
        ("braille", "", "", ""),
        ("braille", "\ufeff", "\r\n", "\r\n"),
        ("cjk", "\ufeff", "\n\ufeff", "\n"),
        ("cjk", "", "\n\n", ""),
        ("latin", "", "\ufeff", "\n"),
        ("latin", "\ufeff", "\n", ""),
    ],
)
def test_line_ends_and_byte_order_marks_in_a_text_of_sound_are_skipped(corpus, tmp_path, alphabet, mark, joint, ending):
    one, two = (bytecodec.encode(part, alphabet) for part in (b"\0\7", b"\xff"))
    path = written(tmp_path / "a.txt", mark + one + joint + two + ending)
    found = corpus(path)
    assert found.ids.tolist() == [0, 7, 255]
    assert found.vocab == Vocab.of_alphabet(alphabet)
    assert last_symbols(path, found.vocab, OPTIONS, 2).tolist() == [7, 255]


def test_line_ends_within_a_text_of_sound_are_reported_and_one_at_its_end_is_not(tmp_path, capsys):
    prepare_corpus([str(written(tmp_path / "a.txt", "\ufeff⠀⠁\r\n"))], tmp_path / "corpus.bin", OPTIONS)
    assert capsys.readouterr().err == ""
    prepare_corpus([str(written(tmp_path / "a.txt", "⠀\n⠁"))], tmp_path / "corpus.bin", OPTIONS)
    assert "a.txt" in capsys.readouterr().err


def test_a_text_of_two_alphabets_is_rejected_with_the_position(corpus, tmp_path):
    path = written(tmp_path / "a.txt", bytecodec.encode(b"abc") + "\n" + bytecodec.encode(b"d", "cjk"))
    assert f"{path}: U+3964 '㥤' at character 4" in refusal(corpus, path)


@given(st.binary(min_size=1), st.integers(1, 9), st.sampled_from(list(bytecodec.ALPHABETS)))
def test_a_text_gives_the_same_ids_in_blocks_of_any_size(tmp_path, content, size, alphabet):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "BLOCK", size)
        path = written(tmp_path / "a.txt", bytecodec.encode(content, alphabet) + "\n")
        found = prepare_corpus([str(path)], tmp_path / "corpus.bin", OPTIONS, quiet=True)
        assert bytes(found.ids) == content
        path = written(tmp_path / "b.txt", "x" + bytecodec.encode(content, alphabet))
        found = prepare_corpus([str(path)], tmp_path / "corpus.bin", OPTIONS, quiet=True)
        assert found.vocab.decode(found.ids) == path.read_text("utf-8")


def test_a_text_that_is_not_utf8_is_rejected_with_the_offset_in_blocks_of_any_size(corpus, tmp_path, monkeypatch):
    cases = [(b"ab\xffcd", 2), ("aä€".encode() + b"\xc3(", 6), ("a€".encode()[:-1], 1), (b"\x80", 0)]
    for content, offset in cases:
        path = written(tmp_path / "a.txt", content)
        for size in (1, 2, 3, 5, 1 << 22):
            monkeypatch.setattr(texts, "BLOCK", size)
            assert f"offset {offset} " in refusal(corpus, path)


def test_an_empty_text_is_rejected(corpus, tmp_path):
    for content in ("", "\ufeff"):
        path = written(tmp_path / "a.txt", content)
        assert str(path) in refusal(corpus, path)
        assert str(path) in refusal(last_symbols, path, Vocab("abc"), OPTIONS, 100)


def test_a_missing_file_raises_the_error_of_the_system(corpus, tmp_path):
    with pytest.raises(FileNotFoundError):
        corpus(tmp_path / "none.txt")


# Several inputs


def test_inputs_are_joined_in_the_given_order(corpus, tmp_path):
    first, second = written(tmp_path / "z.txt", "ba"), written(tmp_path / "a.txt", "ca\n")
    found = corpus(first, second)
    assert found.vocab.characters == "\nabc"
    assert found.vocab.decode(found.ids) == "baca\n"
    assert found.names == (str(first), str(second))


def test_a_folder_expands_to_its_recordings_sorted_by_path(corpus, tmp_path, write_wav):
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    for name, value in [("c.wav", 3), ("a.wav", 1), ("b/x.wav", 2)]:
        write_wav(folder / name, [value] * 3)
    written(folder / "notes.txt", "left out")
    written(folder / ".hidden.wav", "left out")
    assert corpus(folder).ids.tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_folder_without_recordings_expands_to_its_texts(corpus, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    written(folder / "c.md", "c")
    assert "c.md" in refusal(corpus, folder)
    written(folder / "b.txt", "b")
    written(folder / "a.TXT", "a")
    found = corpus(folder)
    assert found.vocab.decode(found.ids) == "ab"


def test_a_recording_and_texts_of_its_bytes_have_the_same_ids(corpus, tmp_path, write_wav):
    samples = np.random.default_rng(0).integers(0, 256, 999, dtype=np.uint8)
    sound = write_wav(tmp_path / "a.wav", samples)
    text = written(tmp_path / "a.txt", bytecodec.encode(samples, "cjk"))
    other = written(tmp_path / "b.txt", bytecodec.encode(samples, "latin"))
    found = corpus(sound, text, other)
    np.testing.assert_array_equal(found.ids.reshape(3, 999), [samples] * 3)
    assert found.vocab == Vocab.of_alphabet("cjk")  # the alphabet of the first text, in which samples are written
    assert corpus(sound).vocab == Vocab.of_alphabet("braille")


def test_recordings_and_plain_text_cannot_be_mixed(corpus, tmp_path, write_wav):
    sound, text = write_wav(tmp_path / "a.wav", [1, 2, 3]), written(tmp_path / "a.txt", "abc")
    message = refusal(corpus, text, sound)
    assert str(sound) in message
    assert str(text) in message


def test_a_recording_is_recognised_by_its_content(corpus, tmp_path, write_wav):
    assert corpus(write_wav(tmp_path / "sound.txt", [9, 8, 7])).ids.tolist() == [9, 8, 7]
    assert corpus(written(tmp_path / "text.bin", "abba")).ids.tolist() == [0, 1, 1, 0]


def test_recordings_are_converted_to_the_rate_and_encoding_of_the_options(corpus, tmp_path, write_wav):
    path = write_wav(tmp_path / "a.wav", [128] * 2000, rate=22050)
    assert corpus(path).ids.tolist() == [128] * 1000
    assert corpus(path, options=SoundOptions(rate=22050, mulaw=True)).ids.tolist() == [255] * 2000


# A given vocabulary


def test_a_given_vocabulary_is_not_extended(corpus, tmp_path, monkeypatch):
    vocab = Vocab("zyxcba")
    found = corpus(written(tmp_path / "a.txt", "abc"), vocab=vocab)
    assert found.ids.tolist() == [5, 4, 3]
    assert found.vocab is vocab
    monkeypatch.setattr(texts, "BLOCK", 4)
    path = written(tmp_path / "a.txt", "abababäb?")
    message = refusal(corpus, path, vocab=Vocab("abä"))
    assert str(path) in message
    assert "'?' (U+003F), character 8" in message


def test_a_network_of_bytes_can_be_trained_on_every_alphabet(corpus, tmp_path, write_wav):
    vocab = Vocab.of_alphabet("latin")
    text = written(tmp_path / "a.txt", bytecodec.encode(b"\x01\x02", "cjk"))
    found = corpus(text, write_wav(tmp_path / "a.wav", [3, 4]), vocab=vocab)
    assert (found.ids.tolist(), found.vocab) == ([1, 2, 3, 4], vocab)


def test_a_given_vocabulary_of_the_other_kind_is_rejected(corpus, tmp_path, write_wav):
    text, sound = written(tmp_path / "a.txt", "abc"), write_wav(tmp_path / "a.wav", [1, 2])
    assert str(text) in refusal(corpus, text, vocab=Vocab.of_alphabet("braille"))
    assert str(sound) in refusal(corpus, sound, vocab=Vocab("ab"))


# On disk


def test_an_id_takes_one_byte_on_disk_for_up_to_256_symbols_and_two_for_more(corpus, tmp_path):
    few = "".join(map(chr, range(0x4E00, 0x4E00 + 256)))
    assert corpus(written(tmp_path / "a.txt", few)).ids.nbytes == 256
    assert (tmp_path / "corpus.bin").read_bytes() == bytes(range(256))
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 257)))
    assert corpus(written(tmp_path / "a.txt", many)).ids.nbytes == 514
    assert (tmp_path / "corpus.bin").stat().st_size == 514


def test_parts_and_batches_are_views_of_the_mapped_corpus(corpus, tmp_path):
    found = corpus(written(tmp_path / "a.txt", "ab" * 500))
    assert isinstance(found.ids, np.memmap)
    train = found.split(0.1, 0.1)["train"]
    assert np.shares_memory(train, found.ids)
    assert np.shares_memory(ContiguousBatches(train, 4, 5)._rows, found.ids)


def test_a_corpus_larger_than_memory_can_be_read(tmp_path):
    path, size = tmp_path / "corpus.bin", 1 << 40
    with path.open("wb") as file:
        file.seek(size - 3)  # a hole of a terabyte, which takes no disk
        file.write(b"abc")
    found = open_corpus(path, Vocab.of_alphabet("braille"), ("big",))
    batches = ContiguousBatches(found.split(0, 0)["train"], 4, 64)
    assert batches.at(batches.row_length - 64, 64)[0].shape == (4, 64)
    assert found.ids[-3:].tobytes() == b"abc"


def test_the_characters_of_many_texts_take_little_memory(tmp_path):
    """A table of all of Unicode for each of a folder's thousand texts would take a gigabyte."""
    files = [written(tmp_path / f"{i}.txt", chr(0x61 + i % 26)) for i in range(40)]
    found = [texts.Characters.of(Input(file, str(file), False)) for file in files]
    assert sum(characters.code_points.nbytes for characters in found) < 1000


# The end of a file, to start sampling from


@given(st.integers(1, 30), st.integers(1, 12))
def test_the_last_symbols_of_a_text_are_its_end(tmp_path, count, block):
    path = written(tmp_path / "a.txt", "abcdefghijklmnopqrst")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "BLOCK", block)
        ids = last_symbols(path, Vocab("abcdefghijklmnopqrst"), OPTIONS, count)
    assert ids.tolist() == list(range(20))[-count:]


def test_the_last_symbols_of_a_recording_are_its_end(tmp_path, write_wav, tone):
    path = write_wav(tmp_path / "a.wav", tone)
    ids = last_symbols(path, Vocab.of_alphabet("braille"), OPTIONS, 100)
    np.testing.assert_array_equal(ids, tone[-100:])
