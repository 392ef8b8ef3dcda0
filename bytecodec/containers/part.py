"""A part of a file that is one recording, and the search for such parts by their signatures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_BLOCK = 1 << 20  # bytes that a search reads at a time
_SIGNATURE_SIZE = 40
_WINDOW_SIZE = 1 << 16  # bytes read at a time
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
    """One recording in a file, which may contain several that were joined end to end."""

    begin: int  # offsets in the file, in bytes
    end: int
    next: int  # offset of the following part, or the size of the file
    header: bytes = b""  # replaces a wrong one before ``begin``
    messages: tuple[str, ...] = ()  # to report after the part was read; ``{seconds:.2f}`` is replaced by its duration
    frames: int | None = None  # number of frames, if they were counted
    cut_short: bool = False  # whether the messages report that the part is cut short


class Window:
    """Buffered reader of small pieces of a file in ascending order."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self._at, self._data = 0, b""

    def get(self, at: int, count: int) -> bytes:
        """Return ``count`` bytes at an offset, or fewer at the end of the file."""
        if not self._at <= at <= at + count <= self._at + len(self._data):
            self._at, self._data = at, read_at(self.file, at, max(count, _WINDOW_SIZE))
        return self._data[at - self._at : at - self._at + count]

    def find(self, pattern: re.Pattern[bytes], at: int) -> int | None:
        """Return the first offset from ``at`` on at which a pattern of at most 8 bytes matches."""
        while at < self.size:
            if not self._at <= at < self._at + len(self._data) - 8:
                self.get(at, min(_WINDOW_SIZE, self.size - at))
            if found := pattern.search(self._data, at - self._at):
                return self._at + found.start()
            end = self._at + len(self._data)
            if end >= self.size or not self._data:
                return None
            at = max(at + 1, end - 8)
        return None


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
    """Return the offset after the ID3v2 tags at an offset; the offset itself if there are none."""
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


def cut_short_message(reason: str) -> str:
    """Return a message about a stream that is cut short; ``{seconds}`` in it is replaced later."""
    return f"is cut short after {{seconds:.2f}} s: {reason}. The sound before it is read."


def skipped_message(offset: int, count: int) -> str:
    """Return a message about bytes in or after a stream that are not sound."""
    return f"has {count_bytes(count)} from byte {offset:,} on that are not sound: they are skipped."
