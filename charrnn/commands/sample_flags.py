"""The command line of charrnn-sample: its flags, and which of them can be combined."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError, Namespace, _ArgumentGroup
from pathlib import Path

from bytecodec.console import Parser, number, option, whole
from bytecodec.files import is_special_file
from bytecodec.formats import SOUND_SUFFIXES
from charrnn import runtime
from charrnn.commands import flags
from charrnn.commands.flags import flag_of, numbers, path
from charrnn.engines import ENGINES
from charrnn.engines.cpu.pack import INTEGERS
from charrnn.storage.run_dir import voice_names

MAX_SECONDS = 1e9  # 31 years
FLAGS_WITH_CHOICES = {  # flags of the network, its start and the computation; all others concern sampling
    *("network", "voice", "checkpoint", "choices", "temperature", "streams", "engine", "precision", "threads", "quiet"),
    *("start_text", "start_file", "start_seconds", "channel", "table"),
    *("encoding", "unknown", "state_in", "state_out"),
}
EXAMPLES = """
charrnn-sample --temperature 1 > generated.txt
charrnn-sample --voice kathleen -o voice.wav
charrnn-sample runs/voice-001 --seconds 30 --seed 7 -o out.wav
charrnn-sample --segments 10 --segment-seconds 27 --segments-dir parts -o joined.wav
charrnn-sample --streams 8 --seconds 5 -o streams
charrnn-sample --seconds 0 | utf82wav | aplay
charrnn-sample --seconds 0 --play
charrnn-sample --play --osc 9000
charrnn-sample runs/poem-001 --start-text "The " --choices 5
"""


def parser() -> Parser:
    p = Parser("charrnn-sample", "Sample from a trained network.", EXAMPLES)
    network = "checkpoint file or run to sample from (default: the newest run under ./runs)"
    p.add_argument("network", nargs="?", type=path, metavar="CHECKPOINT or RUN", help=network)
    option(p, "--voice NAME", path, f"bundled voice to sample from instead of a run: {', '.join(voice_names())}")
    flags.add_checkpoint(p)
    output = ".wav or .txt file to write, or a folder for several streams or temperatures"
    option(p, "-o --output OUT", path, output, "-")
    _add_sampling(p.add_argument_group("what to sample"))
    _add_start(p.add_argument_group("where to start"))
    _add_segments(p.add_argument_group("segments"))
    _add_computation(p.add_argument_group("computation and output"))
    return p


def _add_sampling(g: _ArgumentGroup) -> None:
    length = g.add_mutually_exclusive_group()
    option(length, "--length SYMBOLS", whole(1), "number of symbols to sample (default: 2000 for text)")
    seconds = "seconds of sound, instead of --length; 0 for no end (default: 10 for sound)"
    option(length, "--seconds S", number(0, MAX_SECONDS), seconds)
    temperature = (
        "divisor of the logits: below 1 favours likely symbols, 0 chooses the likeliest; a list such as 0.8,1 "
        "samples once at each; multiplied by the checkpoint's calibration, and with predictions reduced by up to a "
        "fifth while the sound is too loud (default: 1)"
    )
    option(g, "--temperature T", numbers(0), temperature, [1.0])
    option(g, "--streams N", whole(1, 1000), "number of streams to sample in parallel (default: 1)")
    choices = "print the K likeliest next symbols and their probabilities instead of sampling"
    option(g, "--choices K", whole(1), choices)
    seed = "seed of the random numbers (default: that of --state-in, or 0)"
    option(g, "--seed N", whole(0, 2**64 - 1), seed)


def _add_start(g: _ArgumentGroup) -> None:
    option(g, "--start-text TEXT", str, "text to prime the network with; it is not written")
    file = "recording or text whose end primes the network; - is standard input"
    option(g, "--start-file FILE", path, file)
    flags.add_encoding(g, "a --start-file that is a text")
    g.add_argument(
        "--unknown",
        choices=("error", "skip"),
        default="error",
        help="whether characters of a start text outside the vocabulary are an error, or skipped and counted",
    )
    option(g, "--start-seconds S", number(0, MAX_SECONDS, above=True), "seconds of a recording to read (default: 2)")
    flags.add_channel(g, "a --start-file")
    option(g, "--table TABLE", path, "table of a --start-file that BinToUTF8 wrote")
    option(g, "--state-in FILE", path, "continue from a state that --state-out wrote")
    option(g, "--state-out FILE", path, "file to write the final state to, for --state-in")


def _add_segments(g: _ArgumentGroup) -> None:
    option(
        g,
        "--segments K",
        whole(1),
        "number of segments to sample and join; unless their size is given, they divide --seconds or --length",
    )
    size = g.add_mutually_exclusive_group()
    option(size, "--segment-length SYMBOLS", whole(1), "number of symbols per segment")
    option(size, "--segment-seconds S", number(0, MAX_SECONDS, above=True), "seconds per segment")
    join = "whether a segment (or pass of a frame predictor) starts from the previous one's state or from zero"
    g.add_argument("--join", choices=("carry", "reset"), default="carry", help=join)
    option(g, "--segments-dir DIR", path, "folder to which each segment is written as well")


def _add_computation(g: _ArgumentGroup) -> None:
    engine = "engine that runs the network; auto is the fastest CPU engine that is installed"
    g.add_argument("--engine", choices=ENGINES, default="auto", help=engine)
    as_float = "write 32-bit floating-point samples of a frame predictor"
    g.add_argument("--float", action="store_true", help=as_float)
    g.add_argument(
        "--precision",
        choices=(*runtime.PRECISIONS, *INTEGERS, "int8"),
        default="auto",
        help="precision of the weights; auto is int4.5 in the cpu engine (int7 or fp32 for small networks), int8 in "
        "onnx, fp32 in eager, and bf16 in cuda if the GPU has it",
    )
    default = "CHARRNN_THREADS or 0; small frame predictors: 1"
    flags.add_threads(g, zero=flags.ENGINE_THREADS, default=default)
    play = "play the sound while it is sampled, and write it only with -o"
    g.add_argument("--play", action="store_true", help=play)
    device = "part of the name of the device for --play, or its number (default: that of the system)"
    option(g, "--output-device NAME", device_name, device)
    osc = (
        "UDP port for OSC messages (/temperature, /seed, /play, /stop, /prime) that control endless playback with "
        "--play; 0 for any free port (default: no OSC)"
    )
    option(g, "--osc PORT", whole(0, 65535), osc)
    host = "address on which --osc receives; any address but a loopback one lets other machines control playback"
    option(g, "--host ADDRESS", path, host, "127.0.0.1")
    g.add_argument("--list-devices", action="store_true", help="print the devices for --output-device, and exit")


def device_name(text: str) -> str:
    """Return the name of a device; reject an empty one."""
    if not text:
        raise ArgumentTypeError("it is empty: name a device (see --list-devices), or omit it")
    return text


def several(args: Namespace) -> bool:
    """Return whether there is more than one stream or temperature, and so more than one output."""
    return len(args.temperature) > 1 or (args.streams or 1) > 1


def check(p: Parser, args: Namespace, named: set[str], is_frames: bool) -> None:
    """Reject flags that are invalid for this kind of network, regardless of the contents of the files."""
    (_check_frames if is_frames else _check_symbols)(p, args, named)
    if "channel" in args and not args.start_file:
        p.error("--channel has no effect without a --start-file: name one.")
    if args.output_device is not None and not args.play:
        p.error("--output-device is for --play: add it.")
    if args.osc is not None:
        if not args.play:
            p.error("--osc is for --play: add it.")
        if foreign := sorted(named & {"length", "seconds", "segments", "streams"}):
            p.error(f"--osc plays one stream without an end: omit {flag_of(foreign[0])}.")
        args.seconds = 0.0
    elif "host" in named:
        p.error("--host is for --osc: add it.")
    _check_segments(p, args)
    if several(args):
        _check_several(p, args)
    if args.state_out == "-":
        p.error("--state-out needs a file: - is the output of the sample.")
    if args.output == "-" or is_special_file(args.output):
        return
    if args.state_out and os.path.realpath(args.state_out) == os.path.realpath(args.output):
        p.error(f"-o and --state-out are both {args.output}: one would replace the other.")
    if not several(args) and Path(args.output).suffix.lower() not in (".wav", ".txt"):
        p.error(f"-o {args.output}: give a name that ends in .wav or .txt, or - for standard output.")


def _check_symbols(p: Parser, args: Namespace, named: set[str]) -> None:
    if args.choices:
        if foreign := sorted(named - FLAGS_WITH_CHOICES):
            p.error(f"--choices K samples nothing, so {flag_of(foreign[0])} has no effect: omit one of them.")
        if several(args):
            p.error("--choices K needs one stream and one temperature.")
    if args.float:
        p.error("--float is for frame predictors: a network of symbols writes bytes.")
    if args.start_seconds and not args.start_file:
        p.error("--start-seconds has no effect without a --start-file: name one.")
    if args.table and not args.start_file:
        p.error("--table has no effect without a --start-file: name one.")
    if args.unknown == "skip" and not (args.start_text or args.start_file):
        p.error("--unknown skip needs --start-text or --start-file.")
    if args.join == "reset" and not args.segments:
        p.error("--join reset needs --segments K.")


def _check_frames(p: Parser, args: Namespace, named: set[str]) -> None:
    if args.choices:
        p.error("--choices is for networks of symbols, and this is a frame predictor.")
    if args.play:
        p.error("--play is for networks of symbols: a frame predictor generates seconds of sound at a time.")
    of_text = {
        "--encoding": args.encoding != "utf-8",
        "--table": args.table,
        "--unknown": args.unknown != "error",
        "--start-text": args.start_text,
    }
    for flag in (flag for flag, is_given in of_text.items() if is_given):
        p.error(f"{flag} is for networks of text: a frame predictor starts from a recording.")
    if args.start_seconds:
        p.error("--start-seconds is for networks of symbols: a frame predictor reads the window that it needs.")
    if args.engine not in ("auto", "cpu", "eager"):
        p.error(f"--engine {args.engine} is for networks of symbols: omit it.")
    if args.precision not in ("auto", "fp32"):
        p.error(f"--precision {args.precision} is less precise than a 16-bit sample: omit it.")
    if Path(args.output).suffix.lower() == ".txt":
        p.error(f"-o {args.output}: a frame predictor makes sound: give a name that ends in .wav, or -.")


def _check_segments(p: Parser, args: Namespace) -> None:
    sizes = args.segment_length or args.segment_seconds
    if not args.segments and (sizes or args.segments_dir):
        p.error("--segment-length, --segment-seconds and --segments-dir need --segments K.")
    if args.segments and sizes and (args.length or args.seconds is not None):
        p.error("--segments K and the size of a segment already set the length: omit --length and --seconds.")
    if args.segments and args.seconds == 0:
        p.error("--seconds 0 has no end, and cannot be divided into --segments.")


def _check_several(p: Parser, args: Namespace) -> None:
    """Reject flags that require one stream and one temperature."""
    hint = ""
    if len(args.temperature) == 2 and all(value.is_integer() for value in args.temperature):  # such as 0,8
        hint = " If --temperature is meant to be one number, write it with a decimal point, such as 0.8."
    if args.output == "-" or Path(args.output).suffix.lower() in (*SOUND_SUFFIXES, ".txt"):
        p.error(f"several streams or temperatures need a folder, not -o {args.output}: give -o FOLDER.{hint}")
    if args.play or args.segments_dir:
        flag = "--play" if args.play else "--segments-dir"
        p.error(f"{flag} is for one stream and one temperature.")
    if len(args.temperature) > 1 and (args.state_out or args.seconds == 0):
        flag = "--state-out" if args.state_out else "--seconds 0"
        p.error(f"several temperatures are sampled one after another: {flag} needs a single one.")
