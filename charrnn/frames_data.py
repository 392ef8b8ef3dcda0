"""Recordings as 16-bit samples on disk, for the frame predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bytecodec.console import sync
from bytecodec.errors import InputError
from charrnn.data import borders, files_of, is_sound
from charrnn.recordings import SoundOptions, read_sound, with_gain_of_set

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
    sound
        How they were read, where that is known.
    """

    ids: NDArray[np.int16]
    names: tuple[str, ...]
    sound: SoundOptions | None = None

    def split(self, val_frac: float, test_frac: float, far: int) -> dict[str, NDArray[np.int16]]:
        """The parts of `charrnn.data.Corpus.split`, of which val and test begin ``far`` samples early: with what their
        first samples are predicted from, which is no target there."""
        train, val = borders(len(self.ids), val_frac, test_frac)
        return {
            "train": self.ids[:train],
            "val": self.ids[max(0, train - far) : val],
            "test": self.ids[max(0, val - far) :],
        }


def prepare(inputs: Sequence[str], target: Path, options: SoundOptions, quiet: bool = False) -> Recordings:
    """Lay recordings end to end as int16 in the file ``target``; folders stand for the recordings in them, sorted.

    Raises
    ------
    InputError
        A file is no recording, or is damaged.
    """
    files = [file for name in inputs for file in files_of(Path(name), quiet)]
    for path in files:
        if not is_sound(path):
            raise InputError(f"{path} is no recording, and --frames learns sound: name recordings.")
    options = with_gain_of_set(options, files, quiet)
    with target.open("wb") as out:
        for path in files:
            for block in read_sound(path, options, 16, quiet):
                out.write(block.astype(SAMPLE, copy=False).tobytes())
        sync(out)
    return replace(open_recordings(target, tuple(map(str, files))), sound=options)


def open_recordings(path: Path, names: tuple[str, ...]) -> Recordings:
    """Map a file that `prepare` wrote."""
    return Recordings(np.memmap(path, dtype=SAMPLE, mode="r"), names)


def last_samples(path: Path, options: SoundOptions, count: int) -> NDArray[np.int16]:
    """The last ``count`` samples of a recording, in constant memory.

    Raises
    ------
    InputError
        It is no recording, or is shorter.
    """
    if not is_sound(path):
        raise InputError(f"{path} is no recording, and a frame predictor begins from sound: name a recording.")
    kept = np.empty(0, dtype=np.int16)
    for block in read_sound(path, options, 16, quiet=True):
        kept = np.concatenate([kept, block])[-count:]
    if len(kept) < count:
        raise InputError(
            f"{path} is too short to begin from: it has {len(kept):,} samples at {options.rate} Hz, "
            f"and a window is {count:,}."
        )
    return kept
