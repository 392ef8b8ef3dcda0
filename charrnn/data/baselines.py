"""Baselines for a loss: the bits per symbol of FLAC for sound, of bzip2 for text, and of the symbols' histogram.

The coders read only the part that they code. Imports no torch.
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

BLOCK = 1 << 20  # symbols that are read at a time
MAX_SYMBOLS = 64 * BLOCK  # 1.7 hours of sound at 11025 Hz; a longer part is sampled down to this number
MAX_FLAC_RATE = 655_350  # in Hz, the limit of the header of a FLAC frame
NAMES = {"flac": "FLAC", "bzip2": "bzip2", "order0": "order-0", "entropy": "order-0 entropy"}
PHRASES = {"flac": "in FLAC", "bzip2": "in bzip2", "order0": "in order-0 coding by the histogram of the training part"}

OnProgress = Callable[[int], object]  # called with the number of symbols of each block that was read


def _ignore(symbols: int) -> None:
    pass


def measure_baselines(
    ids: Ids, train: Ids | None, vocab: Vocab, rate: int | None, mulaw: bool = False, on_progress: OnProgress = _ignore
) -> dict[str, float]:
    """Return the bits per symbol of other coders for a part ids (n,), n >= 1, by the keys of `NAMES`.

    FLAC codes the bytes of a sound, whose ``rate`` is not None; bzip2 codes any other symbols. If the training part is
    unknown, or is the part itself, ``train`` is None, and ``entropy`` replaces ``order0``.
    """
    if rate is not None and vocab.alphabet is not None:
        coded = {"flac": flac_bits(ids, rate, mulaw, on_progress)}
    else:
        coded = {"bzip2": bzip2_bits(ids, vocab, on_progress)}
    if train is None:
        return {**coded, "entropy": entropy_bits(ids, len(vocab), on_progress)}
    return {**coded, "order0": order0_bits(train, ids, len(vocab), on_progress)}


def measure_frame_baselines(samples: NDArray[Any], rate: int, on_progress: OnProgress = _ignore) -> dict[str, float]:
    """Return FLAC's bits per sample of int16 samples (n,), n >= 1, by its key in `NAMES`."""
    return {"flac": _flac_bits(samples, rate, lambda block: block, "PCM_16", on_progress)}


def summary(bits: Mapping[str, float]) -> str:
    """Return a line such as '3.29 bits per sample in FLAC, 5.25 in order-0 coding by the histogram of ...'."""
    found = [(f"{bits[name]:.2f}", phrase) for name, phrase in PHRASES.items() if name in bits]
    unit = " bits per sample" if "flac" in bits else " bits per symbol"
    return ", ".join(f"{value}{'' if i else unit} {phrase}" for i, (value, phrase) in enumerate(found))


def short_summary(bits: Mapping[str, float]) -> str:
    """Return a short line such as 'FLAC 3.29, order-0 5.25'."""
    return ", ".join(f"{NAMES[name]} {value:.2f}" for name, value in bits.items() if name in NAMES)


def total_symbols(ids: NDArray[Any], train: Ids | None = None) -> int:
    """Return the number of symbols that `measure_baselines` reports in all, for a progress bar."""
    return sum(min(n, MAX_SYMBOLS) for n in (len(ids), len(ids), 0 if train is None else len(train)))


def flac_bits(ids: Ids, rate: int, mulaw: bool = False, on_progress: OnProgress = _ignore) -> float:
    """Return the bits per sample of a FLAC file of the sound bytes ids (n,), n >= 1, in constant memory.

    The setting is libsndfile's highest, that of ``flac -8``; ``-8 -e -p`` makes files 0.3 to 0.6 % smaller. The
    header of about 100 bytes counts.

    Mu-law bytes are sorted by their amplitude (`mulaw_levels`), still 8 bits. Unsorted bytes jump at every change of
    sign, and decoded samples have 16 bits: a voice needed 6.3 bits per sample sorted, 7.2 unsorted and 9.1 decoded.
    """
    ids = _check_ids(ids, 256)
    levels = mulaw_levels() if mulaw else np.arange(256, dtype=np.uint8)
    samples = (levels.astype(np.int16) - 128) << 8  # soundfile writes the upper 8 of 16 bits
    return _flac_bits(ids, rate, lambda block: samples[block], "PCM_S8", on_progress)


def _flac_bits(
    data: NDArray[Any],
    rate: int,
    samples: Callable[[NDArray[Any]], NDArray[np.int16]],
    subtype: str,
    on_progress: OnProgress,
) -> float:
    import soundfile

    check_whole("rate", rate, 1)
    size = _Size()
    rate = min(rate, MAX_FLAC_RATE)
    with soundfile.SoundFile(size, "w", rate, 1, subtype, format="FLAC", compression_level=1.0) as file:
        for block in _blocks(data):
            file.write(samples(block))
            on_progress(len(block))
    return 8 * size.bytes / min(len(data), MAX_SYMBOLS)


def bzip2_bits(ids: Ids, vocab: Vocab, on_progress: OnProgress = _ignore) -> float:
    """Return the bits per symbol of ``bzip2 -9`` for the text of ids (n,), n >= 1, in constant memory.

    Among widespread coders it is the best one for plain text.
    """
    ids = _check_ids(ids, len(vocab))
    coder = bz2.BZ2Compressor(9)
    size = 0
    for block in _blocks(ids):
        size += len(coder.compress(vocab.decode(block).encode("utf-8", "surrogatepass")))
        on_progress(len(block))
    return 8 * (size + len(coder.flush())) / min(len(ids), MAX_SYMBOLS)


def order0_bits(train: Ids, ids: Ids, symbols: int, on_progress: OnProgress = _ignore) -> float:
    """Return the bits per symbol of ids (n,), n >= 1, under the histogram of train (m,) with ``symbols`` bins.

    This is the cross-entropy under the histogram, with 1 added to every count, since a symbol with a count of 0 would
    take infinitely many bits. A network whose output is its bias alone reaches it.
    """
    check_whole("symbols", symbols, 1)
    ids = _check_ids(ids, symbols)
    if len(check_integers("train", train, 1)):
        train = _check_ids(train, symbols)
    learned = _histogram(train, symbols, on_progress) + 1
    counts = _histogram(ids, symbols, on_progress)
    return float(counts @ -np.log2(learned / learned.sum()) / counts.sum())


def entropy_bits(ids: Ids, symbols: int, on_progress: OnProgress = _ignore) -> float:
    """Return the order-0 entropy of ids (n,), n >= 1, in bits per symbol: the cross-entropy under their histogram."""
    check_whole("symbols", symbols, 1)
    ids = _check_ids(ids, symbols)
    counts = _histogram(ids, symbols, on_progress)
    p = counts[counts > 0] / counts.sum()
    return max(0.0, float(p @ -np.log2(p)))


def mulaw_levels() -> NDArray[np.uint8]:
    """Return the rank (256,) of each mu-law byte by its amplitude; the negative zero comes before the positive one."""
    byte = np.arange(256)
    return np.where(byte < 128, byte, 383 - byte).astype(np.uint8)


def _check_ids(ids: Ids, symbols: int) -> Ids:
    """Return ids (n,), n >= 1, or raise InputError unless they are from 0 to ``symbols`` - 1."""
    ids = check_integers("ids", ids, 1)
    if not len(ids):
        raise InputError("there are no ids to measure.")
    for block in _blocks(ids):
        if not 0 <= block.min() <= block.max() < symbols:
            raise InputError(f"ids has numbers from {block.min()} to {block.max()}, and there are {symbols} symbols.")
    return ids


def _blocks(ids: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield blocks of the symbols; of more than `MAX_SYMBOLS`, blocks at equal distances with this many in all."""
    if len(ids) <= MAX_SYMBOLS:
        starts = np.arange(0, len(ids), BLOCK)
    else:
        starts = np.linspace(0, len(ids) - BLOCK, MAX_SYMBOLS // BLOCK).astype(np.int64)
    for start in starts:
        yield ids[start : start + BLOCK]


def _histogram(ids: Ids, symbols: int, on_progress: OnProgress) -> NDArray[np.int64]:
    counts = np.zeros(symbols, np.int64)
    for block in _blocks(ids):
        counts += np.bincount(block, minlength=symbols)
        on_progress(len(block))
    return counts


class _Size:
    """File object that discards the data and stores only their size."""

    def __init__(self) -> None:
        self.bytes = self._position = 0

    def write(self, data: bytes) -> int:
        self._position += len(data)
        self.bytes = max(self.bytes, self._position)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self.bytes)[whence]
        return self._position

    def tell(self) -> int:
        return self._position
