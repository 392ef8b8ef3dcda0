"""Recordings as 16-bit samples on disk, for the frame predictor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bytecodec
from bytecodec.console import progress, say, sync
from bytecodec.errors import InputError
from charrnn.data import borders, write_readable
from charrnn.inputs import Input, Unreadable, nothing_readable, opened, opened_all

SAMPLE = np.dtype("<i2")


@dataclass(frozen=True)
class Recordings:
    """All samples of a run, on disk, mapped into memory as they are needed.

    Attributes
    ----------
    ids
        (n,) int16.
    names
        The files that they come from, in order.
    skipped
        Files that were given too and could not be read.
    """

    ids: NDArray[np.int16]
    names: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def split(self, val_frac: float, test_frac: float, far: int) -> dict[str, NDArray[np.int16]]:
        """The parts of `charrnn.data.Corpus.split`, of which val and test begin ``far`` samples early: with what their
        first samples are predicted from, which is no target there."""
        train, val = borders(len(self.ids), val_frac, test_frac)
        return {
            "train": self.ids[:train],
            "val": self.ids[max(0, train - far) : val],
            "test": self.ids[max(0, val - far) :],
        }


def prepare(
    inputs: Sequence[str],
    target: Path,
    rate: int,
    normalize: bool = False,
    gain_db: float = 0.0,
    quiet: bool = False,
    skip_unreadable: bool = False,
) -> Recordings:
    """Lay recordings end to end as int16 in the file ``target``.

    Folders stand for the recordings in them, sorted by path; ``-`` is standard input. Files that cannot be read are an
    error, before any is read, or left out with ``skip_unreadable``.

    Raises
    ------
    InputError
        A file is no recording, or is damaged.
    """
    unreadable = Unreadable(skip_unreadable, quiet)
    with opened_all(inputs, unreadable, quiet, texts=False) as found:
        files = []
        for file in found:
            with unreadable.noting(file.name):
                if not file.is_sound:
                    raise InputError(f"{file.name} is no recording, and --frames learns sound: name recordings.")
                files.append(file)
        with target.open("wb") as out:
            names = [
                file.name
                for file in files
                if write_readable(_blocks(file, rate, normalize, gain_db, quiet), out, file, SAMPLE, unreadable)
            ]
            sync(out)
    unreadable.report()
    if not names:
        raise nothing_readable(unreadable)
    return open_recordings(target, tuple(names), tuple(unreadable.names))


def _blocks(file: Input, rate: int, normalize: bool, gain_db: float, quiet: bool) -> Iterator[NDArray[Any]]:
    with progress(file.size, "B", quiet, unit_scale=True, desc=file.name) as bar, file.open() as source:
        yield from bytecodec.read_blocks(
            source,
            rate,
            normalize=normalize,
            gain_db=gain_db,
            bits=16,
            tell=lambda sentence: say(sentence, quiet),
            progress=lambda done, of: bar.update(bar.total * done / of - bar.n if of else 0),
        )


def open_recordings(path: Path, names: tuple[str, ...], skipped: tuple[str, ...] = ()) -> Recordings:
    """Map a file that `prepare` wrote."""
    return Recordings(np.memmap(path, dtype=SAMPLE, mode="r"), names, skipped)


def last_samples(name: str | Path, rate: int, count: int) -> NDArray[np.int16]:
    """The last ``count`` samples at a rate of a recording, or of one on standard input, ``-``, in constant memory.

    Raises
    ------
    InputError
        It is no recording, or is shorter.
    """
    kept = np.empty(0, dtype=np.int16)
    with opened(str(name)) as file:
        if not file.is_sound:
            raise InputError(f"{file.name} is no recording, and a frame predictor begins from sound: name a recording.")
        with file.open() as source:
            for block in bytecodec.read_blocks(source, rate, bits=16):
                kept = np.concatenate([kept, block])[-count:]
        if len(kept) < count:
            raise InputError(
                f"{file.name} is too short to begin from: it has {len(kept):,} samples at {rate} Hz, "
                f"and a window is {count:,}."
            )
    return kept
