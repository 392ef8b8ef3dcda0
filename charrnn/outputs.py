"""Where sampled symbols go: text, sound, takes side by side, and segments of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import bytecodec
from bytecodec.console import is_special_file, open_output
from charrnn.checkpoint import Checkpoint


class Output(Protocol):
    """Takes the symbols of one stream."""

    def write(self, ids: NDArray[np.integer[Any]]) -> None:
        """Take the next symbols (n,)."""

    def mark(self) -> None:
        """Note that a segment begins here."""


@contextlib.contextmanager
def open_text(path: str, checkpoint: Checkpoint) -> Iterator[Output]:
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
def open_sound(path: str, checkpoint: Checkpoint) -> Iterator[Output]:
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
def open_takes(paths: list[str], sound: bool, checkpoint: Checkpoint) -> Iterator[list[Output]]:
    """An output for each path."""
    with contextlib.ExitStack() as stack:
        open_one = open_sound if sound else open_text
        yield [stack.enter_context(open_one(path, checkpoint)) for path in paths]


class Segments:
    """Writes each segment of a stream to a file of its own: FOLDER/001.wav (or .txt) and on."""

    def __init__(self, folder: Path, sound: bool, checkpoint: Checkpoint) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._sound, self._checkpoint = folder, sound, checkpoint
        self._number = -1
        self._open = contextlib.ExitStack()

    def write(self, number: int, ids: NDArray[np.integer[Any]]) -> None:
        """Take the next symbols (n,) of a segment; the numbers count up from 0."""
        if number != self._number:
            self._open.close()
            path = take_path(self._folder, number, self._sound)
            self._output = self._open.enter_context(open_takes([path], self._sound, self._checkpoint))[0]
            self._number = number
        self._output.write(ids)

    def __enter__(self) -> Segments:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)


def take_path(folder: Path, number: int, sound: bool) -> str:
    """The file of a take or segment, whose numbers count from 0 and whose names from 001."""
    return str(folder / f"{number + 1:03d}{'.wav' if sound else '.txt'}")
