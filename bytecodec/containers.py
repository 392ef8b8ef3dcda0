"""The recordings in a file, and what is wrong with their headers: WAV, RF64, W64, AIFF, AU, CAF; others in `streams`."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from bytecodec import streams
from bytecodec.parts import Part, find_signature, has_signature, read_at, skip_id3v2

_MOST_CHUNKS = 100_000  # more of them are damage
_LONGEST_FORMAT = 4096  # bytes of a chunk that describes the samples
_LONGEST_HEADER = 1 << 20  # bytes of a CAF header that is copied
_LEAST_SOUND = 0.1  # seconds: from this length on, bytes in no chunk after a finished header are read as sound
_MOST_IN_RIFF = 2**32 - 2**16  # bytes of sound: more are handed on as RF64
_AU_INTEGER = {8: 2, 16: 3, 24: 4, 32: 5}  # the numbers of AU's encodings, by the bits of a sample
_AU_FLOAT = {32: 6, 64: 7}
_AU_CODEC = {b"ulaw": 1, b"alaw": 27, b"fl32": 6, b"fl64": 7}
_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}  # of a sample, by the encoding
_KNOWN = frozenset(  # chunks that are recognised even where the file ends within them
    b"data,SSND,LIST,id3 ,ID3 ,bext,cue ,fact,JUNK,junk,PAD ,FLLR,smpl,inst,acid,afsp,DISP,iXML,_PMX,axml,PEAK,cart,"
    b"levl,umid,NAME,AUTH,(c) ,ANNO,MARK,INST,COMT,APPL,MIDI,FVER,CHAN,free,pakt,info,strg,midi,uuid,peak".split(b",")
)
_MAGIC = frozenset(b"RIFF,RIFX,RF64,FORM,caff".split(b","))
_W64_GUID = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"  # what follows the four characters of most W64 chunks


def find_parts(file: BinaryIO, size: int) -> Iterator[Part]:
    """Yield the recordings that a file of ``size`` bytes holds, in order.

    A recording of a format that is not examined here, or that cannot be repaired, is a part as it stands.
    """
    at = 0
    while at < size:
        part = _part(file, at, size)
        yield part
        at = part.next


def _part(file: BinaryIO, begin: int, size: int) -> Part:
    at = skip_id3v2(file, begin)
    magic = read_at(file, at, 12)
    sound: _Sound | None = None
    if magic[:4] in (b"RIFF", b"RIFX", b"RF64") and magic[8:] == b"WAVE":
        sound = _wav(file, at, size)
    elif magic[:4] == b"FORM" and magic[8:] in (b"AIFF", b"AIFC"):
        sound = _aiff(file, at, size)
    elif magic == b"riff" + b"\x2e\x91\xcf\x11\xa5\xd6\x28\xdb":
        sound = _w64(file, at, size)
    elif magic[:4] == b"caff":
        sound = _caf(file, at, size)
    elif magic[:4] in (b".snd", b"dns."):
        sound = _au(file, at, size)
    elif magic[:4] == b"fLaC":
        return streams.flac_part(file, begin, at, size)
    elif magic[:4] == b"OggS":
        return streams.ogg_part(file, begin, at, size)
    else:
        return streams.mpeg_part(file, begin, at, size) or Part(begin, size, size)
    return _examined(file, begin, size, sound) if sound else Part(begin, size, size)


@dataclass
class _Sound:
    """What a header tells about its sound.

    Attributes
    ----------
    data
        Offset of the samples in the file.
    length
        Bytes of samples that the header announces.
    chunks
        Yields (name, length, end) of each chunk after the sound, given its end.
    header
        Return a new header for so many bytes of sound, or nothing where that cannot be made.
    bytes_per_second
        Of the sound; 0 where that is unknown.
    unreadable
        libsndfile would not read the header as it stands.
    """

    data: int
    length: int
    chunks: Callable[[int], Iterator[tuple[bytes, int, int]]]
    header: Callable[[int], bytes]
    bytes_per_second: float
    unreadable: bool = False


def _examined(file: BinaryIO, begin: int, size: int, sound: _Sound) -> Part:
    """Return the part that begins at an offset, with another header where its own is wrong."""
    stop = sound.data + sound.length
    if stop > size:
        end = find_signature(file, sound.data, size) or size
        message = (
            f"is cut short: its header promises {sound.length:,} bytes of sound; "
            f"the {end - sound.data:,} ({{seconds:.2f}} s) there are taken."
        )
        messages = () if _was_unknown(sound.length) else (message,)
        if end == size and not sound.unreadable:
            return Part(begin, size, size, b"", messages)
        return _with_header(sound, begin, end, end, messages)
    after, left_out = _skip_chunks(sound, stop)
    if after >= size or _follows(file, after, size):
        if sound.unreadable:
            return _with_header(sound, begin, stop, after, left_out)
        return Part(begin, after, after, b"", left_out)
    if end := _wrapped_end(sound, size):
        message = f"has a header whose sizes end at 4 GiB: all {end - sound.data:,} bytes of its sound are read."
        return _with_header(sound, begin, end, size, (message,))
    least = max(512, _LEAST_SOUND * sound.bytes_per_second)
    following = find_signature(file, sound.data if sound.length == 0 else after, size) or size
    if sound.length == 0 and following > sound.data:
        message = (
            f"has an unfinished header, which announces no sound: the {following - sound.data:,} bytes "
            "that follow are read as sound."
        )
        return _with_header(sound, begin, following, following, (message,))
    if after - stop <= 1 and following - after >= least:
        message = (
            f"has a header that announces {sound.length:,} bytes of sound, and {following - stop:,} bytes "
            "follow in no chunk: they are read as sound too."
        )
        return _with_header(sound, begin, following, following, (message,))
    message = f"has {following - after:,} bytes after its sound that belong to no chunk: they are left out."
    if sound.unreadable:
        return _with_header(sound, begin, stop, following, (*left_out, message))
    return Part(begin, after, following, b"", (*left_out, message))


def _with_header(sound: _Sound, begin: int, end: int, following: int, messages: tuple[str, ...]) -> Part:
    header = sound.header(end - sound.data)
    if header:
        return Part(sound.data, end, following, header, messages)
    there = f"has a faulty header, and its encoding is not repaired here: {end - sound.data:,} bytes of sound follow it."
    return Part(begin, end, following, b"", (there,))


def _skip_chunks(sound: _Sound, stop: int) -> tuple[int, tuple[str, ...]]:
    """Return the end of the chunks after the sound, and what to report of them."""
    end, second = stop, 0
    for name, length, end in sound.chunks(stop):  # noqa: B007
        second += length * (name[:4] in (b"data", b"SSND"))
    return end, (f"has a second chunk of sound, of {second:,} bytes: it is left out.",) if second else ()


def _follows(file: BinaryIO, offset: int, size: int) -> bool:
    """Return whether another recording begins at an offset."""
    return has_signature(file, skip_id3v2(file, offset)) or streams.mpeg_begins(file, offset, size)


def _wrapped_end(sound: _Sound, size: int) -> int | None:
    """Return the end of the sound where its length lost multiples of 4 GiB, and chunks or nothing follow."""
    for end in range(sound.data + sound.length + 2**32, size + 1, 2**32):
        if _skip_chunks(sound, end)[0] >= size:
            return end
    return None


def _was_unknown(length: int) -> bool:
    """Return whether a length that is more than there is was written for want of the true one, as to a pipe."""
    return 0x7F000000 <= length <= 0x80001000 or 0xFFFF0000 <= length < 2**32 or length >= 2**62


# Chunks: each generator yields (name, length, end), and also the end of padding, without a name.


def _riff_chunks(file: BinaryIO, at: int, size: int, order: str, odd: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Yield the chunks from an offset on; odd: the chunk before it has an odd length."""
    for _ in range(_MOST_CHUNKS):
        if odd and _is_padded(read_at(file, at, 5)):
            at = min(at + 1, size)
            yield b"", 0, at
        head = read_at(file, at, 8)
        if len(head) < 8 or not _is_name(head[:4]) or head[:4] in _MAGIC:
            return
        (length,) = struct.unpack(order + "I", head[4:])
        if at + 8 + length > size and head[:4] not in _KNOWN:
            return
        at, odd = at + 8 + length, length & 1
        yield head[:4], length, at


def _is_padded(data: bytes) -> bool:
    """Return whether a byte of padding comes first, which some writers forget after a chunk of odd length."""
    return not (data[:4] in _KNOWN | _MAGIC or (_is_name(data[:4]) and not _is_name(data[1:])))


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= c < 127 for c in name)


def _w64_chunks(file: BinaryIO, at: int, size: int, origin: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the chunks from an offset on, which begin at multiples of 8 bytes from the origin."""
    for _ in range(_MOST_CHUNKS):
        if padding := (origin - at) % 8:
            at = min(at + padding, size)
            yield b"", 0, at
        head = read_at(file, at, 24)
        if len(head) < 24 or head[4:16] != _W64_GUID:
            return
        length = max(0, struct.unpack("<Q", head[16:])[0] - 24)
        if at + 24 + length > size and head[:4] not in _KNOWN:
            return
        at += 24 + length
        yield head[:4], length, at


def _caf_chunks(file: BinaryIO, at: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    for _ in range(_MOST_CHUNKS):
        head = read_at(file, at, 12)
        if len(head) < 12 or not _is_name(head[:4]) or head[:4] in _MAGIC:
            return
        (length,) = struct.unpack(">Q", head[4:])
        if at + 12 + length > size and head[:4] not in _KNOWN:
            return
        at += 12 + length
        yield head[:4], length, at


# Headers


def _wav(file: BinaryIO, at: int, size: int) -> _Sound | None:
    magic = read_at(file, at, 4)
    order, is_64 = ">" if magic == b"RIFX" else "<", magic == b"RF64"
    form, long_length, bad_peak = b"", 0, False
    for name, length, end in _riff_chunks(file, at + 12, size, order):
        if name == b"fmt ":
            form = form or read_at(file, end - length, min(length, _LONGEST_FORMAT))
        elif name == b"ds64" and length >= 16:
            (long_length,) = struct.unpack("<Q", read_at(file, end - length + 8, 8))
        elif name == b"PEAK":
            bad_peak = bad_peak or length != _peak_length(form, order)
        elif name == b"data":
            break
    else:
        return None
    if not 16 <= len(form) < _LONGEST_FORMAT:
        return None
    data = end - length
    unreadable = bad_peak or (is_64 and not long_length and length > 0)
    length = long_length or length

    def chunks(stop: int) -> Iterator[tuple[bytes, int, int]]:
        return _riff_chunks(file, stop, size, order, length & 1)

    if data + length <= size:
        peaks = (n for name, n, _ in chunks(data + length) if name == b"PEAK")
        unreadable = unreadable or any(n != _peak_length(form, order) for n in peaks)
    return _Sound(data, length, chunks, lambda n: _wav_header(form, n, order), _byte_rate(form, order), unreadable)


def _peak_length(form: bytes, order: str) -> int:
    """Return the length of the only PEAK chunk that libsndfile accepts; -1 before the format is known."""
    return 8 + 8 * struct.unpack(order + "H", form[2:4])[0] if len(form) >= 4 else -1


def _byte_rate(form: bytes, order: str) -> float:
    return float(struct.unpack(order + "I", form[8:12])[0])


def _wav_header(form: bytes, length: int, order: str = "<") -> bytes:
    """Return the header of a WAV file, or of an RF64 file where the sound is too long for one."""
    described = b"fmt " + struct.pack(order + "I", len(form)) + form + b"\0" * (len(form) & 1)
    if length <= _MOST_IN_RIFF:
        magic, sizes, announced = (b"RIFF" if order == "<" else b"RIFX"), b"", length
        total = 12 + len(described) + length
    elif order == "<":
        magic, announced, total = b"RF64", 2**32 - 1, 2**32 - 1
        sizes = b"ds64" + struct.pack("<IQQQI", 28, 48 + len(described) + length, length, 0, 0)
    else:
        return b""
    number = struct.Struct(order + "I")
    return magic + number.pack(total) + b"WAVE" + sizes + described + b"data" + number.pack(announced)


def _w64(file: BinaryIO, at: int, size: int) -> _Sound | None:
    form = b""
    for name, length, end in _w64_chunks(file, at + 40, size, at):
        if name == b"fmt ":
            form = form or read_at(file, end - length, min(length, _LONGEST_FORMAT))
        elif name == b"data":
            break
    else:
        return None
    if not 16 <= len(form) < _LONGEST_FORMAT:
        return None
    return _Sound(
        end - length,
        length,
        lambda stop: _w64_chunks(file, stop, size, at),
        lambda n: _wav_header(form, n),
        _byte_rate(form, "<"),
    )


def _aiff(file: BinaryIO, at: int, size: int) -> _Sound | None:
    common = sound = b""
    data = length = 0
    bad_peak = False
    for name, n, end in _riff_chunks(file, at + 12, size, ">"):
        if name == b"COMM" and n >= 18:
            common = common or read_at(file, end - n, min(n, _LONGEST_FORMAT))
        elif name == b"PEAK":
            bad_peak = True if not common else bad_peak or n != 8 + 8 * struct.unpack(">H", common[:2])[0]
        elif name == b"SSND" and not data:
            sound = read_at(file, end - n, 8)
            data, length = end - n + 8, max(0, n - 8)
    if not common or len(sound) < 8:
        return None
    offset = struct.unpack(">I", sound[:4])[0]
    data, length = min(data + offset, size), max(0, length - offset)
    channels, _, bits, exponent, mantissa = struct.unpack(">HIHHQ", common[:18])
    rate = math.ldexp(mantissa, (exponent & 0x7FFF) - 16383 - 63) if exponent & 0x7FFF < 16383 + 32 else 0
    codec = common[18:22] if read_at(file, at + 8, 4) == b"AIFC" else b"NONE"
    order, encoding = _au_encoding(codec, bits)
    return _Sound(
        data,
        length,
        lambda stop: _riff_chunks(file, stop, size, ">", length & 1),
        lambda _: _au_header(encoding, round(rate), channels, order) if encoding else b"",
        rate * channels * (-(-bits // 8)),
        bad_peak,
    )


def _au_encoding(codec: bytes, bits: int) -> tuple[str, int]:
    """Return the byte order and the number by which AU files call an encoding of AIFF; 0 where they have none."""
    whole = -(-bits // 8) * 8  # fewer bits stand in the upper ones
    if codec in (b"NONE", b"twos", b"in24", b"in32"):
        return ">", _AU_INTEGER.get(whole, 0)
    if codec == b"sowt":
        return "<", _AU_INTEGER.get(whole, 0)
    return ">", _AU_CODEC.get(codec.lower(), 0)


def _caf(file: BinaryIO, at: int, size: int) -> _Sound | None:
    rate, codec, flags, _, _, channels, bits = 0.0, b"", 0, 0, 0, 0, 0
    bad_peak = False
    for name, length, end in _caf_chunks(file, at + 8, size):
        if name == b"desc" and length >= 32:
            rate, codec, flags, _, _, channels, bits = struct.unpack(">d4s5I", read_at(file, end - length, 32))
        elif name == b"peak":
            bad_peak = bad_peak or length != 4 + 12 * channels
        elif name == b"data":
            break
    else:
        return None
    if not codec:
        return None
    data = end - length + 4  # behind the count of edits
    order = "<" if codec == b"lpcm" and flags & 2 else ">"
    if codec == b"lpcm":
        encoding = (_AU_FLOAT if flags & 1 else _AU_INTEGER).get(bits, 0)
    else:
        encoding = _AU_CODEC.get(codec, 0)

    def header(n: int) -> bytes:
        if encoding:
            return _au_header(encoding, round(rate), channels, order)
        if bad_peak or data - at > _LONGEST_HEADER:
            return b""
        return read_at(file, at, data - 12 - at) + struct.pack(">Q", n + 4) + read_at(file, data - 4, 4)

    rate = rate if 0 < rate < 2**31 else 0.0
    return _Sound(
        data,
        max(0, length - 4),
        lambda stop: _caf_chunks(file, stop, size),
        header,
        rate * channels * bits / 8,
        bad_peak or length == 2**64 - 1,
    )


def _au(file: BinaryIO, at: int, size: int) -> _Sound | None:
    head = read_at(file, at, 24)
    order = ">" if head[:4] == b".snd" else "<"
    if len(head) < 24:
        return None
    offset, length, encoding, rate, channels = struct.unpack(order + "5I", head[4:])
    if offset < 24 or at + offset > size:
        return None
    return _Sound(
        at + offset,
        length,
        lambda _: iter(()),
        lambda _: _au_header(encoding, rate, channels, order),
        rate * channels * _AU_BYTES.get(encoding, 0),
    )


def _au_header(encoding: int, rate: int, channels: int, order: str) -> bytes:
    """Return the header of an AU file whose sound ends with the file; AIFF and CAF files are handed on with it too."""
    return (b".snd" if order == ">" else b"dns.") + struct.pack(order + "5I", 24, 2**32 - 1, encoding, rate, channels)
