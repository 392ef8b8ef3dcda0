"""Recordings that are streams of frames or pages: the extent of FLAC, Ogg and MPEG audio in a file."""

from __future__ import annotations

import functools
import re
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from bytecodec.parts import Part, count_bytes, find_signature, read_at, skip_id3v2

_WINDOW = 1 << 16  # bytes read at a time
_CHAIN = 3  # number of consecutive frames that cannot be a coincidence
_MIRRORED = bytes(int(f"{b:08b}"[::-1], 2) for b in range(256))  # bytes with their bits in reverse order
_PAGE = re.compile(rb"OggS\0")
_SYNC = re.compile(rb"\xff[\xe2-\xff][\x10-\xeb]")
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by the version's bits
_BITRATES = {  # in kbit/s, by whether it is version 1 and by the layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


class _Window:
    """Buffered reader of small pieces of a file in ascending order."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self._at, self._data = 0, b""

    def get(self, at: int, count: int) -> bytes:
        """Return ``count`` bytes at an offset, or fewer at the end of the file."""
        if not self._at <= at <= at + count <= self._at + len(self._data):
            self._at, self._data = at, read_at(self.file, at, max(count, _WINDOW))
        return self._data[at - self._at : at - self._at + count]

    def find(self, pattern: re.Pattern[bytes], at: int) -> int | None:
        """Return the first offset from ``at`` on at which a pattern of at most 8 bytes matches."""
        while at < self.size:
            if not self._at <= at < self._at + len(self._data) - 8:
                self.get(at, min(_WINDOW, self.size - at))
            if found := pattern.search(self._data, at - self._at):
                return self._at + found.start()
            end = self._at + len(self._data)
            if end >= self.size or not self._data:
                return None
            at = max(at + 1, end - 8)
        return None


# FLAC


def flac_part(file: BinaryIO, begin: int, size: int) -> Part:
    """Return the part of the FLAC stream at an offset."""
    offset, last = begin + 4, False
    while not last and offset < size:  # the blocks of metadata
        head = read_at(file, offset, 4)
        last = len(head) < 4 or head[0] >= 128
        offset += 4 + int.from_bytes(head[1:], "big")
    end = find_signature(file, min(offset, size), size) or size
    return Part(begin, end, end)


# Ogg


def ogg_part(file: BinaryIO, begin: int, size: int) -> Part:
    """Return the part of an Ogg file at an offset, up to the next link of the chain, where all streams begin anew."""
    window = _Window(file, size)
    open_streams: set[bytes] = set()
    heading = True  # among the first pages of the streams
    damage: int | None = None  # offset
    last = end = begin  # the last page
    while end < size:
        page = _page(window, end)
        if not page:
            found = window.find(_PAGE, end + 1)
            # the length of a page that was cut short reaches into the next file
            following = find_signature(file, last + 1, (size if found is None else found) + 5)
            if following is None and found is not None:
                damage, end = damage or end, found
                continue
            return _ogg_end(begin, end, last, size if following is None else following, open_streams, damage)
        serial, begins, ends = page[14:18], page[5] & 2, page[5] & 4
        if begins and not heading:
            return _ogg_end(begin, end, last, end, open_streams, damage)
        heading = bool(begins)
        if damage is None and not _is_whole(page):
            damage = end
        last, end = end, end + _page_length(page)
        if begins:
            open_streams.add(serial)
        if ends and end <= size:
            open_streams.discard(serial)
    following = find_signature(file, last + 1, size) if end > size else None
    return _ogg_end(begin, end, last, following or size, open_streams, damage)


def _page(window: _Window, at: int) -> bytes:
    """Return the page at an offset, as far as it is complete; b"" if there is none."""
    head = window.get(at, 27 + 255)
    return window.get(at, _page_length(head)) if head.startswith(b"OggS\0") and len(head) >= 27 else b""


def _page_length(page: bytes) -> int:
    return 27 + page[26] + sum(page[27 : 27 + page[26]])


def _is_whole(page: bytes) -> bool:
    """Return whether the checksum of a page is right: a CRC of the polynomial of zlib's, but not mirrored."""
    data = page[:22] + bytes(4) + page[26:]
    mirrored = zlib.crc32(data.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2) == int.from_bytes(page[22:26], "little")


def _ogg_end(begin: int, end: int, last: int, following: int, open_streams: set[bytes], damage: int | None) -> Part:
    """Return a part whose last page is at ``last`` and should end at ``end``."""
    messages = []
    if damage is not None and (damage < last or not open_streams):
        messages.append(f"is damaged at byte {damage:,}: its Ogg pages from there on are incomplete.")
    if open_streams:
        messages.append(_cut("the end of its Ogg stream is missing"))
        return Part(begin, following, following, b"", tuple(messages), cut_short=True)
    if following > end:
        messages.append(_left_out(end, following - end))
    return Part(begin, min(end, following), following, b"", tuple(messages))


def _cut(reason: str) -> str:
    return f"is cut short after {{seconds:.2f}} s: {reason}. The sound before it is read."


def _left_out(offset: int, count: int) -> str:
    return f"has {count_bytes(count)} from byte {offset:,} on that are not sound: they are left out."


# MPEG audio


@dataclass(frozen=True)
class _Frame:
    """Header of a frame; the frames of one stream differ only in the length."""

    length: int  # in bytes
    samples: int
    rate: int  # in Hz
    kind: tuple[int, int, int, bool]  # version, layer, rate, mono
    info: int  # offset of the magic word, where the frame is an information frame


def mpeg_begins(file: BinaryIO, at: int, size: int) -> bool:
    """Return whether MPEG audio begins at an offset, or tags and then MPEG audio."""
    window = _Window(file, size)
    return _is_chain(window, skip_id3v2(file, at))


def mpeg_part(file: BinaryIO, begin: int, at: int, size: int) -> Part | None:
    """Return the part of the MPEG audio stream at ``at``, whose tags begin at ``begin``; None where there is none.

    A part ends where frames of another kind come, or an information frame (Xing, Info, VBRI), with which a file begins.
    """
    window = _Window(file, size)
    first = _frame(window.get(at, 4))
    if first is None or not _is_chain(window, at, least=1):
        return None
    info = window.get(at, first.info + 12)
    promised = int.from_bytes(info[-4:], "big") if info[first.info :][:4] in (b"Xing", b"Info") and info[-5] & 1 else 0
    count = -_is_info(window, at, first)
    last = end = at
    while end < size:
        if promised and count == promised and _is_chain(window, end, _CHAIN + 1):  # libmpg123 would stop here
            return _mpeg_part(begin, end, end, first, count, promised)
        frame = _frame(window.get(end, 4))
        if frame and frame.kind == first.kind and (end == at or not _is_info(window, end, frame)):
            last, end = end, end + frame.length
            count += end <= size
            continue
        behind = _skip_tags(window, end)
        if behind >= size:
            return _mpeg_part(begin, size, size, first, count, promised)
        following = _resynchronise(window, behind)
        frame = _frame(window.get(following, 4))
        if following == behind and frame and frame.kind == first.kind and not _is_info(window, following, frame):
            end = following  # a tag within the stream
            continue
        if following > behind:  # the length of a frame that was cut short reaches into the next file
            following = _resynchronise(window, last + 4)
        return _mpeg_part(begin, min(end, following), following, first, count, promised, max(0, following - behind))
    following = _resynchronise(window, last + 4) if end > size else size
    return _mpeg_part(begin, following, following, first, count, promised, incomplete=end > size)


def _mpeg_part(
    begin: int,
    end: int,
    following: int,
    first: _Frame,
    count: int,
    promised: int,
    gap: int = 0,
    incomplete: bool = False,
) -> Part:
    messages = []
    is_cut = count + 1 < promised or (incomplete and (count < promised or not promised))
    if gap:
        messages.append(_left_out(end, gap))
    if count + 1 < promised:
        announced = promised * first.samples / first.rate
        messages.append(f"is cut short: {announced:.2f} s were announced; the {{seconds:.2f}} s in the file are read.")
    elif is_cut:
        messages.append(_cut("its last frame is incomplete"))
    return Part(begin, end, following, b"", tuple(messages), count * first.samples, is_cut)


def _frame(header: bytes) -> _Frame | None:
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    return _described(header[1] | 1, header[2], header[3] >> 6 == 3)  # whether there is a checksum does not matter


@functools.cache
def _described(second: int, third: int, mono: bool) -> _Frame | None:
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    bitrate, rate = third >> 4, third >> 2 & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    is_1 = version == 3
    hertz = _RATES[version][rate]
    bits = 1000 * _BITRATES[is_1, layer][bitrate - 1]
    padding = third >> 1 & 1
    if layer == 1:
        samples, length = 384, (12 * bits // hertz + padding) * 4
    else:
        samples = 1152 if is_1 or layer == 2 else 576
        length = samples // 8 * bits // hertz + padding
    info = 4 + ((17 if mono else 32) if is_1 else (9 if mono else 17))
    return _Frame(length, samples, hertz, (version, layer, rate, mono), info)


def _is_info(window: _Window, at: int, frame: _Frame) -> bool:
    """Return whether the frame at an offset is an information frame, which has no sound."""
    words = window.get(at + frame.info, 4), window.get(at + 36, 4)
    return words[0] in (b"Xing", b"Info") or words[1] == b"VBRI"


def _is_chain(window: _Window, at: int, frames: int = _CHAIN, least: int = _CHAIN) -> bool:
    """Return whether ``frames`` frames of one kind follow each other; ``least`` suffice at the end of the file."""
    kinds, count = set(), 0
    while count < frames and at < window.size:
        frame = _frame(window.get(at, 4))
        if frame is None:
            return False
        kinds.add(frame.kind)
        count += 1
        at += frame.length
    return len(kinds) == 1 and count >= least


def _skip_tags(window: _Window, at: int) -> int:
    """Return the offset behind the tags at an offset: ID3 of both versions, APE."""
    while at < window.size:
        head = window.get(at, 32)
        if head.startswith(b"ID3"):
            behind = skip_id3v2(window.file, at)
        elif head.startswith(b"TAG"):
            behind = at + 128
        elif head.startswith(b"APETAGEX") and len(head) == 32:
            is_header = head[23] & 0x20
            behind = at + 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
        else:
            return at
        if behind == at:
            return at
        at = behind
    return at


def _resynchronise(window: _Window, at: int) -> int:
    """Return the offset, from ``at`` on, at which a chain of frames or another recording begins, or the size."""
    candidate: int | None = at
    while candidate is not None and not _is_chain(window, candidate):
        candidate = window.find(_SYNC, candidate + 1)
    end = window.size if candidate is None else candidate
    return find_signature(window.file, at, end) or end
