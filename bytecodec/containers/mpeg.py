"""Extent of an MPEG audio stream (MP3, MP2, MP1) in a file: its frames, tags and information frames."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import BinaryIO

from bytecodec.containers.part import Part, Window, cut_short_message, find_signature, skip_id3v2, skipped_message

_CHAIN = 3  # consecutive frames that identify MPEG audio; fewer occur by chance in other data
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
    window = Window(file, size)
    return _is_chain(window, skip_id3v2(file, at))


def mpeg_part(file: BinaryIO, begin: int, at: int, size: int) -> Part | None:
    """Return the part of the MPEG audio stream at ``at``, whose tags begin at ``begin``; None where there is none.

    A part ends where frames of another kind come, or an information frame (Xing, Info, VBRI), with which a file begins.
    """
    window = Window(file, size)
    first = _frame(window.get(at, 4))
    if first is None or not _is_chain(window, at, minimum=1):
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
        after = _skip_tags(window, end)
        if after >= size:
            return _mpeg_part(begin, size, size, first, count, promised)
        following = _resynchronise(window, after)
        frame = _frame(window.get(following, 4))
        if following == after and frame and frame.kind == first.kind and not _is_info(window, following, frame):
            end = following  # a tag within the stream
            continue
        if following > after:  # the length of a frame that was cut short reaches into the next file
            following = _resynchronise(window, last + 4)
        return _mpeg_part(begin, min(end, following), following, first, count, promised, max(0, following - after))
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
        messages.append(skipped_message(end, gap))
    if count + 1 < promised:
        announced = promised * first.samples / first.rate
        messages.append(f"is cut short: {announced:.2f} s were announced; the {{seconds:.2f}} s in the file are read.")
    elif is_cut:
        messages.append(cut_short_message("its last frame is incomplete"))
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


def _is_info(window: Window, at: int, frame: _Frame) -> bool:
    """Return whether the frame at an offset is an information frame, which has no sound."""
    tags = window.get(at + frame.info, 4), window.get(at + 36, 4)
    return tags[0] in (b"Xing", b"Info") or tags[1] == b"VBRI"


def _is_chain(window: Window, at: int, frames: int = _CHAIN, minimum: int = _CHAIN) -> bool:
    """Return whether ``frames`` frames of one kind follow each other; ``minimum`` suffice at the end of the file."""
    kinds, count = set(), 0
    while count < frames and at < window.size:
        frame = _frame(window.get(at, 4))
        if frame is None:
            return False
        kinds.add(frame.kind)
        count += 1
        at += frame.length
    return len(kinds) == 1 and count >= minimum


def _skip_tags(window: Window, at: int) -> int:
    """Return the offset after the ID3 tags, of both versions, and APE tags at an offset."""
    while at < window.size:
        head = window.get(at, 32)
        if head.startswith(b"ID3"):
            after = skip_id3v2(window.file, at)
        elif head.startswith(b"TAG"):
            after = at + 128
        elif head.startswith(b"APETAGEX") and len(head) == 32:
            is_header = head[23] & 0x20
            after = at + 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
        else:
            return at
        if after == at:
            return at
        at = after
    return at


def _resynchronise(window: Window, at: int) -> int:
    """Return the offset, from ``at`` on, at which a chain of frames or another recording begins, or the size."""
    candidate: int | None = at
    while candidate is not None and not _is_chain(window, candidate):
        candidate = window.find(_SYNC, candidate + 1)
    end = window.size if candidate is None else candidate
    return find_signature(window.file, at, end) or end
