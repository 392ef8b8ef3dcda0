"""wav2utf8, utf82wav, bin2utf8 and utf82bin: flags, files and messages around the library."""

from __future__ import annotations

import argparse
import os
import select
import stat
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from bytecodec import console, formats
from bytecodec.alphabet import ALPHABETS, Decoder, Encoder
from bytecodec.arguments import HIGHEST_RATE, LOWEST_RATE
from bytecodec.channels import MIX, parse_channel
from bytecodec.errors import InputError, NoTableError
from bytecodec.table import read_table
from bytecodec.wav import read_blocks
from bytecodec.wavwriter import WavFullError, WavWriter

_CHUNK = 1 << 15  # bytes asked for at a time; with more, malloc would map fresh memory for each
_LOOK_EVERY = 1.0  # seconds between looks for signals while a pipe has nothing


@console.command
def wav2utf8(argv: Sequence[str] | None = None) -> None:
    """Turn a recording into a text, a character a sample."""
    parser = console.Parser(
        "wav2utf8",
        "Convert a recording (WAV, AIFF, FLAC, Ogg, MP3 and more; any rate, any channels) to 8-bit mono samples, "
        "and write these as a text with one character per sample.",
        """wav2utf8 in.wav out.txt
wav2utf8 --start 60 --duration 30 --normalize song.mp3 out.txt
ffmpeg -i film.mkv -f wav - | wav2utf8 - | gzip > film.txt.gz""",
    )
    _add_files(parser, "recording to read", "text to write")
    parser.add_argument("--rate", type=_rate, default=11025, metavar="HZ", help="sampling rate of the text in Hz")
    parser.add_argument("--start", type=_seconds, default=0.0, metavar="S", help="begin S seconds into the recording")
    parser.add_argument(
        "--duration",
        type=_length_in_seconds,
        metavar="S",
        help="convert S seconds of the recording (default: up to its end)",
    )
    parser.add_argument(
        "--channel", type=parse_channel, default=MIX, metavar="N",
        help="channel to convert: left, right or a number from 1, or mix for the mean of all channels",
    )  # fmt: skip
    parser.add_argument(
        "--remove-dc",
        action="store_true",
        help="subtract the mean of the samples before --normalize (reads the input twice)",
    )
    parser.add_argument(
        "--normalize", action="store_true", help="amplify so that the peak reaches full scale (reads the input twice)"
    )
    parser.add_argument(
        "--gain",
        type=_decibels,
        default=0.0,
        metavar="DB",
        help="amplify by DB decibels; with --normalize, relative to full scale",
    )
    parser.add_argument(
        "--dither", action="store_true", help="add triangular noise before rounding, the same in each run"
    )
    parser.add_argument("--mulaw", action="store_true", help="write G.711 mu-law bytes instead of linear samples")
    _add_alphabet(parser)
    args = parser.parse_args(argv)
    if args.mulaw and args.dither:
        console.wrong_command_line(parser, "--dither is for linear samples: leave it out, or --mulaw.")
    console.refuse_same_file(args.input, args.output)
    encoder = Encoder(args.alphabet)
    bar = console.progress(None, "frames", args.quiet, unit_scale=True)
    sentences: list[str] = []  # said when the bar has let go of the line

    def show(frames: int, total: int | None) -> None:
        bar.total = total
        bar.update(frames - bar.n)

    with bar, console.open_input(args.input) as source:
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
            tell=sentences.append,
            progress=show,
        )
        with console.open_output(args.output, binary=False) as target:
            for block in blocks:
                target.write(encoder.feed(block))
    for sentence in sentences:
        console.log(sentence, args.quiet)


@console.command
def utf82wav(argv: Sequence[str] | None = None) -> None:
    """Turn a text of sound back into a recording."""
    parser = console.Parser(
        "utf82wav",
        "Convert a text that wav2utf8 or charrnn-sample wrote to an 8-bit mono WAV file.",
        """utf82wav generated.txt generated.wav
charrnn-sample --seconds 0 | utf82wav | aplay""",
    )
    _add_files(parser, "text to read, in any of the alphabets", "WAV file to write", from_stdin=True)
    parser.add_argument("--rate", type=_rate, default=11025, metavar="HZ", help="sampling rate of the WAV file in Hz")
    parser.add_argument(
        "--mulaw", action="store_true", help="read the text as G.711 mu-law, as wav2utf8 --mulaw writes it"
    )
    _add_table(parser)
    _add_errors(parser)
    args = parser.parse_args(argv)
    console.refuse_same_file(args.input, args.output)
    decoder = _decoder(args)
    ended_by: BaseException | None = None
    with (
        console.open_input(args.input) as source,
        console.open_output(args.output) as target,
        WavWriter(target, args.rate, args.mulaw) as writer,
    ):
        try:
            for samples in _decoded(decoder, source, args):
                writer.write(samples)
        except WavFullError as error:
            ended_by = error
        except (KeyboardInterrupt, console.Terminated) as error:
            if not writer.samples or _is_regular(source):
                raise
            ended_by = error  # of an endless stream this is the only end there is: what has come is kept
        if not writer.samples:
            raise InputError(f"{_name(args.input)} holds no sound: it is an empty text.")
    _say_skipped(decoder, args)
    if isinstance(ended_by, KeyboardInterrupt):
        console.log(f"stopped after {writer.samples / args.rate:.1f} s of sound.", args.quiet)
    elif isinstance(ended_by, WavFullError):
        raise InputError(f"{ended_by} Cut the text into several, or write bare samples with utf82bin.")
    elif ended_by is not None:
        raise ended_by


@console.command
def bin2utf8(argv: Sequence[str] | None = None) -> None:
    """Turn the bytes of any file into a text."""
    parser = console.Parser(
        "bin2utf8",
        "Write the bytes of any file as a text with one character per byte.",
        """bin2utf8 picture.bmp picture.txt
tar c folder | bin2utf8 - folder.txt""",
    )
    _add_files(parser, "file to read", "text to write")
    _add_alphabet(parser)
    args = parser.parse_args(argv)
    console.refuse_same_file(args.input, args.output)
    encoder = Encoder(args.alphabet)
    with console.open_input(args.input) as source, console.open_output(args.output, binary=False) as target:
        for chunk in _chunks(source, args.quiet):
            _write(target, encoder.feed(chunk))


@console.command
def utf82bin(argv: Sequence[str] | None = None) -> None:
    """Turn a text back into the bytes of a file."""
    parser = console.Parser(
        "utf82bin",
        "Convert a text that bin2utf8 or wav2utf8 wrote back to bytes.",
        """utf82bin picture.txt picture.bmp
charrnn-sample run | utf82bin - | hexdump -C""",
    )
    _add_files(parser, "text to read, in any of the alphabets", "file to write")
    _add_table(parser)
    _add_errors(parser)
    args = parser.parse_args(argv)
    console.refuse_same_file(args.input, args.output)
    decoder = _decoder(args)
    with console.open_input(args.input) as source, console.open_output(args.output) as target:
        for data in _decoded(decoder, source, args):
            _write(target, data)
    _say_skipped(decoder, args)


def _add_files(parser: argparse.ArgumentParser, source: str, target: str, from_stdin: bool = False) -> None:
    nargs, default = ("?", "-") if from_stdin else (None, None)
    parser.add_argument("input", metavar="IN", nargs=nargs, default=default, help=f"{source}; - is standard input")
    parser.add_argument("output", metavar="OUT", nargs="?", default="-", help=f"{target}; - is standard output")


def _add_alphabet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--alphabet", choices=list(ALPHABETS), default="braille", help="characters to write")


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--table", metavar="FILE",
        help="table of a text that BinToUTF8 wrote; each line has a byte, such as 65 or 0x41, and its character",
    )  # fmt: skip


def _decoder(args: argparse.Namespace) -> Decoder:
    return Decoder(args.errors, table=read_table(args.table) if args.table is not None else None)


def _add_errors(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--errors", choices=["strict", "skip"], default="strict",
        help="what to do with a character that is not in the text's alphabet: stop with an error, or skip and count it",
    )  # fmt: skip


def _rate(text: str) -> int:
    rate = _number(text, LOWEST_RATE, HIGHEST_RATE)
    if rate != int(rate):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(rate)


def _seconds(text: str) -> float:
    return _number(text, 0, 10**9)


def _length_in_seconds(text: str) -> float:
    return _number(text, 0.0001, 10**9)


def _decibels(text: str) -> float:
    return _number(text, -200, 200)


def _number(text: str, lowest: float, highest: float) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: {lowest:,} to {highest:,} are possible") from None
    if not lowest <= number <= highest:
        raise argparse.ArgumentTypeError(f"{text!r} is out of range: {lowest:,} to {highest:,} are possible")
    return number


def _chunks(source: BinaryIO, quiet: bool) -> Iterator[bytes]:
    """Read what comes, as it comes: what a pipe holds so far is not kept waiting for more."""
    with console.progress(_length(source), "B", quiet, unit_scale=True) as bar:
        _wait_for(source)
        while chunk := source.read1(_CHUNK):  # type: ignore[attr-defined]  # each buffered reader has it
            yield chunk
            bar.update(len(chunk))
            _wait_for(source)


def _wait_for(source: BinaryIO) -> None:
    """Wait until a pipe has something, or ends, and look once a second whether a signal has come.

    Reading waits, too, but in the system: a signal that arrives between Python's last look and that call, or that
    another thread is given, would be noticed only when there is more to read, which may be never.
    """
    if os.name == "nt" or _descriptor(source) is None or _is_regular(source):  # Windows selects nothing but sockets
        return
    while not select.select([source], [], [], _LOOK_EVERY)[0]:
        pass


def _decoded(decoder: Decoder, source: BinaryIO, args: argparse.Namespace) -> Iterator[bytes]:
    head = chunk = b""
    try:
        for chunk in _chunks(source, args.quiet):
            head = head if len(head) >= formats.HEAD else (head + chunk)[: formats.HEAD]
            yield decoder.feed(chunk)
        yield decoder.close()
    except NoTableError as error:
        raise InputError(f"{_name(args.input)}: {error}") from None
    except InputError as error:
        if instead := formats.why_no_text(head, _name(args.input)):
            raise InputError(instead) from None
        remedy = "--errors skip leaves such characters out."
        # A text of BinToUTF8 is ASCII until its sound has had more different values than ASCII has characters.
        if decoder.alphabet is None and args.table is None and chunk.isascii() and chunk.decode().isprintable():
            remedy = "--errors skip leaves such characters out, and a text of BinToUTF8 needs its --table."
        raise InputError(f"{_name(args.input)}: {error} Offsets count from 0; {remedy}") from None


def _write(target: BinaryIO, data: bytes) -> None:
    target.write(data)
    if not _is_regular(target):
        target.flush()


def _say_skipped(decoder: Decoder, args: argparse.Namespace) -> None:
    if decoder.skipped:
        console.log(f"{_name(args.input)}: skipped {decoder.skipped:,} foreign characters.", args.quiet)


def _name(path: str) -> str:
    return formats.STANDARD_INPUT if path == "-" else path


def _length(file: BinaryIO) -> int | None:
    return os.fstat(file.fileno()).st_size if _is_regular(file) else None


def _is_regular(file: Any) -> bool:
    descriptor = _descriptor(file)
    return descriptor is not None and stat.S_ISREG(os.fstat(descriptor).st_mode)


def _descriptor(file: Any) -> int | None:
    try:
        return int(file.fileno())
    except OSError:  # as an io.BytesIO says that it has none
        return None
