"""Detection of the recordings in a file, and repair of their headers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from bytecodec.containers.headers import Sound, read_aiff, read_au, read_caf, read_w64, read_wav
from bytecodec.containers.mpeg import mpeg_begins, mpeg_part
from bytecodec.containers.ogg import ogg_part
from bytecodec.containers.part import Part, count_bytes, find_signature, has_signature, is_blank, read_at, skip_id3v2

_MIN_SOUND = 0.1  # in seconds; at least this much data in no chunk after a finished header is read as sound


def find_parts(file: BinaryIO, size: int) -> Iterator[Part]:
    """Yield the recordings that a file of ``size`` bytes contains, in order.

    A recording of another format, or one that cannot be repaired, is returned as one unchanged part.
    """
    at = 0
    while at < size:
        part = _part(file, at, size)
        yield part
        at = part.next


def _part(file: BinaryIO, begin: int, size: int) -> Part:
    """Return the part that begins at an offset.

    ID3 tags before it are kept for MPEG audio only: after such tags, libsndfile rejects many of the other formats, or
    does not read all of their sound.
    """
    at = skip_id3v2(file, begin)
    magic = read_at(file, at, 12)
    sound: Sound | None = None
    if magic[:4] in (b"RIFF", b"RIFX", b"RF64") and magic[8:] == b"WAVE":
        sound = read_wav(file, at, size)
    elif magic[:4] == b"FORM" and magic[8:] in (b"AIFF", b"AIFC"):
        sound = read_aiff(file, at, size)
    elif magic == b"riff" + b"\x2e\x91\xcf\x11\xa5\xd6\x28\xdb":
        sound = read_w64(file, at, size)
    elif magic[:4] == b"caff":
        sound = read_caf(file, at, size)
    elif magic[:4] in (b".snd", b"dns."):
        sound = read_au(file, at, size)
    elif magic[:4] == b"fLaC":
        return _flac_part(file, at, size)
    elif magic[:4] == b"OggS":
        return ogg_part(file, at, size)
    else:
        return mpeg_part(file, begin, at, size) or Part(begin, size, size)
    return _repair(file, at, size, sound) if sound else Part(begin, size, size)


def _flac_part(file: BinaryIO, begin: int, size: int) -> Part:
    """Return the part of the FLAC stream at an offset."""
    offset, last = begin + 4, False
    while not last and offset < size:  # the blocks of metadata
        head = read_at(file, offset, 4)
        last = len(head) < 4 or head[0] >= 128
        offset += 4 + int.from_bytes(head[1:], "big")
    end = find_signature(file, min(offset, size), size) or size
    return Part(begin, end, end)


def _repair(file: BinaryIO, begin: int, size: int, sound: Sound) -> Part:
    """Return the part that begins at an offset, with a new header if its own is wrong."""
    stop = sound.data + sound.length
    after = stop
    messages: tuple[str, ...] = ()
    if stop <= size and not _follows(file, stop, size):
        after, messages = _skip_chunks(sound, stop)
        sound.unreadable = sound.unreadable or bool(messages)
    if stop <= size and (after >= size or _follows(file, after, size)):
        return _keep_header(sound, begin, stop, after, after, messages)
    if stop <= size and (end := _find_wrapped_end(sound, size)):
        message = f"has a header whose sizes end at 4 GiB: all {count_bytes(end - sound.data)} of its sound are read."
        return _replace_header(sound, begin, end, size, (message,))
    following = find_signature(file, sound.data, size) or size
    present = following - sound.data
    if stop > following:
        message = (
            f"is cut short: its header announces {count_bytes(sound.length)} of sound; "
            f"the {present:,} ({{seconds:.2f}} s) in the file are read."
        )
        messages = () if stop > size and _was_unknown(sound.length) else (message,)
        header = sound.header(present) if following < size or sound.unreadable else b""
        return Part(sound.data if header else begin, following, following, header, messages, cut_short=bool(messages))
    if sound.length == 0 and present:
        message = (
            f"has an unfinished header, which announces no sound: the {count_bytes(present)} that follow "
            "are read as sound."
        )
        return _replace_header(sound, begin, following, following, (message,))
    minimum = max(512, _MIN_SOUND * sound.bytes_per_second)
    if after - stop < 8 and following - after >= minimum and not is_blank(file, after, following):
        message = (
            f"has a header that announces {count_bytes(sound.length)} of sound, and {following - stop:,} more "
            "follow in no chunk: they are read as sound too."
        )
        return _replace_header(sound, begin, following, following, (message,))
    message = f"has {count_bytes(following - after)} outside all chunks after its sound: they are skipped."
    return _keep_header(sound, begin, stop, after, following, (*messages, message))


def _keep_header(sound: Sound, begin: int, stop: int, after: int, following: int, messages: tuple[str, ...]) -> Part:
    """Return a part with its own header if that can be read; the sound ends at ``stop``, and the part at ``after``."""
    if sound.unreadable:
        return _replace_header(sound, begin, stop, following, messages)
    return Part(begin, after, following, b"", messages)


def _replace_header(sound: Sound, begin: int, end: int, following: int, messages: tuple[str, ...]) -> Part:
    header = sound.header(end - sound.data)
    if header:
        return Part(sound.data, end, following, header, messages)
    message = (
        f"has a faulty header, which cannot be repaired for its encoding: {count_bytes(end - sound.data)} follow it."
    )
    return Part(begin, end, following, b"", (message,))


def _skip_chunks(sound: Sound, stop: int) -> tuple[int, tuple[str, ...]]:
    """Return the end of the chunks after the sound, and messages about them."""
    end, second = stop, 0
    for name, length, end in sound.chunks(stop):  # noqa: B007
        second += length * (name[:4] in (b"data", b"SSND"))
    return end, (f"has a second chunk of sound, of {count_bytes(second)}: it is skipped.",) if second else ()


def _follows(file: BinaryIO, offset: int, size: int) -> bool:
    """Return whether another recording begins at an offset."""
    return has_signature(file, skip_id3v2(file, offset)) or mpeg_begins(file, offset, size)


def _find_wrapped_end(sound: Sound, size: int) -> int | None:
    """Return the end of a sound whose length lost multiples of 4 GiB, if chunks or nothing follow it."""
    for end in range(sound.data + sound.length + 2**32, size + 1, 2**32):
        if _skip_chunks(sound, end)[0] >= size:
            return end
    return None


def _was_unknown(length: int) -> bool:
    """Return whether a length beyond the end of the file is a placeholder, which programs write to a pipe."""
    return 0x7F000000 <= length <= 0x80001000 or 0xFFFF0000 <= length < 2**32 or length >= 2**62
