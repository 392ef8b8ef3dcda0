"""charrnn-sample: sample text or sound from a trained network."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import bytecodec
from bytecodec.console import INTERRUPTED, Interruption, command, log, progress
from bytecodec.errors import InputError
from bytecodec.files import open_output, refuse_same_file
from charrnn import runtime
from charrnn.commands import sample_flags, sample_task
from charrnn.commands.flags import explicit_flags
from charrnn.sampling import osc, playback
from charrnn.storage import run_dir

if TYPE_CHECKING:
    from charrnn.sampling.playback import Player
    from charrnn.sampling.task import Pieces, SamplingTask


@command
def charrnn_sample(argv: Sequence[str] | None = None) -> int:
    """Sample from a network as the command line says, and return the exit code."""
    p = sample_flags.parser()
    args, named = p.parse_args(argv), explicit_flags(p, argv)
    if args.list_devices:
        with open_output("-", binary=False) as out:
            out.write("".join(f"{line}\n" for line in playback.output_devices()).encode())
        return 0
    if args.play and "output" not in named:
        args.output = os.devnull
    if args.voice:
        if args.network:
            p.error(f"--voice {args.voice} and {args.network} are two networks: omit one of them.")
        args.network = str(run_dir.find_voice(args.voice).path)
    is_frames = _is_frames(args)
    sample_flags.check(p, args, named, is_frames)
    if args.play:
        playback.library()  # fails before the network is loaded
    runtime.before_torch()
    if not args.network:
        args.network = str(run_dir.newest_run().path)
        log(f"sampling from {args.network}.", args.quiet)
    file = run_dir.checkpoint_path(args.network, args.checkpoint)
    if args.state_out:
        _check_state_file(args.state_out)
    if args.choices:
        sample_task.print_choices(sample_task.open_symbols(args, file), args)
        return 0
    task: SamplingTask
    task = sample_task.open_frames(args, file, named) if is_frames else sample_task.open_symbols(args, file)
    segments, length = _lengths(args, task)
    outputs = _outputs(args, task)
    if args.start_file:
        for path in chain.from_iterable(outputs):
            refuse_same_file(args.start_file, path)
    with Interruption() as interruption:
        for temperature, paths in zip(args.temperature, outputs, strict=True):
            task.restart(temperature)
            try:
                _sample(task, args, segments, length, paths, interruption)
            finally:  # also when the reader closes a pipe
                if args.state_out:
                    task.save_state(args.state_out)
            if interruption:
                break
    endless = length is None and interruption.exit_code == INTERRUPTED
    return 0 if endless else interruption.exit_code


def _sample(
    task: SamplingTask, args: Namespace, segments: int, length: int | None, paths: list[str], interruption: Interruption
) -> None:
    """Sample all streams into their files."""
    from charrnn.sampling.writers import SegmentWriter

    began, done, segment, failure = time.monotonic(), 0, 0, None
    total = None if length is None else segments * length * len(paths)
    with contextlib.ExitStack() as stack:
        player = None
        if args.play and task.rate:
            player = stack.enter_context(playback.open_player(task.rate, args.quiet, args.output_device or ""))
        outputs = [stack.enter_context(task.open_output(path)) for path in paths]
        segment_files = None
        if args.segments_dir:
            suffix = task.suffix(args.output, several=False)
            segment_files = stack.enter_context(SegmentWriter(args.segments_dir, suffix, task.open_output))
        bar = stack.enter_context(progress(total, f" {task.unit}", args.quiet, unit_scale=True))
        source = task.pieces(segments, length)
        if args.osc is not None and player:
            source = stack.enter_context(_controlled(task, args, player, interruption))
        for number, pieces in source:
            done += len(pieces[0])
            try:
                for output, piece in zip(outputs, pieces, strict=True):
                    if number != segment:
                        output.mark()
                    output.write(piece)
                if player:
                    player.write(task.as_int16(pieces[0]))
            except (bytecodec.WavFullError, playback.PlayError) as error:
                failure = error  # raised after the block, so that the files are kept
                break
            segment = number
            if segment_files:
                segment_files.write(number, pieces[0])
            bar.update(len(pieces[0]) * len(pieces))
            if interruption:
                break
    if failure:
        raise failure
    if paths[0] == "-" and sys.stdout.isatty():
        log("", args.quiet)  # ends the line of the text on the terminal
    for message in task.summary():
        log(message, args.quiet)
    if total and done * len(paths) < total:
        log(f"stopped: {done * len(paths):,} of {total:,} {task.unit} were sampled.", args.quiet)
    log(_speed(task, done, time.monotonic() - began, paths), args.quiet)


@contextlib.contextmanager
def _controlled(task: SamplingTask, args: Namespace, player: Player, interruption: Interruption) -> Iterator[Pieces]:
    """Receive OSC messages while the block runs; return the pieces that they control."""
    from charrnn.sampling.live_control import LiveControl
    from charrnn.sampling.task import SymbolSampling

    assert isinstance(task, SymbolSampling)
    control = LiveControl(task, lambda path: sample_task.read_live_start(path, args, task.checkpoint))
    with osc.receive(args.host, args.osc, control.handle) as port:
        log(f"receiving OSC messages on {args.host}, port {port}.", args.quiet)
        yield control.pieces(player, lambda: bool(interruption))


def _speed(task: SamplingTask, done: int, seconds: float, paths: list[str]) -> str:
    """Return a message with the speed of all streams, and the names of the files."""
    count = done * len(paths)
    speed = count / max(seconds, 1e-9)
    text = f"{count:,} {task.unit} in {seconds:.1f} s, {speed:,.0f} {task.unit}/s"
    if task.rate:
        text += f", {speed / task.rate:.2f} times real time"
    if paths[0] not in ("-", os.devnull):
        text += f": {paths[0]}" + (f" to {Path(paths[-1]).name}" if len(paths) > 1 else "")
    return text


def _is_frames(args: Namespace) -> bool:
    """Return whether the network is a frame predictor; if it cannot be read, the error is raised later."""
    from charrnn.storage.checkpoint_format import kind_of

    with contextlib.suppress(InputError):
        network = args.network or run_dir.newest_run().path
        return kind_of(run_dir.checkpoint_path(network, args.checkpoint)) == "frames"
    return False


def _lengths(args: Namespace, task: SamplingTask) -> tuple[int, int | None]:
    """Return the number of segments, and the length of each; None means no end."""
    rate = task.rate
    is_wav = Path(args.output).suffix.lower() == ".wav"
    if rate is None and args.play:
        raise InputError(f"{task.path} was trained on text, which is not sound: omit --play, and --osc if it is given.")
    if rate is None and (args.seconds is not None or args.segment_seconds):
        raise InputError(f"{task.path} was trained on text, which has no seconds: use --length.")
    if rate is None and is_wav:
        raise InputError(f"{task.path} was trained on text: give -o a name that ends in .txt, not {args.output}.")
    total = args.length or task.default_length
    if args.seconds is not None and rate is not None:
        total = round(args.seconds * rate)
        if total == 0 and args.seconds > 0:
            raise InputError(f"--seconds {args.seconds:g} is less than one sample at {rate} Hz.")
    if not args.segments:
        return 1, total or None
    size = args.segment_length or total // args.segments
    if args.segment_seconds and rate is not None:
        size = round(args.segment_seconds * rate)
    if size < 1:
        raise InputError(f"{args.segments} segments exceed the number of symbols: lower --segments.")
    return args.segments, size


def _outputs(args: Namespace, task: SamplingTask) -> list[list[str]]:
    """Return the files of the streams for each temperature."""
    from charrnn.sampling.writers import numbered_path

    if not sample_flags.several(args):
        return [[args.output]]
    Path(args.output).mkdir(parents=True, exist_ok=True)
    suffix = task.suffix(args.output, several=True)
    first = range(0, len(args.temperature) * task.streams, task.streams)
    return [[numbered_path(args.output, t + k, suffix) for k in range(task.streams)] for t in first]


def _check_state_file(path: str) -> None:
    """Reject a --state-out that could not be written after the sampling, or would replace another kind of file."""
    from charrnn.storage.checkpoint_format import STATES, kind_of

    if Path(path).is_dir():
        raise InputError(f"--state-out {path} is a folder: name a file.")
    if Path(path).is_file() and kind_of(path) not in STATES:
        raise InputError(f"--state-out {path} exists, and is no state of streams: name another file.")
    if not Path(path).resolve().parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {Path(path).parent}. Create it first.")


if __name__ == "__main__":
    sys.exit(charrnn_sample())
