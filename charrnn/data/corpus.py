"""The corpus of a run: recordings and texts as ids on disk, and their division into parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

import bytecodec
from bytecodec.console import log
from bytecodec.errors import InputError, NoTableError
from bytecodec.files import sync
from bytecodec.table import lacks_table
from charrnn.data.inputs import Input, Unreadable, nothing_readable, prepare_input, prepare_inputs
from charrnn.data.recordings import SoundOptions, read_sound, with_gain_of_set
from charrnn.data.texts import LINE_ENDS, UTF8, Characters, decode_text, read_text
from charrnn.data.vocab import Ids, Vocab, describe

BEGINNING = 4000  # characters by which a text of sound is recognised


@dataclass(frozen=True)
class Corpus:
    """All symbols of a run, mapped from disk."""

    ids: Ids  # (n,) in the vocabulary's dtype, which is one byte for up to 256 symbols
    vocab: Vocab
    names: tuple[str, ...]  # input files in order
    skipped: tuple[str, ...] = ()  # input files that could not be read and were skipped
    sound: SoundOptions | None = None  # with which recordings were read; None if there are none, or if not recorded

    def split(self, val_frac: float, test_frac: float) -> dict[str, Ids]:
        """Return contiguous parts in the order train, val, test.

        As in torch-rnn, val and test have int(fraction n) symbols, and train has the rest.
        """
        train, val = part_bounds(len(self.ids), val_frac, test_frac)
        return {"train": self.ids[:train], "val": self.ids[train:val], "test": self.ids[val:]}


def part_bounds(n: int, val_frac: float, test_frac: float) -> tuple[int, int]:
    """Return where the training part of n symbols ends, and where the validation part ends."""
    val, test = int(val_frac * n), int(test_frac * n)
    return n - val - test, n - test


def prepare_corpus(
    inputs: Sequence[str],
    target: Path,
    options: SoundOptions,
    vocab: Vocab | None = None,
    quiet: bool = False,
    table: bytecodec.Table | None = None,
    encoding: str = UTF8,
    skip_unreadable: bool = False,
) -> Corpus:
    """Write texts and recordings as ids, one after the other, to the file ``target``.

    Recordings, and texts in one of the codec's alphabets, become bytes with the alphabet's 256 characters as
    vocabulary. The vocabulary of other texts is the set of their characters. A given ``vocab`` is not extended. Texts
    of BinToUTF8 are converted with its ``table``; ``encoding`` is that of texts without a byte order mark.

    An input is a file, a folder or ``-``, standard input. In a folder, the recordings are read, or the texts if it has
    none, sorted by path. A file that cannot be read is an error, or is skipped with ``skip_unreadable``.
    """
    unreadable = Unreadable(skip_unreadable, quiet)
    with prepare_inputs(inputs, unreadable) as found:
        files, characters = _characters_of(found, unreadable, encoding)
        by_table = _texts_by_table(characters, table, vocab)
        vocab = _vocabulary(files, characters, by_table, vocab, quiet)
        options, files = with_gain_of_set(options, files, unreadable)
        with target.open("wb") as out:
            read = []
            for file in files:
                blocks = _blocks(file, vocab, options, encoding, table if file in by_table else None, quiet)
                if write_readable(blocks, out, file, vocab.dtype, unreadable):
                    read.append(file)
            sync(out)
    unreadable.report()
    if not read:
        raise nothing_readable(unreadable)
    corpus = open_corpus(target, vocab, tuple(file.name for file in read), tuple(unreadable.names))
    return replace(corpus, sound=options) if any(file.is_sound for file in read) else corpus


def write_readable(
    blocks: Iterable[NDArray[Any]], out: BinaryIO, source: Input, dtype: np.dtype[Any], unreadable: Unreadable
) -> bool:
    """Write the blocks of a file and return True; if it cannot be read to its end, remove them and return False."""
    begin, reading = out.tell(), iter(blocks)
    while True:
        try:
            block = next(reading, None)
        except (InputError, OSError) as error:
            unreadable.note(source.name, error)
            out.seek(begin)
            out.truncate()
            return False
        if block is None:
            return True
        out.write(block.astype(dtype, copy=False).tobytes())


def _characters_of(
    files: list[Input], unreadable: Unreadable, encoding: str
) -> tuple[list[Input], dict[Input, Characters]]:
    """Return the files to read, and the characters of the texts among them."""
    characters, kept = {}, []
    for file in files:
        if not file.is_sound:
            with unreadable.handle_errors(file.name):
                characters[file] = Characters.of(file, encoding)
        kept += [file] if file.is_sound or file in characters else []
    filled = [file for file in kept if file.is_sound or characters[file].code_points.size]
    if not kept:
        raise nothing_readable(unreadable)
    if not filled:
        raise _nothing_in(tuple(file.name for file in kept))
    for file in kept:
        if file not in filled:
            log(f"{file.name} is empty, so it is skipped.", unreadable.quiet)
    return filled, {file: found for file, found in characters.items() if file in filled}


def _vocabulary(
    files: list[Input], characters: dict[Input, Characters], by_table: set[Input], vocab: Vocab | None, quiet: bool
) -> Vocab:
    """Return the vocabulary of the files, or raise InputError if they differ from each other or from ``vocab``."""
    characters = {file: found for file, found in characters.items() if file not in by_table}
    plain = [file for file in characters if characters[file].alphabet is None]
    sounds = [file for file in files if file.is_sound]
    if plain and sounds:
        raise InputError(
            f"{plain[0].name} is plain text, and {sounds[0].name} is a recording: train on one kind. "
            "Make a text that represents sound with wav2utf8."
        )
    if vocab is not None:
        if bool(plain) == (vocab.alphabet is not None):
            name, what, remedy = (
                (plain[0].name, "plain text", "a recording") if plain else (files[0].name, "sound", "plain text")
            )
            raise InputError(f"{name} is {what}, and the network was trained on {vocab.describe()}: name {remedy}.")
        return vocab
    if not plain:
        return Vocab.of_alphabet(next((found.alphabet for found in characters.values() if found.alphabet), "braille"))
    for file, found in characters.items():
        if found.alphabet:
            log(f"{file.name} represents sound, but is read as plain text, as {plain[0].name}.", quiet)
    for file in plain:
        if characters[file].has_windows_line_ends:
            log(
                f"{file.name} has Windows line ends: the carriage return before each line feed is a symbol, too.",
                quiet,
            )
    return Vocab.of_code_points(np.concatenate([found.code_points for found in characters.values()]))


def _texts_by_table(
    characters: dict[Input, Characters], table: bytecodec.Table | None, vocab: Vocab | None
) -> set[Input]:
    """Return the texts to read with the table, or raise InputError for one that needs a table or a different table."""
    if table is None:
        foreign = next((file for file, text in characters.items() if lacks_table(text.code_points)), None)
        if foreign is not None and (vocab is None or vocab.alphabet is not None):  # a text network may contain both
            raise NoTableError(
                f"{foreign.name} mixes ASCII and characters from U+3900 on, as texts of BinToUTF8 do: "
                "give the table that BinToUTF8 wrote with it as --table FILE."
            )
        return set()
    by_table = set()
    for file, text in characters.items():
        codes = np.setdiff1d(text.code_points, LINE_ENDS)
        missing = codes[table.lookup(codes) < 0]
        if not len(missing):
            by_table.add(file)
        elif text.alphabet is None:
            raise InputError(f"{file.name} has the character {describe(chr(missing[0]))}, which is not in the table.")
    if not by_table:
        raise InputError("--table is for the texts of BinToUTF8, and there is none among the inputs: omit it.")
    return by_table


def open_corpus(path: Path, vocab: Vocab, names: tuple[str, ...], skipped: tuple[str, ...] = ()) -> Corpus:
    """Map a file that `prepare_corpus` wrote, or raise InputError if it is empty."""
    if path.stat().st_size == 0:
        raise _nothing_in(names)
    return Corpus(np.memmap(path, dtype=vocab.dtype, mode="r"), vocab, names, skipped)


def _nothing_in(names: tuple[str, ...]) -> InputError:
    return InputError(f"{', '.join(names)}: there is nothing to train on. Give a recording, or a text with characters.")


def last_symbols(
    name: str | Path,
    vocab: Vocab,
    options: SoundOptions,
    count: int,
    table: bytecodec.Table | None = None,
    encoding: str = UTF8,
    quiet: bool = True,
    skip_unknown: bool = False,
) -> Ids:
    """Return the last ``count`` ids of a text or a recording, or of standard input, ``-``, in constant memory.

    A text of the characters of a ``table`` is read with it. Characters of a plain text that are not in the vocabulary
    are an error, or are skipped and counted on stderr. A recording for a network of plain text is an error, and so is
    the opposite.
    """
    kept = np.empty(0, dtype=vocab.dtype)
    with prepare_input(str(name)) as file:
        _check_kind(file, vocab, encoding, table)
        for block in _blocks(file, vocab, options, encoding, table, quiet, skip_unknown):
            kept = np.concatenate([kept, block.astype(vocab.dtype)])[-count:]
        if not len(kept):
            raise InputError(f"{file.name} is empty, so there is nothing to start from.")
    return kept


def _check_kind(file: Input, vocab: Vocab, encoding: str, table: bytecodec.Table | None) -> None:
    """Raise InputError for sound if the network was trained on text, and the other way round.

    A text represents sound if most characters of its beginning are in the codec's alphabets.
    """
    if file.is_sound and vocab.alphabet is None:
        raise InputError(f"{file.name} is a recording, and the network was trained on {vocab.describe()}: name a text.")
    if file.is_sound or table is not None:
        return
    text = next(read_text(file, encoding), "")[:BEGINNING]
    characters = [ord(character) for character in text if ord(character) not in LINE_ENDS]
    pages = [first >> 8 for first in bytecodec.ALPHABETS.values()]
    represents_sound = 2 * sum(character >> 8 in pages for character in characters) > len(characters)
    if represents_sound and vocab.alphabet is None and not len(vocab.encode_skipping_unknown(text)):
        raise InputError(
            f"{file.name} is a text that represents sound, and the network was trained on {vocab.describe()}: "
            "name a plain text."
        )
    is_plain = characters and not represents_sound and not lacks_table(np.array(characters))
    if is_plain and vocab.alphabet is not None:
        raise InputError(
            f"{file.name} is plain text, and the network was trained on {vocab.describe()}: "
            "name a recording, or a text that wav2utf8 wrote."
        )


def _blocks(
    file: Input,
    vocab: Vocab,
    options: SoundOptions,
    encoding: str,
    table: bytecodec.Table | None,
    quiet: bool,
    skip_unknown: bool = False,
) -> Iterator[Ids]:
    if file.is_sound:
        yield from read_sound(file, options, 8, quiet)
    elif vocab.alphabet is None:
        texts = read_text(file, encoding)
        yield from (
            ids_skipping_unknown(texts, file.name, vocab, quiet)
            if skip_unknown
            else _encode_texts(texts, file.name, vocab)
        )
    else:
        decoder = bytecodec.Decoder(skip_line_ends=True, table=table)
        for values in decode_text(file, encoding, decoder):
            yield np.frombuffer(values, np.uint8)
        if decoder.line_ends:
            log(
                f"{file.name} is a text of sound: {decoder.line_ends:,} line ends and byte order marks are skipped.",
                quiet,
            )


def _encode_texts(texts: Iterator[str], name: str, vocab: Vocab) -> Iterator[Ids]:
    offset = 0
    for text in texts:
        try:
            yield vocab.encode(text, offset)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        offset += len(text)


def ids_skipping_unknown(texts: Iterator[str], name: str, vocab: Vocab, quiet: bool) -> Iterator[Ids]:
    """Yield the ids of the characters that are in the vocabulary, and report how many are not, or raise InputError."""
    characters = found = 0
    for text in texts:
        ids = vocab.encode_skipping_unknown(text)
        characters, found = characters + len(text), found + len(ids)
        yield ids
    if characters and not found:
        raise InputError(f"no character of {name} is in the vocabulary: the network was trained on {vocab.describe()}.")
    if characters > found:
        log(
            f"{name}: skipped {characters - found:,} of {characters:,} characters, which are not in the vocabulary.",
            quiet,
        )
