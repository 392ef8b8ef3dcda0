"""charrnn-sample: symbols or sound from a trained network."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bytecodec
from bytecodec.console import INTERRUPTED, Interruption, Parser, command, log, progress, wrong_command_line
from bytecodec.errors import InputError
from bytecodec.files import is_special_file
from bytecodec.formats import SOUND_SUFFIXES
from charrnn import runtime
from charrnn.commands.flags import add_channel, encoding, given, number, numbers, path, whole
from charrnn.commands.sample_choices import check_choices, print_choices
from charrnn.commands.sample_start import check_unknown, start_symbols
from charrnn.engines import ENGINES
from charrnn.engines.cpu.pack import INTEGERS
from charrnn.sampling import playback
from charrnn.storage import run_dir

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from charrnn.engines import Engine
    from charrnn.frames.model import FrameCheckpoint
    from charrnn.storage.checkpoint_format import StoredCheckpoint, Streams

DEFAULT_SECONDS = 10
DEFAULT_SYMBOLS = 2000
MOST_SECONDS = 1e9  # 31 years
CHUNK = 256  # symbols between looks at the keyboard; also how much a listener waits for
GPU_CHUNK = 2048  # the same on a GPU, which makes them faster, and does nothing between two chunks
EXAMPLES = """
charrnn-sample --temperature 1 > generated.txt
charrnn-sample runs/voice-001 --seconds 30 --seed 7 -o out.wav
charrnn-sample --segments 10 --segment-seconds 27 --segments-dir parts -o joined.wav
charrnn-sample --streams 8 --seconds 5 -o takes
charrnn-sample --seconds 0 | utf82wav | aplay
charrnn-sample --seconds 0 --play
charrnn-sample runs/poem-001 --start-text "The " --choices 5
"""


def parser() -> Parser:
    """The command line of charrnn-sample."""
    p = Parser("charrnn-sample", "Sample from a trained network.", EXAMPLES)
    p.add_argument(
        "network",
        nargs="?",
        type=path,
        metavar="CHECKPOINT or RUN",
        help="checkpoint file or run to sample from (default: the newest run under ./runs)",
    )
    p.add_argument(
        "--checkpoint", default="newest", metavar="WHICH", help="checkpoint of a run: newest, best or an iteration"
    )
    p.add_argument(
        "-o",
        "--output",
        type=path,
        metavar="OUT",
        default="-",
        help=".wav or .txt file to write, - for standard output, or with several takes a folder",
    )
    what = p.add_argument_group("what to sample")
    length = what.add_mutually_exclusive_group()
    length.add_argument(
        "--length", type=whole(1), metavar="SYMBOLS", help="number of symbols to sample (default: 2000 for text)"
    )
    length.add_argument(
        "--seconds",
        type=number(0, MOST_SECONDS),
        metavar="S",
        help="seconds of sound to sample; 0 for until interrupted (default: 10 for sound)",
    )
    what.add_argument(
        "--temperature",
        type=numbers(0),
        default=[1.0],
        metavar="T",
        help="divisor of the logits: less than 1 prefers likely symbols, 0 takes the likeliest; a list such as 0.8,1 "
        "makes a take of each (default: 1)",
    )
    what.add_argument(
        "--streams", type=whole(1, 1000), metavar="N", help="number of takes to sample side by side (default: 1)"
    )
    what.add_argument(
        "--choices",
        type=whole(1),
        metavar="K",
        help="print the K likeliest next symbols and their probabilities instead of sampling",
    )
    what.add_argument(
        "--seed",
        type=whole(0, 2**64 - 1),
        metavar="N",
        help="seed of the random numbers; the same seed gives the same symbols (default: 0)",
    )
    start = p.add_argument_group("where to start")
    start.add_argument("--start-text", metavar="TEXT", help="text that the network reads first; it is not written")
    start.add_argument(
        "--start-file",
        type=path,
        metavar="FILE",
        help="recording or text whose end the network reads first; - is standard input",
    )
    start.add_argument(
        "--encoding",
        type=encoding,
        default="utf-8",
        metavar="NAME",
        help="encoding of a --start-file that is a text without a byte order mark",
    )
    start.add_argument(
        "--unknown",
        choices=("error", "skip"),
        default="error",
        help="what to do with characters of a start text that are not in the vocabulary: stop with an error, or skip "
        "and count them",
    )
    start.add_argument(
        "--start-seconds",
        type=number(0, MOST_SECONDS, True),
        default=2.0,
        metavar="S",
        help="seconds of a recording to read",
    )
    add_channel(start, "of a --start-file")
    start.add_argument("--table", type=path, metavar="TABLE", help="table of a --start-file that BinToUTF8 wrote")
    start.add_argument("--state-in", type=path, metavar="FILE", help="continue from a state that --state-out wrote")
    start.add_argument(
        "--state-out", type=path, metavar="FILE", help="file for the state at the end, to continue from with --state-in"
    )
    segments = p.add_argument_group("segments")
    segments.add_argument(
        "--segments", type=whole(1), metavar="K", help="number of segments to sample and join in one output"
    )
    size = segments.add_mutually_exclusive_group()
    size.add_argument("--segment-length", type=whole(1), metavar="SYMBOLS", help="number of symbols per segment")
    size.add_argument("--segment-seconds", type=number(0, MOST_SECONDS, True), metavar="S", help="seconds per segment")
    segments.add_argument(
        "--join",
        choices=("carry", "reset"),
        default="carry",
        help="whether a segment, or a pass of a frame predictor, starts from the state of the last one or from zero",
    )
    segments.add_argument(
        "--segments-dir", type=path, metavar="DIR", help="folder in which each segment is also written as a file"
    )
    how = p.add_argument_group("how")
    how.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="engine that runs the network; auto is the fastest that is installed",
    )
    how.add_argument(
        "--float",
        action="store_true",
        help="write 32-bit floating-point samples of a frame predictor instead of 16-bit ones",
    )
    how.add_argument(
        "--precision",
        choices=(*runtime.PRECISIONS, *INTEGERS, "int8"),
        default="auto",
        help="precision of the weights; auto is int4.5 in the compiled engine (int7 or fp32 for small networks), int8 "
        "in onnx and fp32 in eager",
    )
    how.add_argument(
        "--threads",
        type=whole(0, runtime.MOST_THREADS),
        default=None,
        metavar="N",
        help="number of CPU threads; 0 for one per core (default: CHARRNN_THREADS or 0; small frame predictors: 1)",
    )
    how.add_argument(
        "--play", action="store_true", help="play the sound while it is sampled; without -o it is not written anywhere"
    )
    return p


@dataclass(frozen=True)
class Plan:
    """What the command line comes to for a network."""

    segments: int
    length: int | None  # of a segment; None: without end
    sound: bool  # whether to write WAV rather than text

    @property
    def total(self) -> int | None:
        """Symbols of a stream."""
        return None if self.length is None else self.segments * self.length


@dataclass
class Job:
    """All that a take needs but its temperature and its files, and how far it has come."""

    args: Namespace
    plan: Plan
    checkpoint: StoredCheckpoint
    engine: Engine
    start: NDArray[np.integer[Any]]  # symbols to read before the first one is drawn
    carried: Streams | None  # what --state-in holds
    seed: int
    position: int  # of the generator at the beginning of a take
    done: int = 0  # symbols of each stream since then

    def rewind(self) -> None:
        """Put the engine where a take begins."""
        from charrnn.sampling.generate import prime

        self.done = 0
        self.engine.reset()
        if self.carried:
            self.engine.set_state(self.carried.state, self.carried.last)
        if len(self.start):
            prime(self.engine, self.start)


@command
def charrnn_sample(argv: Sequence[str] | None = None) -> int:
    """Run charrnn-sample; returns the exit code."""
    p = parser()
    args, named = p.parse_args(argv), given(p, argv)
    if args.choices:
        check_choices(p, args, named)
    if args.play and "output" not in named:
        args.output = os.devnull
    if _is_of_frames(args):
        from charrnn.commands.sample_frames import sample_frames

        return sample_frames(p, args, named)
    _check(p, args)
    check_unknown(p, args)
    if args.play:
        playback.library()  # before what takes long
    runtime.before_torch()
    if not args.network:
        args.network = str(run_dir.newest_run().path)
        log(f"sampling from {args.network}.", args.quiet)
    from charrnn.storage.checkpoint_format import Streams, save_streams

    if args.state_out:
        _check_place(args.state_out)
    job = _job(args)
    if args.choices:
        print_choices(job)
        if args.state_out:
            save_streams(args.state_out, Streams(*job.engine.get_state(), job.seed, job.position))
        return 0
    outputs = _outputs(args.output, len(args.temperature), job.engine.streams, job.plan.sound)
    with Interruption() as interruption:
        for temperature, paths in zip(args.temperature, outputs, strict=True):
            job.rewind()
            try:
                _take(job, temperature, paths, interruption)
            finally:  # also when the reader of a pipe has had enough
                if args.state_out:
                    save_streams(args.state_out, Streams(*job.engine.get_state(), job.seed, job.position + job.done))
            if interruption:
                break
    endless = job.plan.length is None and interruption.exit_code == INTERRUPTED
    return 0 if endless else interruption.exit_code


def _is_of_frames(args: Namespace) -> bool:
    """Whether the network is a frame predictor; what is wrong with its name is said when it is read."""
    from charrnn.storage.checkpoint_format import kind_of

    try:
        network = args.network or run_dir.newest_run().path
        return kind_of(run_dir.checkpoint_path(network, args.checkpoint)) == "frames"
    except InputError:
        return False


def _job(args: Namespace) -> Job:
    from charrnn.engines import engine
    from charrnn.storage.checkpoint_format import load, load_streams

    checkpoint = load(run_dir.checkpoint_path(args.network, args.checkpoint))
    plan = _plan(args, checkpoint)
    carried = load_streams(args.state_in, checkpoint.config) if args.state_in else None
    streams = args.streams or 1
    if carried and len(carried.last) != streams:
        held = len(carried.last)
        if args.choices:
            raise InputError(f"{args.state_in} holds {held} streams, and --choices takes a state of one stream.")
        raise InputError(f"{args.state_in} holds {held} stream{'s' * (held > 1)}: go on with --streams {held}.")
    seed = args.seed if args.seed is not None else carried.seed if carried else 0
    threads = runtime.default_threads() if args.threads is None else args.threads
    return Job(
        args=args,
        plan=plan,
        checkpoint=checkpoint,
        engine=engine(checkpoint, args.engine, streams, args.precision, threads),
        start=start_symbols(args, checkpoint),
        carried=carried,
        seed=seed,
        position=carried.position if carried else 0,
    )


def _check(p: Parser, args: Namespace) -> None:
    """Refuse what is wrong whatever the files hold."""
    if not args.start_file and (args.table or "channel" in args):
        flag = "--table" if args.table else "--channel"
        wrong_command_line(p, f"{flag} says how to read a --start-file: name one.")
    if args.float:
        wrong_command_line(p, "--float is for frame predictors: a network of symbols writes bytes.")
    sizes = args.segment_length or args.segment_seconds
    if not args.segments and (sizes or args.segments_dir or args.join == "reset"):
        wrong_command_line(p, "--segment-length, --segment-seconds, --segments-dir and --join go with --segments K.")
    if args.segments and sizes and (args.length or args.seconds is not None):
        wrong_command_line(
            p, "--segments K with the size of a segment is a length already: leave --length and --seconds out."
        )
    if args.segments and args.seconds == 0:
        wrong_command_line(p, "--segments K has an end, and --seconds 0 has none.")
    several = len(args.temperature) > 1 or (args.streams or 1) > 1
    if several and args.output == "-":
        wrong_command_line(p, f"several takes need a folder: -o FOLDER.{_decimal_hint(args)}")
    if several and Path(args.output).suffix.lower() in (*SOUND_SUFFIXES, ".txt"):
        wrong_command_line(
            p, f"-o {args.output} names a file, and several takes need a folder: -o FOLDER.{_decimal_hint(args)}"
        )
    if several and args.play:
        wrong_command_line(p, "--play is for one take.")
    if several and args.segments_dir:
        wrong_command_line(p, "--segments-dir is for one take.")
    if len(args.temperature) > 1 and (args.state_out or args.seconds == 0):
        wrong_command_line(
            p, "several temperatures are sampled one after another: --state-out and --seconds 0 take one."
        )
    if args.state_out == "-":
        wrong_command_line(p, "--state-out takes a file: - is for what is sampled.")
    same = args.state_out and os.path.realpath(args.state_out) == os.path.realpath(args.output)
    if same and not is_special_file(args.output):
        wrong_command_line(p, f"-o and --state-out are both {args.output}: one would replace the other.")
    named = args.output != "-" and not is_special_file(args.output)
    if named and not several and Path(args.output).suffix.lower() not in (".wav", ".txt"):
        wrong_command_line(p, f"-o {args.output}: give a name that ends in .wav or .txt, or - for standard output.")


def _decimal_hint(args: Namespace) -> str:
    """Return what to add to a message for temperatures such as 0,8, which may be meant as one number."""
    if len(args.temperature) != 2 or not all(value.is_integer() for value in args.temperature):
        return ""
    return " If --temperature is meant to be one number, write it with a decimal point, such as 0.8."


def _check_place(path: str) -> None:
    """Refuse before the sampling what could only be refused after it."""
    if Path(path).is_dir():
        raise InputError(f"--state-out {path} is a folder: name a file.")
    if not Path(path).resolve().parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {Path(path).parent}. Make it first.")


def _plan(args: Namespace, checkpoint: StoredCheckpoint | FrameCheckpoint) -> Plan:
    rate = checkpoint.rate
    suffix = Path(args.output).suffix.lower()
    several = len(args.temperature) > 1 or (args.streams or 1) > 1
    if rate is None and (args.seconds is not None or args.segment_seconds or suffix == ".wav"):
        raise InputError(
            f"{checkpoint.path} was trained on text, which has no seconds: use --length, and a .txt for -o."
        )
    if rate is None and args.play:
        raise InputError(f"{checkpoint.path} was trained on text, which makes no sound: leave --play out.")
    sound = suffix == ".wav" or (several and rate is not None)
    total = DEFAULT_SYMBOLS if rate is None else DEFAULT_SECONDS * rate
    if args.length:
        total = args.length
    elif args.seconds is not None and rate is not None:
        total = round(args.seconds * rate)
        if total == 0 and args.seconds > 0:
            raise InputError(f"--seconds {args.seconds:g} is less than one sample at {rate} Hz.")
    if args.segments:
        if args.segment_length:
            size = args.segment_length
        elif args.segment_seconds and rate is not None:
            size = round(args.segment_seconds * rate)
        else:
            size = total // args.segments
        if size < 1:
            raise InputError(f"{args.segments} segments are more than there are symbols: make fewer.")
        return Plan(args.segments, size, sound)
    return Plan(1, total or None, sound)


def _outputs(output: str, temperatures: int, streams: int, sound: bool) -> list[list[str]]:
    """For each temperature, the files of its streams."""
    from charrnn.sampling.writers import take_path

    if temperatures * streams == 1:
        return [[output]]
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    return [[take_path(folder, t * streams + k, sound) for k in range(streams)] for t in range(temperatures)]


def _take(job: Job, temperature: float, paths: list[str], interruption: Interruption) -> None:
    """Sample all streams into their files."""
    from charrnn.sampling.stitch import stitch
    from charrnn.sampling.writers import Segments, open_take, open_takes

    args, plan = job.args, job.plan
    segment, began, full = 0, time.monotonic(), None
    total = None if plan.total is None else plan.total * len(paths)
    with contextlib.ExitStack() as stack:
        player = None
        if args.play and (rate := job.checkpoint.rate):
            player = stack.enter_context(playback.open_player(rate, job.checkpoint.encoding == "mulaw", args.quiet))
        takes = stack.enter_context(open_takes(paths, plan.sound, job.checkpoint))  # kept though a player fails
        keep = None
        if args.segments_dir:
            segments = Segments(
                Path(args.segments_dir), plan.sound, lambda path: open_take(path, plan.sound, job.checkpoint)
            )
            keep = stack.enter_context(segments)
        bar = stack.enter_context(progress(total, " symbols", args.quiet, unit_scale=True))
        for number, ids in stitch(
            job.engine,
            plan.segments,
            plan.length,
            temperature,
            job.seed,
            args.join,
            job.start,
            job.position,
            chunk=GPU_CHUNK if args.engine == "cuda" else CHUNK,
        ):
            job.done += ids.shape[1]
            if number != segment:
                segment = number
                for take in takes:
                    take.mark()
            try:
                for take, symbols in zip(takes, ids, strict=True):
                    take.write(symbols)
                if player:
                    player.write(ids[0])
            except (
                bytecodec.WavFullError,
                playback.PlayError,
            ) as error:  # leave the block well, so that the file is kept
                full = error
                break
            if keep:
                keep.write(number, ids[0])
            bar.update(ids.size)
            if interruption:
                break
    if full:
        raise full
    if not args.quiet:
        _say_how_fast(job.done, len(paths), time.monotonic() - began, job.checkpoint.rate, paths)


def _say_how_fast(
    done: int, streams: int, seconds: float, rate: int | None, paths: list[str], what: str = "symbols"
) -> None:
    speed = done * streams / max(seconds, 1e-9)
    text = f"{done * streams:,} {what} in {seconds:.1f} s, {speed:,.0f} a second"
    if rate:
        text += f", {speed / rate:.2f} times real time"
    if paths[0] not in ("-", os.devnull):
        text += f": {paths[0]}" + (f" to {Path(paths[-1]).name}" if streams > 1 else "")
    log(text)


if __name__ == "__main__":
    sys.exit(charrnn_sample())
