"""charrnn-sample for frame predictors: checks of flags, first windows and compiled layers."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from bytecodec.console import Parser, log, wrong_command_line
from bytecodec.errors import InputError
from charrnn import runtime
from charrnn.commands.flags import options_of
from charrnn.storage import run_dir

if TYPE_CHECKING:
    from charrnn.frames.generate import FrameStream
    from charrnn.frames.model import FrameCheckpoint
    from charrnn.frames.sampling import FrameSampling

SMALL_NETWORK = 500_000  # weights up to which a second thread costs more time than it saves


def check(p: Parser, args: Namespace, named: set[str]) -> None:
    """Reject flags that do not apply to a frame predictor."""
    if args.choices:
        wrong_command_line(p, "--choices is for networks of symbols, and this is a frame predictor.")
    if args.play:
        wrong_command_line(
            p, "--play is for networks of symbols: a frame predictor generates seconds of sound at a time."
        )
    of_text = {
        "--encoding": args.encoding != "utf-8",
        "--table": args.table,
        "--unknown": args.unknown != "error",
        "--start-text": args.start_text,
    }
    for flag in (flag for flag, is_given in of_text.items() if is_given):
        wrong_command_line(p, f"{flag} is for networks of text: a frame predictor starts from a recording.")
    if args.engine not in ("auto", "cpu", "eager"):
        wrong_command_line(p, f"--engine {args.engine} is for networks of symbols: leave it out.")
    if args.precision not in ("auto", "fp32"):
        wrong_command_line(p, f"--precision {args.precision} is less precise than a 16-bit sample: leave it out.")
    if Path(args.output).suffix.lower() == ".txt":
        wrong_command_line(p, f"-o {args.output}: a frame predictor makes sound: give a name that ends in .wav, or -.")


def open_task(args: Namespace, named: set[str]) -> FrameSampling:
    """Load the network, and make its streams."""
    from charrnn.frames import model as frame_model
    from charrnn.frames.sampling import FrameSampling

    checkpoint = frame_model.load(run_dir.checkpoint_path(args.network, args.checkpoint))
    if checkpoint.model.config.loss == "mse" and "temperature" in named:
        raise InputError(f"{checkpoint.path} was trained with --loss mse and draws nothing: leave --temperature out.")
    _set_threads(args, checkpoint)
    return FrameSampling(checkpoint, _streams(args, checkpoint), args.float)


def _set_threads(args: Namespace, checkpoint: FrameCheckpoint) -> None:
    """Set the number of threads, and compile the layers for them unless --engine is eager."""
    from charrnn.engines.cpu.layer import compile_layers
    from charrnn.engines.cpu.library import UnavailableError

    threads = runtime.default_threads() if args.threads is None else args.threads
    is_small = sum(weights.numel() for weights in checkpoint.model.parameters()) < SMALL_NETWORK
    runtime.set_threads(1 if is_small and args.threads is None and not threads else threads)
    if args.engine == "eager":
        return
    try:
        compile_layers(checkpoint.model, threads)
    except UnavailableError as error:
        if args.engine == "cpu":
            raise
        log(f"{error} Sampling with torch, which is slower.", args.quiet)


def _streams(args: Namespace, checkpoint: FrameCheckpoint) -> list[FrameStream]:
    """Return the streams at the saved state, or at the window from which they begin."""
    from charrnn.frames.data import last_samples
    from charrnn.frames.generate import FrameStream, load_streams
    from charrnn.frames.model import to_float

    model, count = checkpoint.model, args.streams or 1
    if args.state_in:
        if args.start_file:
            raise InputError("--state-in contains the start of a frame predictor: leave --start-file out.")
        streams = load_streams(args.state_in, model)
        if len(streams) != count:
            raise InputError(f"{args.state_in} holds {len(streams)} streams: continue with --streams {len(streams)}.")
    else:
        window = None
        if args.start_file:
            options = options_of(checkpoint, args)
            window = to_float(last_samples(args.start_file, options, model.config.context.max_lag))
        streams = [FrameStream(model, window, number=k) for k in range(count)]
    for stream in streams:
        stream.join = args.join
        stream.seed = stream.seed if args.seed is None else args.seed
    return streams
