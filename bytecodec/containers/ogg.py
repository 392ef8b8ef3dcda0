"""Extent of an Ogg stream in a file: its pages, their checksums, and chained streams."""

from __future__ import annotations

import re
import zlib
from typing import BinaryIO

from bytecodec.containers.part import Part, Window, cut_short_message, find_signature, skipped_message

_MIRRORED = bytes(int(f"{b:08b}"[::-1], 2) for b in range(256))  # bytes with their bits in reverse order
_PAGE = re.compile(rb"OggS\0")


def ogg_part(file: BinaryIO, begin: int, size: int) -> Part:
    """Return the part of an Ogg file at an offset, up to the next link of the chain, where new streams begin."""
    window = Window(file, size)
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


def _page(window: Window, at: int) -> bytes:
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
        messages.append(cut_short_message("the end of its Ogg stream is missing"))
        return Part(begin, following, following, b"", tuple(messages), cut_short=True)
    if following > end:
        messages.append(skipped_message(end, following - end))
    return Part(begin, min(end, following), following, b"", tuple(messages))
