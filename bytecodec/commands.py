"""The commands wav2utf8, utf82wav, bin2utf8 and utf82bin."""

from __future__ import annotations

import argparse
import os
import select
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from bytecodec.alphabet import ALPHABETS, Decoder, Encoder
from bytecodec.arguments import HIGHEST_RATE, LOWEST_RATE
from bytecodec.channels import MIX, parse_channel
from bytecodec.console import Parser, Terminated, command, log, number, option, progress
from bytecodec.errors import InputError, NoTableError
from bytecodec.files import is_regular, open_input, open_output, refuse_same_file
from bytecodec.formats import HEAD, STANDARD_INPUT, reason_not_text
from bytecodec.reader import read_blocks
from bytecodec.table import read_table
from bytecodec.wavwriter import WavFullError, WavWriter

MAX_SECONDS = 1e9  # 31 years
_CHUNK = 1 << 15  # bytes read at a time; for more, malloc would map new memory each time
_SIGNAL_INTERVAL = 1.0  # seconds between interruptions of a wait for a pipe, to handle signals


@command
def wav2utf8(argv: Sequence[str] | None = None) -> None:
    """Convert a recording to a text."""
    parser = _wav2utf8_parser()
    args = parser.parse_args(argv)
    if args.mulaw and args.dither:
        parser.error("--dither is for linear samples: omit it or --mulaw.")
    refuse_same_file(args.input, args.output)
    encoder = Encoder(args.alphabet)
    bar = progress(None, "frames", args.quiet, unit_scale=True)
    messages: list[str] = []  # printed after the progress bar is closed

    def show(frames: int, total: int | None) -> None:
        bar.total = total
        bar.update(frames - bar.n)

    with bar, open_input(args.input) as source:
        blocks = read_blocks(
            source,
            args.rate,
            start=args.start,
            duration=args.duration,
            channel=args.channel,
            remove_dc=args.remove_dc,
            normalize=args.normalize,
            gain_db=args.gain,
            dither=args.dither,
            mulaw=args.mulaw,
            on_message=messages.append,
            on_progress=show,
        )
        with open_output(args.output, binary=False) as target:
            for block in blocks:
                target.write(encoder.feed(block))
    for message in messages:
        log(message, args.quiet)


def _wav2utf8_parser() -> Parser:
    parser = Parser(
        "wav2utf8",
        "Convert a recording (WAV, AIFF, FLAC, Ogg, MP3 and more) to 8-bit mono samples, and write these as a text "
        "with one character per sample.",
        """wav2utf8 in.wav out.txt
wav2utf8 --start 60 --duration 30 --normalize song.mp3 out.txt
ffmpeg -i video.mkv -f wav - | wav2utf8 - | gzip > video.txt.gz""",
    )
    _add_files(parser, "recording to read", "text to write")
    option(parser, "--rate HZ", _rate, "sampling rate of the text in Hz", 11025)
    option(parser, "--start S", number(0, MAX_SECONDS), "begin S seconds into the recording", 0.0)
    duration = "convert S seconds of the recording (default: up to its end)"
    option(parser, "--duration S", number(0.0001, MAX_SECONDS), duration)
    channel = "channel to convert: left, right, a number from 1, or mix (the mean)"
    option(parser, "--channel N", parse_channel, channel, MIX)
    remove_dc = "subtract the mean of the samples before --normalize (reads the input twice)"
    parser.add_argument("--remove-dc", action="store_true", help=remove_dc)
    normalize = "amplify so that the peak reaches full scale (reads the input twice)"
    parser.add_argument("--normalize", action="store_true", help=normalize)
    gain = "gain in decibels; with --normalize, relative to full scale"
    option(parser, "--gain DB", number(-200, 200), gain, 0.0)
    dither = "add triangular noise before rounding, the same in each run"
    parser.add_argument("--dither", action="store_true", help=dither)
    parser.add_argument("--mulaw", action="store_true", help="write G.711 mu-law bytes instead of linear samples")
    _add_alphabet(parser)
    return parser


@command
def utf82wav(argv: Sequence[str] | None = None) -> None:
    """Convert a text of sound to a WAV file."""
    parser = Parser(
        "utf82wav",
        "Convert a text that wav2utf8 or charrnn-sample wrote to an 8-bit mono WAV file.",
        """utf82wav generated.txt generated.wav
charrnn-sample --seconds 0 | utf82wav | aplay""",
    )
    _add_files(parser, "text to read, in any of the alphabets", "WAV file to write", from_stdin=True)
    option(parser, "--rate HZ", _rate, "sampling rate of the WAV file in Hz", 11025)
    parser.add_argument("--mulaw", action="store_true", help="read G.711 mu-law, as wav2utf8 --mulaw writes it")
    _add_decoding(parser)
    args = parser.parse_args(argv)
    refuse_same_file(args.input, args.output)
    decoder = _decoder(args)
    samples, end = _write_wav(decoder, args)
    _log_skipped(decoder, args)
    if isinstance(end, KeyboardInterrupt):
        log(f"stopped after {samples / args.rate:.1f} s of sound.", args.quiet)
    elif isinstance(end, WavFullError):
        raise InputError(f"{end} Divide the text into several, or write headerless samples with utf82bin.")
    elif end is not None:
        raise end


def _write_wav(decoder: Decoder, args: argparse.Namespace) -> tuple[int, BaseException | None]:
    """Write the WAV file; return its number of samples, and the error that ended it early, if any."""
    with (
        open_input(args.input) as source,
        open_output(args.output) as target,
        WavWriter(target, args.rate, args.mulaw) as writer,
    ):
        end: BaseException | None = None
        try:
            for samples in _decoded(decoder, source, args):
                writer.write(samples)
        except WavFullError as error:
            end = error
        except (KeyboardInterrupt, Terminated) as error:
            if not writer.samples or is_regular(source):
                raise
            end = error  # an endless stream has no other end, so the file is kept
        if not writer.samples:
            raise InputError(f"{_name(args.input)} contains no sound: it is an empty text.")
        return writer.samples, end


@command
def bin2utf8(argv: Sequence[str] | None = None) -> None:
    """Convert the bytes of any file to a text."""
    parser = Parser(
        "bin2utf8",
        "Write the bytes of any file as a text with one character per byte.",
        """bin2utf8 picture.bmp picture.txt
tar c folder | bin2utf8 - folder.txt""",
    )
    _add_files(parser, "file to read", "text to write")
    _add_alphabet(parser)
    args = parser.parse_args(argv)
    refuse_same_file(args.input, args.output)
    encoder = Encoder(args.alphabet)
    with open_input(args.input) as source, open_output(args.output, binary=False) as target:
        for chunk in _chunks(source, args.quiet):
            _write(target, encoder.feed(chunk))


@command
def utf82bin(argv: Sequence[str] | None = None) -> None:
    """Convert a text to the bytes of a file."""
    parser = Parser(
        "utf82bin",
        "Convert a text that bin2utf8 or wav2utf8 wrote back to bytes.",
        """utf82bin picture.txt picture.bmp
charrnn-sample run | utf82bin - | hexdump -C""",
    )
    _add_files(parser, "text to read, in any of the alphabets", "file to write")
    _add_decoding(parser)
    args = parser.parse_args(argv)
    refuse_same_file(args.input, args.output)
    decoder = _decoder(args)
    with open_input(args.input) as source, open_output(args.output) as target:
        for data in _decoded(decoder, source, args):
            _write(target, data)
    _log_skipped(decoder, args)


def _add_files(parser: argparse.ArgumentParser, source: str, target: str, from_stdin: bool = False) -> None:
    nargs, default = ("?", "-") if from_stdin else (None, None)
    parser.add_argument("input", metavar="IN", nargs=nargs, default=default, help=f"{source}; - is standard input")
    parser.add_argument("output", metavar="OUT", nargs="?", default="-", help=f"{target}; - is standard output")


def _add_alphabet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--alphabet", choices=list(ALPHABETS), default="braille", help="characters to write")


def _add_decoding(parser: argparse.ArgumentParser) -> None:
    table = "table of a text that BinToUTF8 wrote; each line has a byte and its character"
    option(parser, "--table FILE", str, table)
    errors = "whether characters that are not in the text's alphabet are an error, or skipped"
    parser.add_argument("--errors", choices=["strict", "skip"], default="strict", help=errors)


def _decoder(args: argparse.Namespace) -> Decoder:
    return Decoder(args.errors, table=read_table(args.table) if args.table is not None else None)


def _rate(text: str) -> int:
    rate = number(LOWEST_RATE, HIGHEST_RATE)(text)
    if rate != int(rate):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(rate)


def _chunks(source: BinaryIO, quiet: bool) -> Iterator[bytes]:
    """Yield the data that a pipe contains so far, without waiting for a full chunk."""
    with progress(_length(source), "B", quiet, unit_scale=True) as bar:
        _wait_for(source)
        while chunk := source.read1(_CHUNK):  # type: ignore[attr-defined]  # each buffered reader has it
            yield chunk
            bar.update(len(chunk))
            _wait_for(source)


def _wait_for(source: BinaryIO) -> None:
    """Wait until a pipe has data or ends, and handle signals meanwhile.

    Python handles a signal that arrives just before a system call, or in another thread, only after that call. A read
    from a pipe may never return.
    """
    if os.name == "nt" or is_regular(source):  # Windows can select sockets only
        return
    try:
        source.fileno()
    except OSError:  # an io.BytesIO has no descriptor
        return
    while not select.select([source], [], [], _SIGNAL_INTERVAL)[0]:
        pass


def _decoded(decoder: Decoder, source: BinaryIO, args: argparse.Namespace) -> Iterator[bytes]:
    head = chunk = b""
    try:
        for chunk in _chunks(source, args.quiet):
            head = head if len(head) >= HEAD else (head + chunk)[:HEAD]
            yield decoder.feed(chunk)
        yield decoder.close()
    except NoTableError as error:
        raise InputError(f"{_name(args.input)}: {error}") from None
    except InputError as error:
        if instead := reason_not_text(head, _name(args.input)):
            raise InputError(instead) from None
        remedy = "--errors skip skips such characters."
        # BinToUTF8 assigns ASCII characters first, so the beginning of its text may be ASCII alone.
        if decoder.alphabet is None and args.table is None and chunk.isascii() and chunk.decode().isprintable():
            remedy = "--errors skip skips such characters, and a text of BinToUTF8 needs its --table."
        raise InputError(f"{_name(args.input)}: {error} Offsets count from 0; {remedy}") from None


def _write(target: BinaryIO, data: bytes) -> None:
    target.write(data)
    if not is_regular(target):
        target.flush()


def _log_skipped(decoder: Decoder, args: argparse.Namespace) -> None:
    if decoder.skipped:
        log(f"{_name(args.input)}: skipped {decoder.skipped:,} characters that are not in its alphabet.", args.quiet)


def _name(path: str) -> str:
    return STANDARD_INPUT if path == "-" else path


def _length(file: BinaryIO) -> int | None:
    return os.fstat(file.fileno()).st_size if is_regular(file) else None
