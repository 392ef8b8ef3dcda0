"""Files that sampled symbols or samples are written to, as text or WAV."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

import bytecodec
from bytecodec.files import is_special_file, open_output
from bytecodec.pcm import floats_to_int16
from charrnn.data.vocab import Vocab

if TYPE_CHECKING:
    from charrnn.storage.checkpoint_format import CheckpointMeta

Samples = NDArray[Any]
OpenFile = Callable[[str], contextlib.AbstractContextManager["Output"]]


class Output(ABC):
    """Destination of one stream."""

    @abstractmethod
    def write(self, piece: Samples) -> None:
        """Write the next symbols or samples (n,)."""

    def mark(self) -> None:  # noqa: B027
        """Mark the next symbol or sample as the first one of a segment, if the format has marks."""


class TextOutput(Output):
    """UTF-8 text of symbols; ``live`` flushes it after each piece."""

    def __init__(self, file: BinaryIO, vocab: Vocab, live: bool) -> None:
        self._file, self._vocab, self._live = file, vocab, live

    def write(self, piece: NDArray[np.integer[Any]]) -> None:
        self._file.write(self._vocab.decode(piece).encode("utf-8", "surrogatepass"))
        if self._live:
            self._file.flush()


class WavOutput(Output):
    """WAV file with a cue point at each mark; ``convert`` returns a piece in the file's sample format."""

    def __init__(self, wav: bytecodec.WavWriter, convert: Callable[[Samples], Samples]) -> None:
        self._wav, self._convert = wav, convert

    def write(self, piece: Samples) -> None:
        self._wav.write(self._convert(piece))

    def mark(self) -> None:
        self._wav.cue()


@contextlib.contextmanager
def open_text(path: str, vocab: Vocab) -> Iterator[Output]:
    """Open a text file, or for ``-`` standard output, for symbols of a vocabulary."""
    with open_output(path, binary=False) as file:
        yield TextOutput(file, vocab, live=path == "-" or is_special_file(path))


@contextlib.contextmanager
def open_sound(path: str, checkpoint: CheckpointMeta) -> Iterator[Output]:
    """Open an 8-bit WAV file for symbols that are its bytes, at the rate and in the encoding of a network of sound."""
    rate, is_mulaw = checkpoint.rate or 0, checkpoint.encoding == "mulaw"
    with open_output(path) as file, bytecodec.WavWriter(file, rate, is_mulaw) as wav:
        yield WavOutput(wav, lambda ids: ids.astype(np.uint8))


@contextlib.contextmanager
def open_samples(path: str, rate: int, as_float: bool = False) -> Iterator[Output]:
    """Open a WAV file of 16 bits, or of 32-bit floating point, for samples of full scale 1."""
    convert = (lambda samples: samples.astype("<f4")) if as_float else floats_to_int16
    with open_output(path) as file, bytecodec.WavWriter(file, rate, bits=32 if as_float else 16) as wav:
        yield WavOutput(wav, convert)


class SegmentWriter:
    """Writer of each segment of a stream to a file of its own, such as FOLDER/001.wav."""

    def __init__(self, folder: str, suffix: str, open_file: OpenFile) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._folder, self._suffix, self._open_file = folder, suffix, open_file
        self._number = -1
        self._file = contextlib.ExitStack()

    def write(self, number: int, piece: Samples) -> None:
        """Write the next piece (n,) of a segment; the numbers count up from 0."""
        if number != self._number:
            self._file.close()
            path = numbered_path(self._folder, number, self._suffix)
            self._output = self._file.enter_context(self._open_file(path))
            self._number = number
        self._output.write(piece)

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)


def numbered_path(folder: str, number: int, suffix: str) -> str:
    """Return the path of a stream or segment: numbers count from 0, names from 001."""
    return str(Path(folder) / f"{number + 1:03d}{suffix}")
