"""Writing of WAV files, and of WAV streams of unknown length to a pipe."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bytecodec.alphabet import Bytes, byte_array
from bytecodec.arguments import check_rate, check_whole
from bytecodec.errors import InputError

#: Largest size of a WAV file in bytes, because RIFF has 32-bit lengths.
MAX_BYTES = 2**32 - 1

_UNKNOWN = 0xFFFFFFFF  # length in a stream, as from ffmpeg; players then read to its end
_PCM, _FLOAT, _MULAW = 1, 3, 7  # format tags
_CUE_BYTES = 24


class WavFullError(InputError):
    """Error for samples that exceed the size of a WAV file; the samples before them are in the file."""


class WavWriter:
    """Writer of mono samples to a WAV file or a pipe.

    In a regular file, `close` writes the sizes into the header, the pad byte after an odd number of bytes, and the cue
    points. Before that, and in a pipe, the header has an unknown length, so that the samples so far can be played. The
    stream is left open.

    Parameters
    ----------
    stream
        File open for writing bytes, at any position. Pipes are flushed after each write.
    rate
        Sampling rate in Hz, 1,000 to 768,000.
    mulaw
        Whether the bytes are G.711 mu-law (format tag 7) instead of unsigned linear PCM.
    bits
        Bits per sample: 8 (unsigned), 16 (signed), or 32 (floating point with full scale 1).

    Attributes
    ----------
    samples : int
        Number of samples written.

    Raises
    ------
    InputError
        The rate is out of range, the format does not exist, or the stream does not accept bytes.

    Examples
    --------
    >>> import io
    >>> stream = io.BytesIO()
    >>> with WavWriter(stream, rate=8000) as writer:
    ...     writer.write(bytes([128, 255, 128]))
    >>> len(stream.getvalue())
    48
    """

    def __init__(self, stream: BinaryIO, rate: int = 11025, mulaw: bool = False, bits: int = 8) -> None:
        check_rate(rate)
        if bits not in (8, 16, 32) or (mulaw and bits != 8):
            raise InputError(f"bits is {bits!r}; it must be 8, 16 or 32, and 8 for mu-law.")
        _check_stream(stream)
        self.samples = 0
        self._stream = stream
        self._rate = rate
        self._tag = _MULAW if mulaw else _FLOAT if bits == 32 else _PCM
        self._width = bits // 8
        self._cues: list[int] = []
        self._begin: int | None = None  # offset of the header; None in a pipe
        self._state = "new"

    def write(self, samples: Bytes | NDArray[Any]) -> None:
        """Write the next samples (n,) as bytes, or as an array of uint8, int16 or float32 according to ``bits``.

        Raises
        ------
        WavFullError
            The file has reached 4 GiB, and contains as many samples as fit. A pipe has no limit.
        InputError
            The samples are of another type, or the writer is closed.
        """
        data = self._check_samples(samples)
        self._start()
        room = len(data) if self._begin is None else self._room()
        self._stream.write(data[:room])
        self.samples += min(room, len(data)) // self._width
        if self._begin is None:
            self._stream.flush()
        if room < len(data):
            raise WavFullError(f"a WAV file ends at 4 GiB: {self.samples:,} samples are in it, and more follow.")

    def cue(self, offset: int | None = None) -> None:
        """Add a cue point at a sample, by default the next one; pipes have no cue points."""
        if offset is not None:
            check_whole("offset", offset, 0, MAX_BYTES)
        self._cues.append(self.samples if offset is None else offset)

    def close(self) -> None:
        """Finish the file; further calls have no effect."""
        self._start()
        if self._state == "open" and self._begin is not None:
            self._finish(self._begin)
        self._stream.flush()
        self._state = "closed"

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif self._state == "open":
            with contextlib.suppress(OSError):  # do not hide the first error
                self.close()

    def _check_samples(self, samples: Any) -> memoryview:
        """Return the bytes of samples, or raise InputError for another type than this writer's."""
        if self._state == "closed":
            raise InputError("the WAV file is closed: nothing can be written to it.")
        dtype = np.dtype({8: "u1", 16: "<i2", 32: "<f4"}[8 * self._width])
        if isinstance(samples, np.ndarray):
            if samples.dtype != dtype or samples.ndim != 1:
                raise InputError(f"samples is an array of {samples.dtype} {samples.shape}; it must be {dtype} (n,).")
            return memoryview(np.ascontiguousarray(samples).data).cast("B")
        data = byte_array("samples", samples).data
        if len(data) % self._width:
            raise InputError(f"{len(data)} bytes are not a whole number of samples of {self._width} bytes each.")
        return data

    def _start(self) -> None:
        if self._state == "new":
            self._begin = self._stream.tell() if _is_rewritable(self._stream) else None
            self._stream.write(self._header(_UNKNOWN, _UNKNOWN))
            self._state = "open"

    def _room(self) -> int:
        after = 1 + (12 + _CUE_BYTES * len(self._cues) if self._cues else 0)
        room = max(0, MAX_BYTES - len(self._header(0, 0)) - after - self.samples * self._width)
        return room - room % self._width

    def _finish(self, begin: int) -> None:
        header = len(self._header(0, 0))
        # Ctrl-C may interrupt the writer after a write and before its samples are counted.
        size = max(self.samples * self._width, self._stream.tell() - begin - header)
        self.samples = size // self._width
        self._stream.write(b"\0" * (size % 2) + self._cue_chunk())
        end = self._stream.tell()
        self._stream.seek(begin)
        self._stream.write(self._header(end - begin - 8, self.samples))
        self._stream.seek(end)

    def _header(self, riff_bytes: int, samples: int) -> bytes:
        width = self._width
        form = struct.pack("<HHIIHH", self._tag, 1, self._rate, self._rate * width, width, 8 * width)
        if self._tag == _PCM:
            chunks = _chunk(b"fmt ", form)
        else:  # the standard requires the size of an extension, and a fact chunk
            chunks = _chunk(b"fmt ", form + b"\0\0") + _chunk(b"fact", struct.pack("<I", samples))
        size = samples if samples == _UNKNOWN else samples * width
        return struct.pack("<4sI4s", b"RIFF", riff_bytes, b"WAVE") + chunks + struct.pack("<4sI", b"data", size)

    def _cue_chunk(self) -> bytes:
        if not self._cues:
            return b""
        points = [struct.pack("<II4sIII", i, at, b"data", 0, 0, at) for i, at in enumerate(self._cues, 1)]
        return _chunk(b"cue ", struct.pack("<I", len(points)) + b"".join(points))


def _check_stream(stream: Any) -> None:
    if not hasattr(stream, "write") or isinstance(stream, io.TextIOBase):
        kind = type(stream).__name__
        raise InputError(f"stream is a {kind}; it must be a file open for writing bytes.")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", name, len(content)) + content


def _is_rewritable(stream: BinaryIO) -> bool:
    """Return whether the header can be rewritten: not in a pipe or a device, nor in append mode (``>>``)."""
    try:
        descriptor = stream.fileno()
    except OSError:  # an io.BytesIO has no descriptor
        return stream.seekable()
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return False
    if os.name == "nt":
        return True
    import fcntl

    return not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
