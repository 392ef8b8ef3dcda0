"""What charrnn-sample does with a frame predictor."""

from __future__ import annotations

import contextlib
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import bytecodec
from bytecodec.console import INTERRUPTED, Interruption, Parser, log, progress, wrong_command_line
from bytecodec.errors import InputError
from charrnn import runtime
from charrnn.commands import sample
from charrnn.commands.flags import options_of
from charrnn.storage import run_dir

if TYPE_CHECKING:
    from charrnn.frames.generate import Take
    from charrnn.frames.model import FrameCheckpoint

SMALL_NETWORK = 500_000  # weights up to which a step is over before a second thread has begun


def sample_frames(p: Parser, args: Namespace, named: set[str]) -> int:
    """Run charrnn-sample on a frame predictor; returns the exit code."""
    _check(p, args)
    runtime.before_torch()
    if not args.network:
        args.network = str(run_dir.newest_run().path)
        log(f"sampling from {args.network}.", args.quiet)
    from charrnn.frames import model as frame_model
    from charrnn.frames.generate import save_takes

    checkpoint = frame_model.load(run_dir.checkpoint_path(args.network, args.checkpoint))
    if checkpoint.model.config.loss == "mse" and "temperature" in named:
        raise InputError(f"{checkpoint.path} was trained with --loss mse and draws nothing: leave --temperature out.")
    if args.state_out:
        sample._check_place(args.state_out)
    runtime.set_threads(_default_threads(checkpoint) if args.threads is None else args.threads)
    _choose_engine(args, checkpoint)
    plan = sample._plan(args, checkpoint)
    takes = _takes(args, checkpoint)
    outputs = sample._outputs(args.output, len(args.temperature), len(takes), True)
    with Interruption() as interruption:
        for number, (temperature, paths) in enumerate(zip(args.temperature, outputs, strict=True)):
            takes = _takes(args, checkpoint) if number else takes
            for take in takes:
                take.temperature = temperature
            try:
                _write(args, checkpoint, plan, takes, paths, interruption)
            finally:  # also when the reader of a pipe has had enough
                if args.state_out:
                    save_takes(args.state_out, takes)
            if interruption:
                break
    endless = plan.length is None and interruption.exit_code == INTERRUPTED
    return 0 if endless else interruption.exit_code


def _default_threads(checkpoint: FrameCheckpoint) -> int:
    small = sum(weights.numel() for weights in checkpoint.model.parameters()) < SMALL_NETWORK
    return runtime.default_threads() or (1 if small else 0)


def _choose_engine(args: Namespace, checkpoint: FrameCheckpoint) -> None:
    """Have the network's layers run where --engine says."""
    from charrnn.engines.cpu.layer import compile_layers
    from charrnn.engines.cpu.library import UnavailableError

    if args.engine == "eager":
        return
    try:
        compile_layers(checkpoint.model, runtime.default_threads() if args.threads is None else args.threads)
    except UnavailableError as error:
        if args.engine == "cpu":
            raise
        log(f"{error} Sampling with torch, which is slower.", args.quiet)


def _check(p: Parser, args: Namespace) -> None:
    """Refuse what is wrong for a frame predictor."""
    if args.choices:
        wrong_command_line(p, "--choices is for networks of symbols, and this is a frame predictor.")
    sample._check(p, Namespace(**vars(args) | {"float": False, "join": "carry"}))  # passes are joined without segments
    if args.play:
        wrong_command_line(p, "--play is for networks of symbols: a frame predictor makes seconds of sound at a time.")
    if args.encoding != "utf-8":
        wrong_command_line(p, "--encoding is for texts: a frame predictor starts from a recording.")
    if args.table:
        wrong_command_line(p, "--table is for texts: a frame predictor starts from a recording.")
    if args.unknown != "error":
        wrong_command_line(p, "--unknown is for networks of text: a frame predictor starts from a recording.")
    if args.start_text:
        wrong_command_line(p, "--start-text is for networks of text: a frame predictor begins from a --start-file.")
    if args.engine not in ("auto", "cpu", "eager"):
        wrong_command_line(p, f"--engine {args.engine} runs networks of symbols: leave it out.")
    if args.precision not in ("auto", "fp32"):
        wrong_command_line(p, f"--precision {args.precision} has fewer digits than a 16-bit sample: leave it out.")
    if Path(args.output).suffix.lower() == ".txt":
        wrong_command_line(p, f"-o {args.output}: a frame predictor makes sound: give a name that ends in .wav, or -.")


def _takes(args: Namespace, checkpoint: FrameCheckpoint) -> list[Take]:
    """Where each stream begins."""
    from charrnn.frames.data import last_samples
    from charrnn.frames.generate import Take, load_takes
    from charrnn.frames.model import as_numbers

    model, streams = checkpoint.model, args.streams or 1
    if args.state_in:
        if args.start_file:
            raise InputError("--state-in says where to go on from: leave --start-file out.")
        takes = load_takes(args.state_in, model)
        if len(takes) != streams:
            raise InputError(f"{args.state_in} holds {len(takes)} streams: go on with --streams {len(takes)}.")
    else:
        window = None
        if args.start_file:
            options = options_of(checkpoint, args)
            window = as_numbers(last_samples(args.start_file, options, model.config.context.max_lag))
        takes = [Take(model, window, number=k) for k in range(streams)]
    for take in takes:
        take.join = args.join
        take.seed = take.seed if args.seed is None else args.seed
    return takes


def _write(
    args: Namespace,
    checkpoint: FrameCheckpoint,
    plan: sample.Plan,
    takes: list[Take],
    paths: list[str],
    interruption: Interruption,
) -> None:
    """Sample all takes into their files, a pass of each in turn."""
    from charrnn.sampling.writers import Segments, open_samples

    began, done, full = time.monotonic(), 0, None
    total = None if plan.total is None else plan.total * len(paths)
    before = sum(take.limited for take in takes)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open_samples(path, checkpoint.rate, args.float)) for path in paths]
        keep = None
        if args.segments_dir:
            folder = Segments(
                Path(args.segments_dir), True, lambda path: open_samples(path, checkpoint.rate, args.float)
            )
            keep = stack.enter_context(folder)
        bar = stack.enter_context(progress(total, " samples", args.quiet, unit_scale=True))
        while plan.total is None or done < plan.total:
            most = 2**62 if plan.length is None else plan.length - done % plan.length
            if done and most == plan.length:
                for file in files:
                    file.mark()
            pieces = [take.read(most) for take in takes]
            try:
                for file, samples in zip(files, pieces, strict=True):
                    file.write(samples)
            except bytecodec.WavFullError as error:  # leave the block well, so that the files are kept
                full = error
                break
            if keep and plan.length:
                keep.write(done // plan.length, pieces[0])
            done += len(pieces[0])
            bar.update(len(pieces[0]) * len(pieces))
            if interruption:
                break
    if full:
        raise full
    if limited := sum(take.limited for take in takes) - before:
        log(f"{limited:,} of {done * len(takes):,} samples were beyond full scale, and are limited to it.", args.quiet)
    if not args.quiet:
        sample._say_how_fast(done, len(paths), time.monotonic() - began, checkpoint.rate, paths, "samples")
