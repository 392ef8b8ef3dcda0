"""Parts of a file, each of which is one recording, and a view of one part for libsndfile."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_BLOCK = 1 << 20  # bytes that a search reads at a time
_SIGNATURE_SIZE = 40
_SIGNATURE = re.compile(
    b"|".join(
        [
            rb"RI(?:FF|FX)....WAVE|RF64....WAVE",
            rb"FORM....AIF[FC]",
            rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0",  # W64
            rb"caff\0\x01\0\0desc",
            rb"\.snd\0\0......\0\0\0[\x01-\x1b]\0...\0\0\0.",  # AU: size of the header, encoding, rate, channels
            rb"dns\...\0\0....[\x01-\x1b]\0\0\0...\0.\0\0\0",
            rb"fLaC[\0\x80]\0\0\x22",  # with its first block, of 34 bytes
            rb"OggS\0[\x02\x06]",  # the first page of a stream
            rb"\xff[\xe2-\xff][\x10-\xeb].(?:.{9}|.{17}|.{32})(?:Xing|Info)",  # MPEG audio, as most encoders begin it
            rb"ID3[\x02-\x04]\0[\0\x40\x80].[\0-\x7f]{3}",
        ]
    ),
    re.DOTALL,
)


@dataclass(frozen=True)
class Part:
    """One recording in a file, which may hold several that were joined end to end.

    Attributes
    ----------
    begin, end
        Offsets in the file, in bytes.
    next
        Offset of the part that follows, or the size of the file.
    header
        Header that replaces a wrong one before ``begin``; empty if the part has a good header of its own.
    messages
        Messages to report once the part has been read to its end; ``{seconds:.2f}`` stands for its duration.
    frames
        Number of frames in the part, if they were counted.
    cut_short
        Whether the messages report that the part is cut short.
    """

    begin: int
    end: int
    next: int
    header: bytes = b""
    messages: tuple[str, ...] = ()
    frames: int | None = None
    cut_short: bool = False


class View(io.RawIOBase):
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
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, which stays within the part."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = min(max(0, origin + offset), self._size)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer as far as possible, and return the number of bytes."""
        wanted = min(len(buffer), self._size - self._position)
        if self._position < len(self._header):
            data = self._header[self._position : self._position + wanted]
        else:
            try:
                data = read_at(self._file, self._begin + self._position, wanted)
            except OSError as error:
                self.error = error
                return 0
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def read_at(file: BinaryIO, offset: int, count: int) -> bytes:
    """Return ``count`` bytes at an offset, or fewer where the file ends."""
    if hasattr(os, "pread"):  # leaves the position of a buffered file alone, which libsndfile reads by its descriptor
        return os.pread(file.fileno(), count, offset)
    file.seek(offset)
    return file.read(count)


def has_signature(file: BinaryIO, offset: int) -> bool:
    """Return whether a recording of a format with a distinctive signature begins at an offset."""
    return _SIGNATURE.match(read_at(file, offset, _SIGNATURE_SIZE)) is not None


def find_signature(file: BinaryIO, begin: int, end: int) -> int | None:
    """Return the first offset from begin on, and before end, at which a recording begins."""
    for offset, data in _blocks(file, begin, end):
        if found := _SIGNATURE.search(data):
            return offset + found.start()
    return None


def _blocks(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes); neighbours overlap by the length of a signature."""
    while begin < end:
        yield begin, read_at(file, begin, min(_BLOCK + _SIGNATURE_SIZE, end - begin))
        begin += _BLOCK


def skip_id3v2(file: BinaryIO, offset: int) -> int:
    """Return the offset behind the ID3v2 tags at an offset; the offset itself if there are none."""
    while True:
        head = read_at(file, offset, 10)
        if len(head) < 10 or head[:3] != b"ID3" or max(head[3:5]) == 255 or max(head[6:]) >= 128:
            return offset
        size = int.from_bytes(head[6:], "big")  # 7 bits of each byte
        size = sum((size >> 8 * k & 127) << 7 * k for k in range(4))
        offset += 10 + size + (10 if head[5] & 16 else 0)


def is_blank(file: BinaryIO, begin: int, end: int) -> bool:
    """Return whether all bytes between two offsets are zero."""
    return not any(data.strip(b"\0") for _, data in _blocks(file, begin, end))


def count_bytes(count: int) -> str:
    """Return "1 byte" or "1,234 bytes"."""
    return f"{count:,} byte{'s' * (count != 1)}"
