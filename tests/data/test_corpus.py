"""Texts and recordings become ids on disk, and batches are contiguous rows of them."""

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


# Parts


@pytest.mark.parametrize(
    ("n", "fractions", "sizes"),
    [
        (6615000, (0.1, 0.1), (5292000, 661500, 661500)),  # what torch-rnn made of 10 minutes
        (19, (0.1, 0.1), (17, 1, 1)),
        (9, (0.1, 0.1), (9, 0, 0)),
        (10, (0.25, 0), (8, 2, 0)),
        (10, (0, 0), (10, 0, 0)),
    ],
)
def test_parts_are_cut_with_int_as_in_torch_rnn(n, fractions, sizes):
    ids = np.arange(n)
    parts = Corpus(ids, Vocab("ab"), ()).split(*fractions)
    assert list(parts) == ["train", "val", "test"]
    assert tuple(map(len, parts.values())) == sizes
    np.testing.assert_array_equal(np.concatenate(list(parts.values())), ids)


# Batches


def test_rows_lie_end_to_end_and_targets_are_one_on():
    batches = ContiguousBatches(np.arange(26, dtype=np.uint8), n=3, multiple=4)
    assert (batches.row_length, batches.rows) == (8, 3)
    x, y = batches.at(4, 4)
    assert x.tolist() == [[4, 5, 6, 7], [12, 13, 14, 15], [20, 21, 22, 23]]
    assert y.tolist() == [[5, 6, 7, 8], [13, 14, 15, 16], [21, 22, 23, 24]]
    assert x.dtype == y.dtype == np.int64


@pytest.mark.parametrize(("n", "row_length"), [(24, 4), (25, 8), (26, 8), (36, 8), (37, 12)])
def test_a_part_of_whole_batches_gives_up_one_because_the_last_target_is_missing(n, row_length):
    assert ContiguousBatches(np.arange(n), n=3, multiple=4).row_length == row_length


def test_rows_begin_again_at_their_end():
    batches = ContiguousBatches(np.arange(26), n=3, multiple=4)
    for position in (0, 4):
        for got, want in zip(batches.at(position + 24, 4), batches.at(position, 4), strict=True):
            np.testing.assert_array_equal(got, want)


shapes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 30))


@given(shapes)
def test_windows_of_any_size_that_divides_a_row_join_to_the_rows(shape):
    n, t, times, more = shape
    ids = np.arange(n * t * times + 1 + more)
    batches = ContiguousBatches(ids, n, t)
    length = batches.row_length
    assert n * length <= len(ids) - 1 < n * (length + t)  # as many as fit
    for steps in (s for s in range(1, length + 1) if length % s == 0):
        windows = [batches.at(position, steps) for position in range(0, length, steps)]
        x, y = (np.concatenate([window[i] for window in windows], axis=1) for i in range(2))
        np.testing.assert_array_equal(x.ravel(), ids[: n * length])
        np.testing.assert_array_equal(y.ravel(), ids[1 : n * length + 1])


@given(shapes, st.integers(1, 7))
def test_the_rows_of_all_workers_together_are_the_rows(shape, world):
    n, t, times, more = shape
    ids = np.arange(n * t * times + 1 + more)
    whole = ContiguousBatches(ids, n, t).at(0, t)
    slices = [ContiguousBatches(ids, n, t, rank, world) for rank in range(world)]
    assert sum(s.rows for s in slices) == n
    for i in range(2):
        np.testing.assert_array_equal(np.concatenate([s.at(0, t)[i] for s in slices]), whole[i])


@pytest.mark.parametrize("size", [0, 1, 12])
def test_too_little_for_one_batch_is_refused(size):
    with pytest.raises(ValueError, match=rf"{size} symbols are less than a batch of 3 x 4 \+ 1"):
        ContiguousBatches(np.arange(size), n=3, multiple=4)
    assert ContiguousBatches(np.arange(13), n=3, multiple=4).row_length == 4


# Texts


def test_a_plain_text_makes_a_vocabulary_of_what_occurs_in_it(corpus, tmp_path):
    found = corpus(written(tmp_path / "a.txt", "hä\U0001f600\nh"))
    assert found.vocab == Vocab("\nhä\U0001f600")
    assert found.ids.tolist() == [1, 2, 3, 0, 1]
    assert found.names == (str(tmp_path / "a.txt"),)


def test_a_plain_text_keeps_its_last_line_end_and_loses_its_byte_order_mark(corpus, tmp_path):
    assert corpus(written(tmp_path / "a.txt", "\ufeffab\n")).vocab.characters == "\nab"


@pytest.mark.parametrize("alphabet", bytecodec.ALPHABETS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_text_in_an_alphabet_gives_bytes_whatever_an_editor_added(corpus, tmp_path, alphabet, mark, ending):
    text = mark + bytecodec.encode(bytes([0, 7, 255]), alphabet) + ending
    found = corpus(written(tmp_path / "a.txt", text))
    assert found.ids.tolist() == [0, 7, 255]
    assert found.vocab == Vocab.of_alphabet(alphabet)


@pytest.mark.parametrize("alphabet", bytecodec.ALPHABETS)
@pytest.mark.parametrize("joint", ["\n", "\r\n", "\n\ufeff", "\ufeff", "\n\n"])
def test_a_text_of_sound_is_read_without_the_line_ends_and_marks_in_it(tmp_path, capsys, alphabet, joint):
    one, two = (bytecodec.encode(part, alphabet) for part in (b"\0\1", b"\xff"))
    path = written(tmp_path / "a.txt", one + joint + two + "\n")
    found = prepare_corpus([str(path)], tmp_path / "corpus.bin", OPTIONS)
    assert found.ids.tolist() == [0, 1, 255]
    assert found.vocab == Vocab.of_alphabet(alphabet)
    assert "a.txt is a text of sound" in capsys.readouterr().err
    assert last_symbols(path, found.vocab, OPTIONS, 2).tolist() == [1, 255]


def test_an_editors_line_end_at_the_end_is_not_worth_a_note(tmp_path, capsys):
    prepare_corpus([str(written(tmp_path / "a.txt", "\ufeff⠀⠁\r\n"))], tmp_path / "corpus.bin", OPTIONS)
    assert capsys.readouterr().err == ""


def test_a_text_of_two_alphabets_is_refused_with_the_place(corpus, tmp_path):
    path = written(tmp_path / "a.txt", bytecodec.encode(b"abc") + "\n" + bytecodec.encode(b"d", "cjk"))
    assert f"{path}: U+3964 '㥤' at character 4 is of the cjk alphabet" in refusal(corpus, path)


@given(st.binary(min_size=1), st.integers(1, 9), st.sampled_from(list(bytecodec.ALPHABETS)))
def test_a_text_is_read_the_same_in_blocks_of_any_size(tmp_path, content, size, alphabet):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "BLOCK", size)
        path = written(tmp_path / "a.txt", bytecodec.encode(content, alphabet) + "\n")
        found = prepare_corpus([str(path)], tmp_path / "corpus.bin", OPTIONS, quiet=True)
        assert bytes(found.ids) == content
        path = written(tmp_path / "b.txt", "x" + bytecodec.encode(content, alphabet))
        found = prepare_corpus([str(path)], tmp_path / "corpus.bin", OPTIONS, quiet=True)
        assert found.vocab.decode(found.ids) == path.read_text("utf-8")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1 << 22])
@pytest.mark.parametrize(
    ("content", "offset"), [(b"ab\xffcd", 2), ("aä€".encode() + b"\xc3(", 6), ("a€".encode()[:-1], 1), (b"\x80", 0)]
)
def test_what_is_not_utf8_is_a_sentence_with_the_offset(corpus, tmp_path, monkeypatch, size, content, offset):
    monkeypatch.setattr(texts, "BLOCK", size)
    path = written(tmp_path / "a.txt", content)
    assert refusal(corpus, path).startswith(
        f"{path} is neither a recording that can be read nor UTF-8 text: the byte at offset {offset} does not fit."
    )


@pytest.mark.parametrize("content", ["", "\ufeff"])
def test_nothing_to_learn_from_is_refused(corpus, tmp_path, content):
    path = written(tmp_path / "a.txt", content)
    assert refusal(corpus, path) == (f"there is nothing in {path}: give a recording, or a text with characters in it.")


def test_a_missing_file_is_the_systems_error(corpus, tmp_path):
    with pytest.raises(FileNotFoundError):
        corpus(tmp_path / "none.txt")


# Several inputs


def test_several_inputs_are_laid_end_to_end_in_the_order_given(corpus, tmp_path):
    first, second = written(tmp_path / "z.txt", "ba"), written(tmp_path / "a.txt", "ca\n")
    found = corpus(first, second)
    assert found.vocab.characters == "\nabc"
    assert found.vocab.decode(found.ids) == "baca\n"
    assert found.names == (str(first), str(second))


def test_a_folder_stands_for_its_recordings_sorted_by_path(corpus, tmp_path, write_wav):
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    for name, value in [("c.wav", 3), ("a.wav", 1), ("b/x.wav", 2)]:
        write_wav(folder / name, [value] * 3)
    written(folder / "notes.txt", "not me")
    written(folder / ".hidden.wav", "nor me")
    found = corpus(folder)
    assert found.ids.tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_folder_without_recordings_stands_for_its_texts(corpus, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    written(folder / "b.txt", "b")
    written(folder / "a.TXT", "a")
    written(folder / "c.md", "c")
    found = corpus(folder)
    assert found.vocab.decode(found.ids) == "ab"


def test_a_folder_of_neither_is_refused(corpus, tmp_path):
    (tmp_path / "in").mkdir()
    written(tmp_path / "in" / "c.md", "c")
    message = f"there is no recording and no .txt in the folder {tmp_path / 'in'}; left out: c.md."
    assert refusal(corpus, tmp_path / "in") == message


def test_recordings_and_texts_of_their_bytes_give_the_same_ids(corpus, tmp_path, write_wav):
    samples = np.random.default_rng(0).integers(0, 256, 999, dtype=np.uint8)
    sound = write_wav(tmp_path / "a.wav", samples)
    text = written(tmp_path / "a.txt", bytecodec.encode(samples, "cjk"))
    other = written(tmp_path / "b.txt", bytecodec.encode(samples, "latin"))
    found = corpus(sound, text, other)
    np.testing.assert_array_equal(found.ids.reshape(3, 999), [samples] * 3)
    assert found.vocab == Vocab.of_alphabet("cjk")  # the first text's, which is how samples are written as text
    assert corpus(sound).vocab == Vocab.of_alphabet("braille")


def test_recordings_and_plain_text_are_not_mixed(corpus, tmp_path, write_wav):
    sound, text = write_wav(tmp_path / "a.wav", [1, 2, 3]), written(tmp_path / "a.txt", "abc")
    assert refusal(corpus, text, sound) == (
        f"{text} is plain text, and {sound} is a recording: train on one kind. "
        "A text that stands for sound is made with wav2utf8."
    )


def test_a_recording_is_known_by_how_it_begins_and_a_text_is_a_text_under_any_name(corpus, tmp_path, write_wav):
    assert corpus(write_wav(tmp_path / "sound.txt", [9, 8, 7])).ids.tolist() == [9, 8, 7]
    assert corpus(written(tmp_path / "text.bin", "abba")).ids.tolist() == [0, 1, 1, 0]


def test_mu_law_and_rate_are_those_of_the_options(corpus, tmp_path, write_wav):
    path = write_wav(tmp_path / "a.wav", [128] * 2000, rate=22050)
    assert (OPTIONS.encoding, SoundOptions(mulaw=True).encoding) == ("linear", "mulaw")
    assert corpus(path).ids.tolist() == [128] * 1000
    assert corpus(path, options=SoundOptions(rate=22050, mulaw=True)).ids.tolist() == [255] * 2000


# A vocabulary that is given


def test_a_given_vocabulary_is_kept_to(corpus, tmp_path):
    vocab = Vocab("zyxcba")
    found = corpus(written(tmp_path / "a.txt", "abc"), vocab=vocab)
    assert found.ids.tolist() == [5, 4, 3]
    assert found.vocab is vocab


def test_bytes_in_any_alphabet_suit_a_network_of_bytes(corpus, tmp_path, write_wav):
    vocab = Vocab.of_alphabet("latin")
    text = written(tmp_path / "a.txt", bytecodec.encode(b"\x01\x02", "cjk"))
    found = corpus(text, write_wav(tmp_path / "a.wav", [3, 4]), vocab=vocab)
    assert (found.ids.tolist(), found.vocab) == ([1, 2, 3, 4], vocab)


def test_what_a_given_vocabulary_lacks_is_named_with_file_and_place_in_it(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "BLOCK", 4)
    path = written(tmp_path / "a.txt", "abababäb?")
    message = refusal(corpus, path, vocab=Vocab("abä"))
    assert message.startswith(f"{path}: the network does not know '?' (U+003F), character 8 of the text: ")


def test_a_given_vocabulary_of_the_other_kind_is_refused(corpus, tmp_path, write_wav):
    text, sound = written(tmp_path / "a.txt", "abc"), write_wav(tmp_path / "a.wav", [1, 2])
    assert refusal(corpus, text, vocab=Vocab.of_alphabet("braille")) == (
        f"the network knows bytes as braille characters, and {text} is of another kind."
    )
    assert refusal(corpus, sound, vocab=Vocab("ab")).endswith(f"and {sound} is of another kind.")


# On disk


def test_ids_take_a_byte_each_on_disk_up_to_256_symbols_and_two_beyond(corpus, tmp_path):
    few = "".join(map(chr, range(0x4E00, 0x4E00 + 256)))
    assert corpus(written(tmp_path / "a.txt", few)).ids.nbytes == 256
    assert (tmp_path / "corpus.bin").read_bytes() == bytes(range(256))
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 257)))
    assert corpus(written(tmp_path / "a.txt", many)).ids.nbytes == 514
    assert (tmp_path / "corpus.bin").stat().st_size == 514


def test_a_corpus_is_mapped_and_its_parts_and_batches_are_views_of_it(corpus, tmp_path):
    found = corpus(written(tmp_path / "a.txt", "ab" * 500))
    assert isinstance(found.ids, np.memmap)
    train = found.split(0.1, 0.1)["train"]
    assert np.shares_memory(train, found.ids)
    batches = ContiguousBatches(train, 4, 5)
    assert np.shares_memory(batches._rows, found.ids)


def test_a_corpus_larger_than_memory_is_read_where_it_is_needed(tmp_path):
    path, size = tmp_path / "corpus.bin", 1 << 40
    with path.open("wb") as file:
        file.seek(size - 3)  # a hole of a terabyte, which takes no disk
        file.write(b"abc")
    found = open_corpus(path, Vocab.of_alphabet("braille"), ("big",))
    batches = ContiguousBatches(found.split(0, 0)["train"], 4, 64)
    assert batches.at(batches.row_length - 64, 64)[0].shape == (4, 64)
    assert found.ids[-3:].tobytes() == b"abc"


def test_many_texts_take_no_more_memory_than_one(tmp_path):
    """A table of all of Unicode for each of a folder's thousand texts would be a gigabyte."""
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


def test_an_empty_file_is_nothing_to_start_from(tmp_path):
    path = written(tmp_path / "a.txt", "")
    with pytest.raises(InputError, match=r"there is nothing in .*a\.txt to start from"):
        last_symbols(path, Vocab("abc"), OPTIONS, 100)
