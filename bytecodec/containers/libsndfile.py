"""Forward reading with libsndfile, up to the first damage, and without output of the library on stderr."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bytecodec.containers.part import Part, read_at

Samples: TypeAlias = NDArray[np.float32]

_STEP = 64  # frames that are read at a time near damage

_lock = threading.Lock()
_silencers = 0  # number of running calls in all threads
_stream: int | None = None  # the original FILE* of the C library's stderr


class SoundReader:
    """Forward reader of one recording.

    ``open_sound`` opens the recording at its beginning, as a `soundfile.SoundFile`. ``is_spent`` returns whether only
    zeros or nothing follow what libsndfile has read of the file: it reads some kilobytes ahead, so damage this close to
    the end counts as the end.
    """

    def __init__(self, open_sound: Callable[[], Any], is_spent: Callable[[], bool]) -> None:
        self._open = open_sound
        self._is_spent = is_spent
        with protect_c_call():
            self._sound = open_sound()
        self.rate: int = self._sound.samplerate  # in Hz
        self.channels: int = self._sound.channels
        self.container: str = self._sound.format  # such as "WAV"
        self.subtype: str = self._sound.subtype  # such as "PCM_16"
        self.frames: int | None = self._sound.frames if self._sound.frames < 2**62 else None  # 2 ** 63 - 1: unknown
        self.frames_read = 0
        self.cut_short = False  # whether reading ended with an error at the end of the file
        self._damage: Exception | None = None

    def read_into(self, buffer: Samples) -> Samples:
        """Read as many frames as fit into the buffer, and return that part of it; (0, channels) at the end.

        Raise `soundfile.LibsndfileError` if the recording is damaged here and more data follow the damage.
        """
        from soundfile import LibsndfileError

        if self._damage:
            raise self._damage
        if self.cut_short:
            return buffer[:0]
        if self.frames is not None:  # some decoders report an error of what follows the last frame
            buffer = buffer[: self.frames - self.frames_read]
        if not len(buffer):
            return buffer
        try:
            count = self._read(buffer)
        except LibsndfileError as error:
            count = self._read_to_damage(buffer, error)
        self.frames_read += count
        if not count and self._damage:
            raise self._damage
        return buffer[:count]

    def _read(self, buffer: Samples) -> int:
        with protect_c_call():
            return len(self._sound.read(out=buffer))

    def _read_to_damage(self, buffer: Samples, error: Exception) -> int:
        """Read again from the beginning, and then in small steps up to the first error.

        libsndfile does not report how many frames of a larger read came before the error.
        """
        from soundfile import LibsndfileError

        with protect_c_call():
            self._sound.close()
            self._sound = self._open()
        rest, count = self.frames_read, 0
        scratch = np.empty((min(rest, 1 << 14), self.channels), np.float32)
        while rest:
            rest -= self._read(scratch[:rest]) or rest
        while count < len(buffer):
            try:
                step = self._read(buffer[count : count + _STEP])
            except LibsndfileError:
                self.cut_short = self._is_spent()
                self._damage = None if self.cut_short else error
                break
            if not step:
                break
            count += step
        return count


class PartFile(io.RawIOBase):
    """Read-only file of the bytes of a part: its new header, if it has one, and its bytes of the file.

    libsndfile calls it from C, where an exception would be lost: a reading error is kept in `error`.
    """

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file = file
        self._header = part.header
        self._begin = part.begin - len(part.header)  # offset in the file of position 0
        self._size = len(part.header) + part.end - part.begin
        self._position = 0
        self.error: OSError | None = None

    @property
    def offset(self) -> int:
        """Offset in the file of the current position."""
        return self._begin + self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, which stays within the part."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = min(max(0, origin + offset), self._size)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer as far as possible, and return the number of bytes."""
        requested = min(len(buffer), self._size - self._position)
        if self._position < len(self._header):
            data = self._header[self._position : self._position + requested]
        else:
            try:
                data = read_at(self._file, self._begin + self._position, requested)
            except OSError as error:
                self.error = error
                return 0
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_sound(file: BinaryIO | PartFile) -> Any:
    """Open a regular file, or a part of one, from its beginning, or raise `soundfile.LibsndfileError`."""
    import soundfile

    class Forward(soundfile.SoundFile):  # type: ignore[misc]
        """SoundFile without the seek that soundfile adds to each read, which fails for FLAC of unknown length."""

        def seekable(self) -> bool:
            return False

    source: PartFile | int
    if isinstance(file, PartFile):
        source = file
        source.seek(0)
    else:
        source = file.fileno()  # with a name, soundfile would choose the format by its ending
        os.lseek(source, 0, os.SEEK_SET)
    return Forward(source, closefd=False)


def reason(error: Any) -> str:
    """Return libsndfile's message for an error."""
    return str(error.error_string.removeprefix("Error : ").rstrip("."))


@contextlib.contextmanager
def protect_c_call() -> Iterator[None]:
    """Suppress output on stderr, and delay signals, while libsndfile is called."""
    with silent_stderr(), _delayed_signals():
        yield


@contextlib.contextmanager
def _delayed_signals() -> Iterator[None]:
    """Delay the handlers of signals until the block has ended.

    libsndfile reads a `PartFile` by calling Python, where an exception from a handler would be lost.
    """
    if threading.current_thread() is not threading.main_thread():  # other threads run no handlers
        yield
        return
    arrived: list[int] = []
    handlers = [(number, signal.getsignal(number)) for number in signal.valid_signals()]
    handlers = [(number, handler) for number, handler in handlers if callable(handler)]
    try:
        for number, _ in handlers:
            signal.signal(number, lambda which, _: arrived.append(which))
        yield
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
        for which in arrived:
            signal.raise_signal(which)


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard what C code writes with ``fprintf(stderr, ...)``, as libmpg123 does for a damaged stream.

    Only the C library's variable ``stderr`` is exchanged. Descriptor 2 and `sys.stderr` are not changed, so that no
    message of another thread is lost. Where the variable cannot be exchanged (Windows, musl), nothing is discarded.
    """
    global _silencers, _stream
    variable = _variable()
    if variable is None:
        yield
        return
    with _lock:
        if not _silencers:
            _stream, variable.value = variable.value, _null()
        _silencers += 1
    try:
        yield
    finally:
        with _lock:
            _silencers -= 1
            if not _silencers:
                variable.value = _stream


@functools.cache
def _variable() -> ctypes.c_void_p | None:
    is_mac = sys.platform == "darwin"
    if not is_mac and platform.libc_ver()[0] != "glibc":  # elsewhere it is a constant
        return None
    with contextlib.suppress(OSError, ValueError):
        return ctypes.c_void_p.in_dll(ctypes.CDLL(None), "__stderrp" if is_mac else "stderr")
    return None


@functools.cache
def _null() -> int | None:
    fopen = ctypes.CDLL(None).fopen
    fopen.restype = ctypes.c_void_p
    stream: int | None = fopen(b"/dev/null", b"w")
    return stream
