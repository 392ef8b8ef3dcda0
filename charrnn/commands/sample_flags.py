"""The command line of charrnn-sample: its flags, and which of them can be combined."""

from __future__ import annotations

import os
from argparse import Namespace, _ActionsContainer
from pathlib import Path

from bytecodec.console import Parser, wrong_command_line
from bytecodec.files import is_special_file
from bytecodec.formats import SOUND_SUFFIXES
from charrnn import runtime
from charrnn.commands import flags
from charrnn.commands.flags import number, numbers, path, whole
from charrnn.engines import ENGINES
from charrnn.engines.cpu.pack import INTEGERS

MAX_SECONDS = 1e9  # 31 years
EXAMPLES = """
charrnn-sample --temperature 1 > generated.txt
charrnn-sample runs/voice-001 --seconds 30 --seed 7 -o out.wav
charrnn-sample --segments 10 --segment-seconds 27 --segments-dir parts -o joined.wav
charrnn-sample --streams 8 --seconds 5 -o streams
charrnn-sample --seconds 0 | utf82wav | aplay
charrnn-sample --seconds 0 --play
charrnn-sample runs/poem-001 --start-text "The " --choices 5
"""


def parser() -> Parser:
    """Return the parser of charrnn-sample."""
    p = Parser("charrnn-sample", "Sample from a trained network.", EXAMPLES)
    p.add_argument(
        "network",
        nargs="?",
        type=path,
        metavar="CHECKPOINT or RUN",
        help="checkpoint file or run to sample from (default: the newest run under ./runs)",
    )
    flags.add_checkpoint(p)
    p.add_argument(
        "-o",
        "--output",
        type=path,
        metavar="OUT",
        default="-",
        help=".wav or .txt file to write, - for standard output, or a folder for several streams or temperatures",
    )
    _add_what(p.add_argument_group("what to sample"))
    _add_start(p.add_argument_group("where to start"))
    _add_segments(p.add_argument_group("segments"))
    _add_how(p.add_argument_group("how"))
    return p


def _add_what(group: _ActionsContainer) -> None:
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--length", type=whole(1), metavar="SYMBOLS", help="number of symbols to sample (default: 2000 for text)"
    )
    length.add_argument(
        "--seconds",
        type=number(0, MAX_SECONDS),
        metavar="S",
        help="seconds of sound to sample; 0 for until interrupted (default: 10 for sound)",
    )
    group.add_argument(
        "--temperature",
        type=numbers(0),
        default=[1.0],
        metavar="T",
        help="divisor of the logits: below 1 favours likely symbols, 0 always chooses the likeliest; a list such as "
        "0.8,1 samples once at each (default: 1)",
    )
    group.add_argument(
        "--streams", type=whole(1, 1000), metavar="N", help="number of streams to sample side by side (default: 1)"
    )
    group.add_argument(
        "--choices",
        type=whole(1),
        metavar="K",
        help="print the K likeliest next symbols and their probabilities instead of sampling",
    )
    group.add_argument(
        "--seed",
        type=whole(0, 2**64 - 1),
        metavar="N",
        help="seed of the random numbers; the same seed gives the same symbols (default: 0)",
    )


def _add_start(group: _ActionsContainer) -> None:
    group.add_argument("--start-text", metavar="TEXT", help="text to prime the network with; it is not written")
    group.add_argument(
        "--start-file",
        type=path,
        metavar="FILE",
        help="recording or text to prime the network with the end of; - is standard input",
    )
    flags.add_encoding(group, "encoding of a --start-file that is a text without a byte order mark")
    group.add_argument(
        "--unknown",
        choices=("error", "skip"),
        default="error",
        help="what to do with characters of a start text that are not in the vocabulary: stop with an error, or skip "
        "and count them",
    )
    group.add_argument(
        "--start-seconds",
        type=number(0, MAX_SECONDS, True),
        default=2.0,
        metavar="S",
        help="seconds of a recording to read",
    )
    flags.add_channel(group, "of a --start-file")
    flags.add_table(group, "table of a --start-file that BinToUTF8 wrote")
    group.add_argument("--state-in", type=path, metavar="FILE", help="continue from a state that --state-out wrote")
    group.add_argument(
        "--state-out", type=path, metavar="FILE", help="file for the state at the end, to continue from with --state-in"
    )


def _add_segments(group: _ActionsContainer) -> None:
    group.add_argument(
        "--segments", type=whole(1), metavar="K", help="number of segments to sample and join in one output"
    )
    size = group.add_mutually_exclusive_group()
    size.add_argument("--segment-length", type=whole(1), metavar="SYMBOLS", help="number of symbols per segment")
    size.add_argument("--segment-seconds", type=number(0, MAX_SECONDS, True), metavar="S", help="seconds per segment")
    group.add_argument(
        "--join",
        choices=("carry", "reset"),
        default="carry",
        help="whether a segment, or a pass of a frame predictor, starts from the state of the last one or from zero",
    )
    group.add_argument(
        "--segments-dir", type=path, metavar="DIR", help="folder in which each segment is also written as a file"
    )


def _add_how(group: _ActionsContainer) -> None:
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="engine that runs the network; auto is the fastest that is installed",
    )
    group.add_argument(
        "--float",
        action="store_true",
        help="write 32-bit floating-point samples of a frame predictor instead of 16-bit ones",
    )
    flags.add_precision(
        group,
        "precision of the weights; auto is int4.5 in the compiled engine (int7 or fp32 for small networks), int8 in "
        "onnx and fp32 in eager",
        choices=(*runtime.PRECISIONS, *INTEGERS, "int8"),
    )
    flags.add_threads(group, default="CHARRNN_THREADS or 0; small frame predictors: 1")
    group.add_argument(
        "--play", action="store_true", help="play the sound while it is sampled; without -o it is not written anywhere"
    )


def check(p: Parser, args: Namespace) -> None:
    """Reject what is wrong whatever the files contain."""
    if "channel" in args and not args.start_file:
        wrong_command_line(p, "--channel is for reading a --start-file: name one.")
    _check_segments(p, args)
    if several(args):
        _check_several(p, args)
    if args.state_out == "-":
        wrong_command_line(p, "--state-out needs a file: - is for what is sampled.")
    if args.output == "-" or is_special_file(args.output):
        return
    if args.state_out and os.path.realpath(args.state_out) == os.path.realpath(args.output):
        wrong_command_line(p, f"-o and --state-out are both {args.output}: one would replace the other.")
    if not several(args) and Path(args.output).suffix.lower() not in (".wav", ".txt"):
        wrong_command_line(p, f"-o {args.output}: give a name that ends in .wav or .txt, or - for standard output.")


def _check_segments(p: Parser, args: Namespace) -> None:
    sizes = args.segment_length or args.segment_seconds
    if not args.segments and (sizes or args.segments_dir):
        wrong_command_line(p, "--segment-length, --segment-seconds and --segments-dir need --segments K.")
    if args.segments and sizes and (args.length or args.seconds is not None):
        wrong_command_line(
            p, "--segments K and the size of a segment set the length already: leave --length and --seconds out."
        )
    if args.segments and args.seconds == 0:
        wrong_command_line(p, "--seconds 0 has no end, and cannot be divided into --segments.")


def _check_several(p: Parser, args: Namespace) -> None:
    """Reject what is possible with one stream and one temperature only."""
    hint = ""
    if len(args.temperature) == 2 and all(value.is_integer() for value in args.temperature):  # such as 0,8
        hint = " If --temperature is meant to be one number, write it with a decimal point, such as 0.8."
    if args.output == "-" or Path(args.output).suffix.lower() in (*SOUND_SUFFIXES, ".txt"):
        wrong_command_line(
            p, f"several streams or temperatures need a folder, not -o {args.output}: give -o FOLDER.{hint}"
        )
    if args.play or args.segments_dir:
        flag = "--play" if args.play else "--segments-dir"
        wrong_command_line(p, f"{flag} is for one stream and one temperature.")
    if len(args.temperature) > 1 and (args.state_out or args.seconds == 0):
        flag = "--state-out" if args.state_out else "--seconds 0"
        wrong_command_line(p, f"several temperatures are sampled one after another: {flag} needs a single one.")


def several(args: Namespace) -> bool:
    """Return whether there is more than one stream or temperature, and so more than one output."""
    return len(args.temperature) > 1 or (args.streams or 1) > 1
