"""Recordings as 16-bit samples on disk, for the frame predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from bytecodec.files import sync
from charrnn.data.corpus import part_bounds, write_readable
from charrnn.data.inputs import Unreadable, nothing_readable, prepare_input, prepare_inputs
from charrnn.data.recordings import SoundOptions, read_sound, with_gain_of_set

SAMPLE = np.dtype("<i2")


@dataclass(frozen=True)
class Recordings:
    """All samples of a run, in a memory-mapped file."""

    ids: NDArray[np.int16]  # (n,)
    names: tuple[str, ...]  # of the files that they come from, in order
    skipped: tuple[str, ...] = ()  # files that could not be read and were skipped
    sound: SoundOptions | None = None  # options with which they were read; None if unknown

    def split(self, val_frac: float, test_frac: float, max_lag: int) -> dict[str, NDArray[np.int16]]:
        """Return the parts of `charrnn.data.corpus.Corpus.split`.

        val and test begin ``max_lag`` samples early, with the samples that their first targets are predicted from.
        """
        train, val = part_bounds(len(self.ids), val_frac, test_frac)
        return {
            "train": self.ids[:train],
            "val": self.ids[max(0, train - max_lag) : val],
            "test": self.ids[max(0, val - max_lag) :],
        }


def prepare(
    inputs: Sequence[str], target: Path, options: SoundOptions, quiet: bool = False, skip_unreadable: bool = False
) -> Recordings:
    """Write recordings one after another as int16 to the file ``target``.

    A folder expands to the recordings in it, sorted by path; ``-`` is standard input. Files that cannot be read are an
    error before any is converted, or are skipped with ``skip_unreadable``.
    """
    unreadable = Unreadable(skip_unreadable, quiet)
    with prepare_inputs(inputs, unreadable, texts=False) as found:
        files = []
        for file in found:
            with unreadable.handle_errors(file.name):
                if not file.is_sound:
                    raise InputError(
                        f"{file.name} is not a recording, and a frame predictor needs sound: name recordings."
                    )
                files.append(file)
        options, files = with_gain_of_set(options, files, unreadable)
        with target.open("wb") as out:
            names = [
                file.name
                for file in files
                if write_readable(read_sound(file, options, 16, quiet), out, file, SAMPLE, unreadable)
            ]
            sync(out)
    unreadable.report()
    if not names:
        raise nothing_readable(unreadable)
    return replace(open_recordings(target, tuple(names), tuple(unreadable.names)), sound=options)


def open_recordings(path: Path, names: tuple[str, ...], skipped: tuple[str, ...] = ()) -> Recordings:
    """Map a file that `prepare` wrote."""
    return Recordings(np.memmap(path, dtype=SAMPLE, mode="r"), names, skipped)


def last_samples(name: str | Path, options: SoundOptions, count: int) -> NDArray[np.int16]:
    """Return the last ``count`` samples of a recording, or of standard input, ``-``, in constant memory."""
    kept = np.empty(0, dtype=np.int16)
    with prepare_input(str(name)) as file:
        if not file.is_sound:
            raise InputError(
                f"{file.name} is not a recording, and a frame predictor starts from sound: name a recording."
            )
        for block in read_sound(file, options, 16, quiet=True):
            kept = np.concatenate([kept, block])[-count:]
        if len(kept) < count:
            raise InputError(
                f"{file.name} is too short to start from: it has {len(kept):,} samples at {options.rate} Hz, "
                f"and a window has {count:,}."
            )
    return kept
