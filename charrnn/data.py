"""Text or sound to ids on disk, splits of them, and contiguous batches."""

from __future__ import annotations

import codecs
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

import bytecodec
from bytecodec.console import is_special_file, say, sync
from bytecodec.errors import InputError, NoTableError
from bytecodec.table import lacks_table
from charrnn.recordings import SoundOptions, read_sound, with_gain_of_set
from charrnn.vocab import MAX_CODE_POINT, Ids, Vocab, code_points, describe

BLOCK = 1 << 22  # bytes of text read at a time
RELEASE = 1 << 26  # symbols that are read from a mapped corpus before its pages are given back
BYTE_ORDER_MARK = "\ufeff"

# How the files of the formats begin that libsndfile reads: a word, four bytes of length and a word (WAV in its
# kinds, AIFF), or bytes that no text begins with (Wave64, FLAC, Ogg, AU, CAF, MP3 with and without tag). Anything else
# is taken for text.
SOUND_FORMS = {b"RIFF": (b"WAVE",), b"RIFX": (b"WAVE",), b"RF64": (b"WAVE",), b"FORM": (b"AIFF", b"AIFC")}
SOUND_MAGIC = (
    *(b"riff.\x91", b"fLaC\0", b"fLaC\x80", b"OggS\0", b".snd\0", b"caff\0"),
    *(b"ID3\2", b"ID3\3", b"ID3\4", b"\xff\xfb", b"\xff\xf3"),
)
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64")


@dataclass(frozen=True)
class Corpus:
    """All symbols of a run, on disk, mapped into memory as they are needed.

    Attributes
    ----------
    ids
        (n,) in the vocabulary's dtype: one byte a symbol up to 256 symbols.
    vocab
        What the ids mean.
    names
        The files that they come from, in order.
    sound
        How recordings among these were read; None where there are none, or where it is not known.
    """

    ids: Ids
    vocab: Vocab
    names: tuple[str, ...]
    sound: SoundOptions | None = None

    def split(self, val_frac: float, test_frac: float) -> dict[str, Ids]:
        """Contiguous parts in the order train, val, test: int(fraction n) symbols for val and test, as
        torch-rnn cuts, and the rest for train."""
        train, val = borders(len(self.ids), val_frac, test_frac)
        return {"train": self.ids[:train], "val": self.ids[train:val], "test": self.ids[val:]}


def borders(n: int, val_frac: float, test_frac: float) -> tuple[int, int]:
    """Where the training part of n symbols ends, and where the validation part does."""
    val, test = int(val_frac * n), int(test_frac * n)
    return n - val - test, n - test


@dataclass(frozen=True)
class Reach:
    """Which symbols a network may read to predict symbol s: from s - far to s - near."""

    far: int = 1
    near: int = 1


NEXT_SYMBOL = Reach()  # of a network that reads one symbol and predicts the one after it


class ContiguousBatches:
    """The batches of a part: N rows that lie end to end in it, read side by side.

    A batch is a function of the position in the rows, counted in symbols, so that a run is resumed by one
    integer; targets are the inputs shifted by one. What is left after the last whole batch is dropped, as in
    torch-rnn. Of a corpus that is mapped from disk, only what was read lately stays in the process's memory.

    With another ``reach`` the rows are cut so that the targets lie end to end: what the first ones of a row are
    predicted from is the end of the row before.

    Parameters
    ----------
    ids
        (n,) symbols.
    n
        N, the number of rows.
    multiple
        A row's length is a multiple of this: the number of steps T of a batch.
    rank, world
        Which of how many workers this is: it gets rows ``rank * N / world`` and on, the slice ``own`` of the N.
    reach
        What belongs to a target: with Reach(far, near) the inputs of m targets are far - near + m symbols.
    """

    def __init__(
        self, ids: Ids, n: int, multiple: int = 1, rank: int = 0, world: int = 1, reach: Reach = NEXT_SYMBOL
    ) -> None:
        self.row_length = (len(ids) - reach.far) // (n * multiple) * multiple
        if self.row_length < 1:
            raise ValueError(f"{len(ids)} symbols are less than a batch of {n} x {multiple} + {reach.far}")
        self.own = slice(rank * n // world, (rank + 1) * n // world)
        shape, (size,) = (n, self.row_length + reach.far), ids.strides
        rows = as_strided(ids, shape, (self.row_length * size, size), writeable=False)  # each laps over the next by far
        self._rows, self._rest = rows[self.own], ids[None, n * self.row_length :]
        self.rows = self._rows.shape[0]
        self.reach = reach
        self._dtype = np.int16 if ids.dtype == np.int16 else np.int64  # what torch takes: samples, or ids
        self._map = _map_below(ids)
        self._read = 0

    def at(self, position: int, steps: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs (N, far - near + steps) and targets (N, steps), from ``position`` on in every row; rows begin again at
        their end."""
        start = position % self.row_length
        self._read += self.rows * steps
        if self._map is not None and self._read > RELEASE:
            self._read = 0
            self._map.madvise(mmap.MADV_DONTNEED)  # the system may keep them as cache; they are mapped again if needed
        return self._pair(self._rows[:, start : start + self.reach.far + steps])

    def rest(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs and targets of what follows the last row and fills no rows, (1, ·)."""
        return self._pair(self._rest)

    def _pair(self, piece: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        far, near = self.reach.far, self.reach.near
        return piece[:, : piece.shape[1] - near].astype(self._dtype), piece[:, far:].astype(self._dtype)


def _map_below(ids: Ids) -> mmap.mmap | None:
    """The file in memory that an array is a part of, where there is one and the system can be told what it needs."""
    below: object = ids
    while isinstance(below, np.ndarray):
        below = below.base
    return below if isinstance(below, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") else None


def prepare(
    inputs: Sequence[str],
    target: Path,
    options: SoundOptions,
    vocab: Vocab | None = None,
    quiet: bool = False,
    table: bytecodec.Table | None = None,
) -> Corpus:
    """Lay texts and recordings end to end as ids in the file ``target``.

    Recordings, and texts that lie wholly in one of the codec's alphabets, become bytes with the alphabet's 256
    characters as vocabulary; other texts together make a vocabulary of what occurs in them. Folders stand for
    the recordings in them, or for their texts if there are none, sorted by path. A ``vocab`` that is given
    is kept to. A text of the characters of a ``table`` becomes the bytes that it gives them.

    Raises
    ------
    InputError
        A file is neither a recording nor UTF-8, recordings are mixed with plain text, or nothing is in them; or a text
        has a character that is not in the table, or needs a table.
    """
    files = [file for name in inputs for file in files_of(Path(name), quiet)]
    sounds = {file for file in files if is_sound(file)}
    texts = {file: _Characters.of(file) for file in files if file not in sounds}
    if not sounds and not any(text.code_points.size for text in texts.values()):
        raise _nothing_in(tuple(map(str, files)))
    by_table = _texts_by_table(texts, table, vocab)
    alphabets = {file: text.alphabet for file, text in texts.items() if file not in by_table}
    as_bytes = bool(sounds) or all(alphabets.values())
    if as_bytes and not all(alphabets.values()):
        plain = next(file for file, alphabet in alphabets.items() if alphabet is None)
        raise InputError(
            f"{plain} is plain text, and {next(iter(sounds))} is a recording: train on one kind. "
            "A text that stands for sound is made with wav2utf8."
        )
    if vocab is not None:
        if as_bytes != (vocab.alphabet is not None):
            raise InputError(f"the network knows {vocab.describe()}, and {files[0]} is of another kind.")
    elif as_bytes:
        vocab = Vocab.of_alphabet(next((name for name in alphabets.values() if name), "braille"))
    else:
        vocab = Vocab.of_code_points(np.concatenate([text.code_points for text in texts.values()]))
    options = with_gain_of_set(options, [file for file in files if file in sounds], quiet)
    with target.open("wb") as file:
        for path in files:
            for block in _blocks(path, path in sounds, vocab, options, quiet, table if path in by_table else None):
                file.write(block.astype(vocab.dtype, copy=False).tobytes())
        sync(file)
    corpus = open_corpus(target, vocab, tuple(map(str, files)))
    return replace(corpus, sound=options) if sounds else corpus


def _texts_by_table(texts: dict[Path, _Characters], table: bytecodec.Table | None, vocab: Vocab | None) -> set[Path]:
    """Return the texts that are read by the table; an InputError for one that needs a table, or another one."""
    if table is None:
        foreign = next((path for path, text in texts.items() if lacks_table(text.code_points)), None)
        if foreign is not None and (vocab is None or vocab.alphabet is not None):  # else they are the network's own
            raise NoTableError(
                f"{foreign} mixes ASCII and characters from U+3900 on, as the texts of BinToUTF8 do, which have a "
                "table beside them: give it with --table FILE."
            )
        return set()
    by_table = set()
    for path, text in texts.items():
        codes = text.code_points[(text.code_points != ord("\n")) & (text.code_points != ord("\r"))]
        missing = codes[table.lookup(codes) < 0]
        if not len(missing):
            by_table.add(path)
        elif text.alphabet is None:
            raise InputError(f"{path} has the character {describe(chr(missing[0]))}, which is not in the table.")
    if not by_table:
        raise InputError("--table is for the texts of BinToUTF8, and there is none among the inputs: leave it out.")
    return by_table


def open_corpus(path: Path, vocab: Vocab, names: tuple[str, ...]) -> Corpus:
    """Map a file that `prepare` wrote. An InputError where it holds nothing."""
    if path.stat().st_size == 0:
        raise _nothing_in(names)
    return Corpus(np.memmap(path, dtype=vocab.dtype, mode="r"), vocab, names)


def _nothing_in(names: tuple[str, ...]) -> InputError:
    return InputError(f"there is nothing in {', '.join(names)}: give a recording, or a text with characters in it.")


def last_symbols(
    path: Path, vocab: Vocab, options: SoundOptions, count: int, table: bytecodec.Table | None = None
) -> Ids:
    """The last ``count`` ids of a text, by a table if one is given, or of a recording, in constant memory."""
    kept = np.empty(0, dtype=vocab.dtype)
    for block in _blocks(path, is_sound(path), vocab, options, table=table):
        kept = np.concatenate([kept, block.astype(vocab.dtype)])[-count:]
    if not len(kept):
        raise InputError(f"there is nothing in {path} to start from.")
    return kept


def is_sound(path: Path) -> bool:
    """Whether a file is a recording, by how it begins or, where that says nothing, by its name."""
    if is_special_file(str(path)):
        raise InputError(f"{path} is a pipe or a device, and a file is needed here, as it is read more than once.")
    with path.open("rb") as file:
        start = file.read(12)
    begins_so = start.startswith(SOUND_MAGIC) or start[8:] in SOUND_FORMS.get(start[:4], ())
    return begins_so or path.suffix.lower() in SOUND_SUFFIXES


def files_of(path: Path, quiet: bool) -> list[Path]:
    """The file itself, or the recordings in a folder, or its texts if there are none, sorted."""
    if not path.is_dir():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    chosen = [p for p in files if is_sound(p)] or [p for p in files if p.suffix.lower() == ".txt"]
    if not chosen:
        raise InputError(f"there is no recording and no .txt in the folder {path}.")
    say(f"{path}: {len(chosen)} of the {len(files)} files in it.", quiet)
    return chosen


@dataclass
class _Characters:
    """Which characters occur in a text."""

    code_points: NDArray[np.integer[Any]]  # each once
    alphabet: str | None

    @classmethod
    def of(cls, path: Path) -> _Characters:
        seen = np.zeros(MAX_CODE_POINT + 1, dtype=np.bool_)
        last, lines = "", 0
        with path.open("rb") as file:
            for text in _read_text(file, path):
                seen[code_points(text)] = True
                last, lines = text, lines + text.count("\n")
        inside = seen
        if lines == 1 and last.endswith("\n"):  # an editor's line end after the bytes is no byte
            inside = seen.copy()
            inside[[ord("\n"), ord("\r")]] = False
        return cls(np.flatnonzero(seen), next((name for name in bytecodec.ALPHABETS if _lies_in(inside, name)), None))


def _lies_in(seen: NDArray[np.bool_], alphabet: str) -> bool:
    first = bytecodec.ALPHABETS[alphabet]
    return bool(seen.any()) and int(seen[first : first + 256].sum()) == int(seen.sum())


def _read_text(file: BinaryIO, path: Path) -> Iterator[str]:
    """The characters of a UTF-8 file in blocks, without a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, first = 0, True
    while True:
        data = file.read(BLOCK)
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} is neither a recording that can be read nor UTF-8 text: "
                f"the byte at offset {offset - waiting + error.start} does not fit."
            ) from None
        offset += len(data)
        if first and text:
            text, first = text.removeprefix(BYTE_ORDER_MARK), False
        if text:
            yield text
        if not data:
            return


def _blocks(
    path: Path,
    sound: bool,
    vocab: Vocab,
    options: SoundOptions,
    quiet: bool = True,
    table: bytecodec.Table | None = None,
) -> Iterator[Ids]:
    if sound:
        yield from read_sound(path, options, 8, quiet)
        return
    with path.open("rb") as file:
        if vocab.alphabet is None:
            yield from _encoded(_read_text(file, path), path, vocab)
            return
        decoder = bytecodec.Decoder(table=table)
        try:
            while data := file.read(BLOCK):
                yield np.frombuffer(decoder.feed(data), np.uint8)
            yield np.frombuffer(decoder.close(), np.uint8)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _encoded(texts: Iterator[str], path: Path, vocab: Vocab) -> Iterator[Ids]:
    offset = 0
    for text in texts:
        try:
            yield vocab.encode(text, offset)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        offset += len(text)
