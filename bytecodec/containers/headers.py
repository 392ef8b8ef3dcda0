"""Headers of WAV, RF64, W64, AIFF, AU and CAF files, and new headers for damaged ones."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

from bytecodec.containers.part import read_at

Chunk: TypeAlias = tuple[bytes, int, int]  # name, length of the content, and offset of its end

_MAX_CHUNKS = 100_000  # a file with more of them is damaged
_MAX_FORMAT = 4096  # bytes of a chunk that describes the samples
_MAX_HEADER = 1 << 20  # bytes of a CAF header that is copied
_MAX_IN_RIFF = 2**32 - 2**16  # bytes of sound; a longer sound gets an RF64 header
_AU_INTEGER = {8: 2, 16: 3, 24: 4, 32: 5}  # the numbers of AU's encodings, by the bits of a sample
_AU_FLOAT = {32: 6, 64: 7}
_AU_CODEC = {b"ulaw": 1, b"alaw": 27, b"fl32": 6, b"fl64": 7}
_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}  # of a sample, by the encoding
_CHUNK_NAMES = frozenset(  # chunks that are recognised even where the file ends within them
    b"data,SSND,LIST,id3 ,ID3 ,bext,cue ,fact,JUNK,junk,PAD ,FLLR,smpl,inst,acid,afsp,DISP,iXML,_PMX,axml,PEAK,cart,"
    b"levl,umid,NAME,AUTH,(c) ,ANNO,MARK,INST,COMT,APPL,MIDI,FVER,CHAN,free,pakt,info,strg,midi,uuid,peak".split(b",")
)
_MAGIC = frozenset(b"RIFF,RIFX,RF64,FORM,caff,riff,fLaC,OggS,.snd,dns.".split(b","))  # of recordings, not chunks
_W64_GUID = (
    b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"  # rest of the GUID of most W64 chunks, after four characters
)


@dataclass
class Sound:
    """Description of a sound by its header."""

    data: int  # offset of the samples in the file, in bytes
    length: int  # number of bytes of samples that the header announces
    chunks: Callable[[int], Iterator[Chunk]]  # returns the chunks after the sound, given the offset of its end
    header: Callable[[int], bytes]  # returns a new header for a number of bytes, or b"" if it cannot be made
    bytes_per_second: float  # 0 if unknown
    unreadable: bool = False  # whether libsndfile would misread the header


def read_wav(file: BinaryIO, at: int, size: int) -> Sound | None:
    """Return the sound of a WAV or RF64 header at an offset, or None if the header is incomplete."""
    magic = read_at(file, at, 4)
    order, is_64 = ">" if magic == b"RIFX" else "<", magic == b"RF64"
    form, long_length, bad_peak = b"", None, False
    for name, length, end in riff_chunks(file, at + 12, size, order):
        if name == b"fmt ":
            form = form or read_at(file, end - length, min(length, _MAX_FORMAT))
        elif name == b"ds64" and length >= 16:
            (long_length,) = struct.unpack("<Q", read_at(file, end - length + 8, 8))
        elif name == b"PEAK":
            bad_peak = bad_peak or length != _peak_length(form, order)
        elif name == b"data":
            break
    else:
        return None
    if not 16 <= len(form) < _MAX_FORMAT:
        return None
    data = end - length
    unreadable = bad_peak or (is_64 and not long_length)
    if long_length is not None and (long_length or length == 2**32 - 1):
        length = long_length
    unreadable = unreadable or length >= 2**63

    def chunks(stop: int) -> Iterator[Chunk]:
        return riff_chunks(file, stop, size, order, length & 1)

    if data + length <= size:
        peaks = (n for name, n, _ in chunks(data + length) if name == b"PEAK")
        unreadable = unreadable or any(n != _peak_length(form, order) for n in peaks)
    return Sound(data, length, chunks, lambda n: _wav_header(form, n, order), _byte_rate(form, order), unreadable)


def _peak_length(form: bytes, order: str) -> int:
    """Return the length of the only PEAK chunk that libsndfile accepts; -1 if the format has not been read yet."""
    return 8 + 8 * struct.unpack(order + "H", form[2:4])[0] if len(form) >= 4 else -1


def _byte_rate(form: bytes, order: str) -> float:
    return float(struct.unpack(order + "I", form[8:12])[0])


def _wav_header(form: bytes, length: int, order: str = "<") -> bytes:
    """Return the header of a WAV file, or of an RF64 file where the sound is too long for one."""
    described = b"fmt " + struct.pack(order + "I", len(form)) + form + b"\0" * (len(form) & 1)
    if length <= _MAX_IN_RIFF:
        magic, sizes, announced = (b"RIFF" if order == "<" else b"RIFX"), b"", length
        total = 12 + len(described) + length
    elif order == "<":
        magic, announced, total = b"RF64", 2**32 - 1, 2**32 - 1
        sizes = b"ds64" + struct.pack("<IQQQI", 28, 48 + len(described) + length, length, 0, 0)
    else:
        return b""
    number = struct.Struct(order + "I")
    return magic + number.pack(total) + b"WAVE" + sizes + described + b"data" + number.pack(announced)


def read_w64(file: BinaryIO, at: int, size: int) -> Sound | None:
    """Return the sound of a W64 header at an offset, or None if the header is incomplete."""
    form = b""
    for name, length, end in _w64_chunks(file, at + 40, size, at):
        if name == b"fmt ":
            form = form or read_at(file, end - length, min(length, _MAX_FORMAT))
        elif name == b"data":
            break
    else:
        return None
    if not 16 <= len(form) < _MAX_FORMAT:
        return None
    return Sound(
        end - length,
        length,
        lambda stop: _w64_chunks(file, stop, size, at),
        lambda n: _wav_header(form, n),
        _byte_rate(form, "<"),
        unreadable=end < size or length >= 2**63,  # libsndfile would read the padding as sound
    )


def read_aiff(file: BinaryIO, at: int, size: int) -> Sound | None:
    """Return the sound of an AIFF or AIFC header at an offset, or None if the header is incomplete."""
    common = sound = b""
    data = length = 0
    bad_peak = False
    for name, n, end in riff_chunks(file, at + 12, size, ">"):
        if name == b"COMM" and n >= 18:
            common = common or read_at(file, end - n, min(n, _MAX_FORMAT))
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

    def header(n: int) -> bytes:
        if encoding:
            return _au_header(encoding, round(rate), channels, order)
        described = struct.pack(">I", len(common)) + common
        if n > _MAX_IN_RIFF:
            return b""
        magic = b"FORM" + struct.pack(">I", 28 + len(described) + n) + b"AIFC"
        return magic + b"COMM" + described + b"SSND" + struct.pack(">III", n + 8, 0, 0)

    return Sound(
        data,
        length,
        lambda stop: riff_chunks(file, stop, size, ">", length & 1),
        header,
        rate * channels * (-(-bits // 8)),
        bad_peak,
    )


def _au_encoding(codec: bytes, bits: int) -> tuple[str, int]:
    """Return the byte order and number in AU files of an encoding of AIFF; the number is 0 if they lack it."""
    whole = -(-bits // 8) * 8  # samples with fewer bits fill the upper ones
    if codec in (b"NONE", b"twos", b"in24", b"in32"):
        return ">", _AU_INTEGER.get(whole, 0)
    if codec == b"sowt":
        return "<", _AU_INTEGER.get(whole, 0)
    return ">", _AU_CODEC.get(codec.lower(), 0)


def read_caf(file: BinaryIO, at: int, size: int) -> Sound | None:
    """Return the sound of a CAF header at an offset, or None if the header is incomplete."""
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
    data = end - length + 4  # after the edit count
    order = "<" if codec == b"lpcm" and flags & 2 else ">"
    encoding = (_AU_FLOAT if flags & 1 else _AU_INTEGER).get(bits, 0) if codec == b"lpcm" else _AU_CODEC.get(codec, 0)

    def header(n: int) -> bytes:
        if encoding:
            return _au_header(encoding, round(rate), channels, order)
        if bad_peak or data - at > _MAX_HEADER:
            return b""
        return read_at(file, at, data - 12 - at) + struct.pack(">Q", n + 4) + read_at(file, data - 4, 4)

    rate = rate if 0 < rate < 2**31 else 0.0
    return Sound(
        data,
        max(0, length - 4),
        lambda stop: _caf_chunks(file, stop, size),
        header,
        rate * channels * bits / 8,
        bad_peak or end > size,  # also where the length is unknown
    )


def read_au(file: BinaryIO, at: int, size: int) -> Sound | None:
    """Return the sound of an AU header at an offset, or None if the header is incomplete."""
    head = read_at(file, at, 24)
    order = ">" if head[:4] == b".snd" else "<"
    if len(head) < 24:
        return None
    offset, length, encoding, rate, channels = struct.unpack(order + "5I", head[4:])
    if offset < 24 or at + offset > size:
        return None
    return Sound(
        at + offset,
        length,
        lambda _: iter(()),
        lambda _: _au_header(encoding, rate, channels, order),
        rate * channels * _AU_BYTES.get(encoding, 0),
    )


def _au_header(encoding: int, rate: int, channels: int, order: str) -> bytes:
    """Return the header of an AU file whose sound ends with the file; it also replaces headers of AIFF and CAF."""
    return (b".snd" if order == ">" else b"dns.") + struct.pack(order + "5I", 24, 2**32 - 1, encoding, rate, channels)


def riff_chunks(file: BinaryIO, at: int, size: int, order: str = "<", odd: int = 0) -> Iterator[Chunk]:
    """Yield the chunks from an offset on; ``odd`` is 1 if the chunk before has an odd length."""

    def padding(at: int, length: int) -> int:
        return int(length & 1 and _is_padded(read_at(file, at, 5)))

    return _chunks(file, at, size, struct.Struct(order + "4sI"), padding, odd)


def _w64_chunks(file: BinaryIO, at: int, size: int, origin: int) -> Iterator[Chunk]:
    """Yield the chunks from an offset on, which begin at multiples of 8 bytes from the origin."""
    return _chunks(file, at, size, struct.Struct("<16sQ"), lambda at, _: (origin - at) % 8)


def _caf_chunks(file: BinaryIO, at: int, size: int) -> Iterator[Chunk]:
    """Yield the chunks from an offset on; libsndfile adds a byte of padding to some, which the format does not have."""
    return _chunks(file, at, size, struct.Struct(">4sQ"), lambda at, _: int(read_at(file, at, 1) == b"\0"))


def _chunks(
    file: BinaryIO, at: int, size: int, layout: struct.Struct, padding: Callable[[int, int], int], length: int = 0
) -> Iterator[Chunk]:
    """Yield (name, length, end) of each chunk, and also the end of padding, without a name.

    ``layout`` describes the name and the length before the content. ``padding`` returns the number of bytes of padding
    at an offset after a chunk of some length, at first ``length``.
    """
    for _ in range(_MAX_CHUNKS):
        if at >= size:
            return
        if count := padding(at, length):
            at = min(at + count, size)
            yield b"", 0, at
        head = read_at(file, at, layout.size)
        if len(head) < layout.size:
            return
        name, length = layout.unpack(head)
        if len(name) > 4:  # the name of a W64 chunk ends with a GUID, and its length includes the head
            if name[4:] != _W64_GUID:
                return
            name, length = name[:4], max(0, length - layout.size)
        elif not _is_name(name) or name in _MAGIC:
            return
        at += layout.size + length
        if at > size and name not in _CHUNK_NAMES:
            return
        yield name, length, at


def _is_padded(data: bytes) -> bool:
    """Return whether a byte of padding comes first, which some writers omit after a chunk of odd length."""
    return not (data[:4] in _CHUNK_NAMES | _MAGIC or (_is_name(data[:4]) and not _is_name(data[1:])))


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= c < 127 for c in name)
