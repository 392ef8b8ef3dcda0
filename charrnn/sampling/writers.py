"""Where sampled symbols go: text, sound, takes side by side, and segments of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

import bytecodec
from bytecodec.files import is_special_file, open_output

if TYPE_CHECKING:
    from charrnn.storage.checkpoint import Checkpoint
    from charrnn.storage.checkpoint_format import StoredCheckpoint


class Output(Protocol):
    """Takes the symbols of one stream."""

    def write(self, ids: NDArray[Any]) -> None:
        """Take the next symbols (n,), or samples."""

    def mark(self) -> None:
        """Note that a segment begins here."""


@contextlib.contextmanager
def open_text(path: str, checkpoint: Checkpoint | StoredCheckpoint) -> Iterator[Output]:
    """UTF-8 text, to a file or, for ``-``, to standard output as it comes."""
    with open_output(path, binary=False) as file:
        live = path == "-" or is_special_file(path)

        class Text:
            def write(self, ids: NDArray[np.integer[Any]]) -> None:
                file.write(checkpoint.vocab.decode(ids).encode("utf-8", "surrogatepass"))
                if live:
                    file.flush()

            def mark(self) -> None:
                pass

        yield Text()


@contextlib.contextmanager
def open_sound(path: str, checkpoint: Checkpoint | StoredCheckpoint) -> Iterator[Output]:
    """An 8-bit WAV with a cue point at each mark; ids are its bytes."""
    if checkpoint.rate is None:
        raise ValueError("a network of text makes no sound")
    mulaw = checkpoint.encoding == "mulaw"
    with open_output(path) as file, bytecodec.WavWriter(file, checkpoint.rate, mulaw) as wav:

        class Sound:
            def write(self, ids: NDArray[np.integer[Any]]) -> None:
                wav.write(ids.astype(np.uint8))

            def mark(self) -> None:
                wav.cue()

        yield Sound()


@contextlib.contextmanager
def open_samples(path: str, rate: int, as_float: bool = False) -> Iterator[Output]:
    """A WAV of 16 bits, or of 32-bit floats, with a cue point at each mark, for samples of full scale 1."""
    with open_output(path) as file, bytecodec.WavWriter(file, rate, bits=32 if as_float else 16) as wav:

        class Sound:
            def write(self, ids: NDArray[Any]) -> None:
                wav.write(ids.astype("<f4") if as_float else as_int16(ids))

            def mark(self) -> None:
                wav.cue()

        yield Sound()


def as_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Samples of full scale 1 rounded to int16; what lies beyond its range becomes its ends."""
    rounded = np.floor(samples * np.float32(32768) + np.float32(0.5))
    return np.asarray(np.clip(rounded, -32768, 32767), dtype="<i2")


@contextlib.contextmanager
def open_takes(paths: list[str], sound: bool, checkpoint: Checkpoint | StoredCheckpoint) -> Iterator[list[Output]]:
    """An output for each path."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(open_take(path, sound, checkpoint)) for path in paths]


def open_take(
    path: str, sound: bool, checkpoint: Checkpoint | StoredCheckpoint
) -> contextlib.AbstractContextManager[Output]:
    """The output of one take, to be entered."""
    return (open_sound if sound else open_text)(path, checkpoint)


class Segments:
    """Writes each segment of a stream to a file of its own: FOLDER/001.wav (or .txt) and on."""

    def __init__(
        self, folder: Path, sound: bool, open_one: Callable[[str], contextlib.AbstractContextManager[Output]]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._sound, self._open_one = folder, sound, open_one
        self._number = -1
        self._open = contextlib.ExitStack()

    def write(self, number: int, ids: NDArray[Any]) -> None:
        """Take the next symbols (n,) of a segment; the numbers count up from 0."""
        if number != self._number:
            self._open.close()
            path = take_path(self._folder, number, self._sound)
            self._output = self._open.enter_context(self._open_one(path))
            self._number = number
        self._output.write(ids)

    def __enter__(self) -> Segments:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)


def take_path(folder: Path, number: int, sound: bool) -> str:
    """The file of a take or segment, whose numbers count from 0 and whose names from 001."""
    return str(folder / f"{number + 1:03d}{'.wav' if sound else '.txt'}")
