"""What others need for the same symbols: figures to hold a loss against that anyone can check.

Sound is held against FLAC, text against bzip2, and both against the frequencies of the symbols alone. The coders see
only the part itself. Imports no torch.
"""

from __future__ import annotations

import bz2
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_integers, check_whole
from bytecodec.errors import InputError
from charrnn.data.vocab import Ids, Vocab

BLOCK = 1 << 20  # symbols that are looked at in one go
MOST_SYMBOLS = 64 * BLOCK  # more than these, 1.7 hours of sound at 11025 Hz, are measured by a sample of them
HIGHEST_FLAC_RATE = 655_350  # Hz; the header of a FLAC frame has no room for more
NAMES = {"flac": "FLAC", "bzip2": "bzip2", "order0": "order-0", "entropy": "order-0 entropy"}
PHRASES = {"flac": "in FLAC", "bzip2": "in bzip2", "order0": "under the histogram of the training part"}

Tell = Callable[[int], None]  # is told of each block how many symbols it had


def _silent(symbols: int) -> None:
    """Nobody wants to know."""


def measure_baselines(
    ids: Ids, train: Ids | None, vocab: Vocab, rate: int | None, mulaw: bool = False, tell: Tell = _silent
) -> dict[str, float]:
    """Bits a symbol that others take for a part, by the keys of `NAMES`; FLAC's where the ids are the bytes of a sound.

    Parameters
    ----------
    ids
        (n,) the part, n >= 1.
    train
        What was learnt from; None where it is not known, or is the part itself. Then there is ``entropy`` instead of
        ``order0``.
    vocab
        What the ids mean.
    rate
        Samples a second of a sound; None for text.
    mulaw
        Whether the bytes of the sound are mu-law.
    """
    if rate is not None and vocab.alphabet is not None:
        coded = {"flac": flac_bits(ids, rate, mulaw, tell)}
    else:
        coded = {"bzip2": bzip2_bits(ids, vocab, tell)}
    if train is None:
        return {**coded, "entropy": entropy_bits(ids, len(vocab), tell)}
    return {**coded, "order0": order0_bits(train, ids, len(vocab), tell)}


def measure_frame_baselines(samples: NDArray[Any], rate: int, tell: Tell = _silent) -> dict[str, float]:
    """Return FLAC's bits per sample of int16 samples (n,), n >= 1, by its key in `NAMES`."""
    return {"flac": _flac_bits(samples, rate, lambda block: block, "PCM_16", tell)}


def summary(bits: Mapping[str, float]) -> str:
    """What a part takes, such as '3.29 bits a sample in FLAC, 5.25 under the histogram of the training part'."""
    known = [(f"{bits[name]:.2f}", phrase) for name, phrase in PHRASES.items() if name in bits]
    unit = " bits a sample" if "flac" in bits else " bits a symbol"
    return ", ".join(f"{value}{'' if place else unit} {phrase}" for place, (value, phrase) in enumerate(known))


def short_summary(bits: Mapping[str, float]) -> str:
    """The same for a line that has little room, such as 'FLAC 3.29, order-0 5.25'."""
    return ", ".join(f"{NAMES[name]} {value:.2f}" for name, value in bits.items() if name in NAMES)


def total_symbols(ids: NDArray[Any], train: Ids | None = None) -> int:
    """How many symbols `yardsticks` tells of in all, for a progress bar."""
    return sum(min(n, MOST_SYMBOLS) for n in (len(ids), len(ids), 0 if train is None else len(train)))


def flac_bits(ids: Ids, rate: int, mulaw: bool = False, tell: Tell = _silent) -> float:
    """Bits a sample of a FLAC file of the sound bytes ids (n,), n >= 1, in constant memory.

    Libsndfile's highest setting, which is that of ``flac -8``: ``-8 -e -p`` searches longer and makes 0.3 to 0.6 %
    less of a voice or a piano. The file's header of some 100 bytes counts.

    Mu-law bytes are brought into the order of what they stand for (`mulaw_levels`), still 8 bits. As they are, FLAC
    would see a leap at every change of sign, and decoded it would see 16 bits: a voice took 6.3 bits a sample in
    order, 7.2 as it was and 9.1 decoded.
    """
    ids = _checked(ids, 256)
    levels = mulaw_levels() if mulaw else np.arange(256, dtype=np.uint8)
    samples = (
        levels.astype(np.int16) - 128
    ) << 8  # soundfile accepts no 8-bit samples, and passes on the upper 8 bits of 16
    return _flac_bits(ids, rate, lambda block: samples[block], "PCM_S8", tell)


def _flac_bits(
    data: NDArray[Any], rate: int, samples: Callable[[NDArray[Any]], NDArray[np.int16]], subtype: str, tell: Tell
) -> float:
    import soundfile

    check_whole("rate", rate, 1)
    size = _Size()
    rate = min(rate, HIGHEST_FLAC_RATE)
    with soundfile.SoundFile(size, "w", rate, 1, subtype, format="FLAC", compression_level=1.0) as file:
        for block in _blocks(data):
            file.write(samples(block))
            tell(len(block))
    return 8 * size.bytes / min(len(data), MOST_SYMBOLS)


def bzip2_bits(ids: Ids, vocab: Vocab, tell: Tell = _silent) -> float:
    """Bits a symbol of ``bzip2 -9`` of the text of ids (n,), n >= 1, in constant memory.

    Of the coders that are everywhere it does best on plain text: xz is made for longer repetitions.
    """
    ids = _checked(ids, len(vocab))
    coder = bz2.BZ2Compressor(9)
    size = 0
    for block in _blocks(ids):
        size += len(coder.compress(vocab.decode(block).encode("utf-8", "surrogatepass")))
        tell(len(block))
    return 8 * (size + len(coder.flush())) / min(len(ids), MOST_SYMBOLS)


def order0_bits(train: Ids, ids: Ids, symbols: int, tell: Tell = _silent) -> float:
    """Bits a symbol of ids (n,), n >= 1, for a coder that knows how often each of ``symbols`` occurs in train (m,).

    The cross-entropy under that histogram, in which every symbol counts once more than it occurs, since one that
    never occurred would take infinitely many bits. This is what the network knows whose output is its bias alone.
    """
    check_whole("symbols", symbols, 1)
    ids = _checked(ids, symbols)
    if len(check_integers("train", train, 1)):
        train = _checked(train, symbols)
    learnt = _histogram(train, symbols, tell) + 1
    counts = _histogram(ids, symbols, tell)
    return float(counts @ -np.log2(learnt / learnt.sum()) / counts.sum())


def entropy_bits(ids: Ids, symbols: int, tell: Tell = _silent) -> float:
    """The order-0 entropy of ids (n,), n >= 1: bits a symbol for a coder that is told their own histogram."""
    check_whole("symbols", symbols, 1)
    ids = _checked(ids, symbols)
    counts = _histogram(ids, symbols, tell)
    p = counts[counts > 0] / counts.sum()
    return max(0.0, float(p @ -np.log2(p)))


def mulaw_levels() -> NDArray[np.uint8]:
    """(256,) the place of each mu-law byte among all, by what it stands for; the negative zero is before the other."""
    byte = np.arange(256)
    return np.where(byte < 128, byte, 383 - byte).astype(np.uint8)


def _checked(ids: Ids, symbols: int) -> Ids:
    """Return ids (n,), n >= 1, or raise InputError unless they are from 0 to ``symbols`` - 1."""
    ids = check_integers("ids", ids, 1)
    if not len(ids):
        raise InputError("there are no ids to measure.")
    for block in _blocks(ids):
        if not 0 <= block.min() <= block.max() < symbols:
            raise InputError(f"ids has numbers from {block.min()} to {block.max()}, and there are {symbols} symbols.")
    return ids


def _blocks(ids: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The symbols, or as many as `MOST_SYMBOLS` of them in blocks at equal distances over the whole."""
    if len(ids) <= MOST_SYMBOLS:
        starts = np.arange(0, len(ids), BLOCK)
    else:
        starts = np.linspace(0, len(ids) - BLOCK, MOST_SYMBOLS // BLOCK).astype(np.int64)
    for start in starts:
        yield ids[start : start + BLOCK]


def _histogram(ids: Ids, symbols: int, tell: Tell) -> NDArray[np.int64]:
    counts = np.zeros(symbols, np.int64)
    for block in _blocks(ids):
        counts += np.bincount(block, minlength=symbols)
        tell(len(block))
    return counts


class _Size:
    """A file that keeps nothing but its size."""

    def __init__(self) -> None:
        self.bytes = self._place = 0

    def write(self, data: bytes) -> int:
        self._place += len(data)
        self.bytes = max(self.bytes, self._place)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self.bytes)[whence]
        return self._place

    def tell(self) -> int:
        return self._place
