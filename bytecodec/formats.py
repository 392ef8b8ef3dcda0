"""Identification of files by their content: recordings, texts, and files that have to be converted first."""

from __future__ import annotations

import codecs
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, BinaryIO

from bytecodec.alphabet import alphabet_of
from bytecodec.errors import InputError

if TYPE_CHECKING:
    from bytecodec.containers.libsndfile import PartFile

STANDARD_INPUT = "standard input"  # name in messages of the file "-"
HEAD = 4096  # number of bytes at the beginning of a file that are examined
#: Byte order marks and their encodings; UTF-32 comes first, since its little-endian mark begins like that of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# Endings of the names of recordings, to report files that have such a name and other content.
SOUND_SUFFIXES = frozenset(
    """
    .wav .wave .bwf .w64 .rf64 .flac .ogg .oga .opus .spx .mp3 .mp2 .mp1 .aif .aiff .aifc .au .snd .caf .voc .8svx .svx
    .iff .nist .sph .ircam .sf .paf .fap .xi .avr .htk .pvf .sds .mpc .sd2 .wve .m4a .m4b .mp4 .aac .wma .asf .webm .mka
    .mkv .amr .awb .3gp .ape .wv .mp+ .ac3 .eac3 .dts .tta .tak .dsf .dff .ra .rm .avi .mov .flv .qcp
    """.split()
)
_HEADERLESS_SUFFIXES = frozenset((".raw", ".pcm"))

# Signatures of the formats that libsndfile reads, to identify damaged files that it does not recognise.
_SOUND = re.compile(
    rb"(?:RIFF|RIFX|RF64).{4}WAVE|FORM.{4}(?:AIF[FC]|8SVX|16SV)|riff\.\x91|fLaC|OggS\0|\.snd\0|dns\.|caff\0"
    rb"|ID3[\x02-\x04]|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]|Creative Voice File|NIST_1A|\x64\xa3[\0-\x04]\0"
    rb"|\0[\0-\x04]\xa3\x64|(?: paf|fap )\0\0|2BIT.{8}(?:\0\0|\xff\xff)|PVF1\n"
    rb"|Extended Instrument:|MATLAB 5\.0|ALawSoundFile|\xf0\x7e.\x01",
    re.DOTALL,
)
_SOUND_BEGINNING_AS_TEXT = re.compile(rb"NIST_1A\n|PVF1\n")

_TO_CONVERT = (  # recordings, and videos with sound, that ffmpeg reads and libsndfile does not
    (rb"\0.{3}ftypM4[ABP] ", "an MPEG-4 sound file (AAC or ALAC)"),
    (rb"\0.{3}ftyp3g", "a 3GP file"),
    (rb"\0.{3}(?:ftyp|moov|mdat|wide|free|skip|pnot)", "an MPEG-4 or QuickTime file"),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "an AAC file"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9", "a Windows Media file (WMA or ASF)"),
    (rb"\x1a\x45\xdf\xa3", "a WebM or Matroska file"),
    (rb"#!AMR(?:-WB)?(?:_MC1\.0)?\n", "an AMR file"),
    (rb"MAC .[\x0d-\x10]", "a Monkey's Audio file (APE)"),
    (rb"wvpk.{4}[\x02-\x10]\x04", "a WavPack file"),
    (rb"MPCK[A-Z]{2}|MP\+[\x07\x17]", "a Musepack file"),
    (rb"\x0b\x77|\x77\x0b", "an AC-3 file"),
    (rb"\x7f\xfe\x80\x01|\xfe\x7f\x01\x80", "a DTS file"),
    (rb"TTA[12][\x01-\xff]\0", "a True Audio file"),
    (rb"tBaK", "a TAK file"),
    (rb"ajkg[\x01-\x03]", "a Shorten file"),
    (rb"DSD \x1c\0|FRM8.{8}DSD ", "a DSD file"),
    (rb"\.RMF\0|\.ra\xfd", "a RealMedia file"),
    (rb"RIFF.{4}QLCM", "a QCP file"),
    (rb"OggS\0.{23}Speex   ", "a Speex file"),
    (rb"OggS\0.{23}(?:\x80theora|BBCD\0)", "an Ogg video"),
    (rb"RIFF.{4}AVI ", "an AVI video"),
    (rb"FLV\x01", "a Flash video"),
    (rb"\0\0\x01\xba|G[\0\x40].{186}G.{187}G", "an MPEG video"),
)
_UNPACK = "Unpack it and name the files in it."
_NO_TEXT = "It contains neither sound nor text; bin2utf8 converts the bytes of any file."
_SAVE_AS_TEXT = "Save it as plain text first."
_OTHERS = (
    (
        rb"MThd\0\0\0|RIFF.{4}RMID",
        "a MIDI file",
        "It contains notes and no sound; a synthesizer such as FluidSynth renders them to a WAV file.",
    ),
    (rb"\0.{3}ftyp(?:hei[cx]|mif1|avif)", "a HEIF image", _NO_TEXT),
    (rb"\x89PNG\r\n", "a PNG image", _NO_TEXT),
    (rb"\xff\xd8\xff", "a JPEG image", _NO_TEXT),
    (rb"GIF8[79]a", "a GIF image", _NO_TEXT),
    (rb"RIFF.{4}WEBP", "a WebP image", _NO_TEXT),
    (rb"BM.{4}\0\0\0\0", "a BMP image", _NO_TEXT),
    (rb"II\*\0|MM\0\*", "a TIFF image", _NO_TEXT),
    (rb"PK\x03\x04", "a ZIP archive, or a document that is packed as one", _UNPACK),
    (rb"\x1f\x8b", "compressed by gzip", "Unpack it with `gunzip`, or with `tar xzf` if it is a .tar.gz."),
    (rb"BZh[1-9]1AY&SY", "compressed by bzip2", "Unpack it with `bunzip2`."),
    (rb"\xfd7zXZ\0", "compressed by xz", "Unpack it with `unxz`."),
    (rb"\x28\xb5\x2f\xfd", "compressed by Zstandard", "Unpack it with `unzstd`."),
    (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (rb".{257}ustar", "a tar archive", _UNPACK),
    (rb"%PDF-", "a PDF document", _SAVE_AS_TEXT),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Microsoft Office document", _SAVE_AS_TEXT),
    (rb".{5}\0\0\0\{\"", "a checkpoint (safetensors)", "Name a recording or a text."),
)
_LFS_POINTER = re.compile(r"version https?://\S+/spec/v1\s+oid sha256:")
_HTML = re.compile(r"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_XML = re.compile(r"\s*<\?xml\b", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # characters that do not occur in text


@dataclass(frozen=True)
class Kind:
    """Kind of a file."""

    sound: bool  # whether it is a recording by its content, or has the name of one
    problem: str = ""  # why it cannot be used, and the remedy, to follow the file's name; "" if it can be used


def is_recording(file: BinaryIO, name: str) -> bool:
    """Return whether a regular file is a recording that libsndfile reads; otherwise it may be a text.

    All commands use this function, which leaves the file at its beginning. The ending of the name counts only for files
    without sound. Raise InputError if the file is of another recognised kind, such as M4A or ZIP, is damaged, or
    has the name of a recording but does not contain one.
    """
    kind = identify(file, name)
    if kind.problem:
        raise InputError(f"{name} {kind.problem}")
    return kind.sound


def require_recording(file: BinaryIO, name: str) -> None:
    """Raise InputError, with the kind of the file, unless it is a recording."""
    if is_recording(file, name):
        return
    text = _text_of(_head(file))
    if text is None:
        raise InputError(f"{name} {unreadable_message(_refusal_of_libsndfile(file))}")
    if alphabet_of(text.strip("\ufeff\r\n")):
        raise InputError(f"{name} is a text of sound, and a recording is needed here: utf82wav converts it to one.")
    raise InputError(f"{name} is {_kind_of_text(_head(file), text)}, and a recording is needed here.")


def identify(file: BinaryIO, name: str) -> Kind:
    """Return the kind of a regular file, by the rules of `is_recording`, without raising InputError."""
    head = _head(file)
    named_sound = PurePath(name).suffix.lower() in SOUND_SUFFIXES
    if not head:
        return Kind(True, "is empty: it has 0 bytes.") if named_sound else Kind(False)
    text = _text_of(head)
    if other := _other_kind(head, name, text):
        return Kind(other.sound or named_sound, other.problem)
    begins_as_sound = _SOUND if text is None or named_sound else _SOUND_BEGINNING_AS_TEXT
    if text is not None and not begins_as_sound.match(head):
        return Kind(True, _named_as_sound(head, text)) if named_sound else Kind(False)
    refusal = _refusal_of_libsndfile(file)
    if not refusal:
        return Kind(True)
    if named_sound or (text is None and _SOUND.match(head)):
        return Kind(True, unreadable_message(refusal))
    if PurePath(name).suffix.lower() in _HEADERLESS_SUFFIXES and text is None:
        return Kind(
            True,
            "has no header with its rate and format. If you know them, add a header, as in "
            "`ffmpeg -f s16le -ar 44100 -ac 1 -i IN.raw OUT.wav`.",
        )
    return Kind(False)


def reason_not_text(head: bytes, name: str) -> str:
    """Return a message on a file whose first bytes are not UTF-8 text; "" if its kind is not recognised."""
    text = _text_of(head)
    if other := _other_kind(head, name, text):
        return f"{name} {other.problem}"
    if _SOUND.match(head) and text is None:
        return f"{name} is a recording, and a text is needed here: wav2utf8 converts it to one."
    encoding = encoding_by_mark(head)
    if encoding in (None, "utf-8"):
        return ""
    family = str(encoding)[:6].upper()
    line = f"iconv -f {family} -t UTF-8{'' if name == STANDARD_INPUT else f' {_quote(name)}'}"
    return f"{name} is {family} text, and UTF-8 is needed here: `{line}` converts it."


def encoding_by_mark(head: bytes) -> str | None:
    """Return the encoding of a byte order mark at the beginning, or None."""
    return next((encoding for mark, encoding in BYTE_ORDER_MARKS if head.startswith(mark)), None)


def ffmpeg_line(name: str) -> str:
    """Return a shell command that converts a recording to a mono WAV file."""
    if name == STANDARD_INPUT:
        return "ffmpeg -i FILE -ac 1 FILE.wav"
    return f"ffmpeg -i {_quote(name)} -ac 1 {_quote(name + '.wav')}"


def _quote(name: str) -> str:
    """Quote a file's name for the shell and for ffmpeg, which interprets -x as a flag and x:y as a URL."""
    plain = os.path.isabs(name) or not (name.startswith("-") or ":" in name)
    return shlex.quote(name if plain else f"./{name}")


def _head(file: BinaryIO) -> bytes:
    """Return the first bytes, or for an AAC file those after its ID3 tag, and rewind the file."""
    file.seek(0)
    head = file.read(HEAD)
    if re.match(rb"ID3[\x02-\x04].{2}[\0-\x7f]{4}", head, re.DOTALL):
        size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        file.seek(10 + size)
        after = file.read(HEAD)
        head = after if re.match(rb"\xff[\xf0\xf1\xf8\xf9]", after) else head
    file.seek(0)
    return head


def _text_of(head: bytes) -> str | None:
    """Return the beginning of a text in UTF-8 or the encoding of its byte order mark; None for other files."""
    encoding = encoding_by_mark(head) or "utf-8"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return None
    if encoding == "utf-8" and _CONTROL.search(text):
        return None  # after a mark of UTF-16 or UTF-32, what can be decoded is almost certainly text
    return text.removeprefix("\ufeff")


def _other_kind(head: bytes, name: str, text: str | None) -> Kind | None:
    """Return the kind of a file that is neither text nor readable by libsndfile, or None if it is not recognised."""
    if text is not None:
        if _LFS_POINTER.match(text):
            return Kind(False, "is a Git LFS pointer in place of the file itself: `git lfs pull` fetches the file.")
        if not head.startswith((b"%PDF-", b"#!AMR")):
            return None
    for pattern, what, remedy in _OTHERS:
        if re.match(pattern, head, re.DOTALL):
            return Kind(False, f"is {what}. {remedy}")
    for pattern, what in _TO_CONVERT:
        if re.match(pattern, head, re.DOTALL):
            return Kind(True, f"is {what}, which libsndfile does not read: `{ffmpeg_line(name)}` converts it to WAV.")
    return None


def _named_as_sound(head: bytes, text: str) -> str:
    what = _kind_of_text(head, text)
    advice = "Rename it to .txt to train on it."
    if what.endswith("page"):
        advice = "A server may have sent it instead of the recording: download that again."
    return f"has the name of a recording and contains {what}. {advice}"


def _kind_of_text(head: bytes, text: str) -> str:
    if _HTML.match(text):
        return "an HTML page"
    if _XML.match(text):
        return "an XML page"
    encoding = encoding_by_mark(head)
    return f"a text ({encoding.upper()[:6]})" if encoding and encoding != "utf-8" else "a text"


def unreadable_message(refusal: str) -> str:
    """Return a message on a file that libsndfile rejects, to follow the file's name."""
    return (
        f"is not a recording that can be read (libsndfile: {refusal}). "
        "ffmpeg may convert it to WAV; bin2utf8 converts the bytes of any file."
    )


def _refusal_of_libsndfile(file: BinaryIO) -> str:
    """Return the error with which libsndfile rejects a file, or "" if it opens the file or a repaired first part of it.

    The position of the descriptor is restored.
    """
    import soundfile

    from bytecodec.containers.libsndfile import open_sound, protect_c_call, reason

    position = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    refusal = ""
    try:
        for source in _sources(file):
            try:
                with protect_c_call():
                    open_sound(source).close()
                return ""
            except soundfile.LibsndfileError as error:
                refusal = refusal or reason(error)
    finally:
        os.lseek(file.fileno(), position, os.SEEK_SET)
    return refusal


def _sources(file: BinaryIO) -> Iterator[BinaryIO | PartFile]:
    """Yield an unchanged file, and then its first recording with a repaired header."""
    from bytecodec.containers.libsndfile import PartFile
    from bytecodec.containers.repair import find_parts

    yield file
    yield PartFile(file, next(find_parts(file, os.fstat(file.fileno()).st_size)))
