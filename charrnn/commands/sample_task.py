"""Sampling tasks of charrnn-sample: engine and streams of a network, their start, and the output of --choices."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import bytecodec
from bytecodec.console import log
from bytecodec.errors import InputError, printable
from bytecodec.files import open_output
from bytecodec.pcm import bytes_to_int16
from charrnn import runtime
from charrnn.commands.flags import options_of, threads_of
from charrnn.engines import NO_SYMBOL

if TYPE_CHECKING:
    from charrnn.frames.generate import FrameSampling, FrameStream
    from charrnn.frames.model import FrameCheckpoint
    from charrnn.sampling.task import SymbolSampling
    from charrnn.storage.checkpoint_format import StoredCheckpoint

START_SECONDS = 2.0  # of sound, read at the end of a --start-file
START_SYMBOLS = 2000  # read at the end of a --start-file by a network of text
CHUNK = 256  # symbols per piece: the interval between checks for Ctrl-C, and the delay of live playback
GPU_CHUNK = 2048  # the same on a GPU, which is faster, and is idle between two pieces
SMALL_NETWORK = 500_000  # weights up to which a second thread costs more time than it saves


def open_symbols(args: Namespace, file: Path) -> SymbolSampling:
    """Load a network of symbols into an engine."""
    from charrnn.engines import engine
    from charrnn.sampling.task import SymbolSampling
    from charrnn.storage.checkpoint_format import load, load_streams

    checkpoint = load(file)
    saved = load_streams(args.state_in, checkpoint.config) if args.state_in else None
    if saved:
        _check_streams(args, len(saved.last))
    return SymbolSampling(
        checkpoint,
        engine(checkpoint, args.engine, args.streams or 1, args.precision, threads_of(args)),
        _start_symbols(args, checkpoint),
        saved,
        args.seed,
        args.join,
        GPU_CHUNK if args.engine == "cuda" else CHUNK,
    )


def _check_streams(args: Namespace, count: int) -> None:
    """Raise InputError if the number of streams in --state-in is not that of --streams."""
    if count == (args.streams or 1):
        return
    if args.choices:
        raise InputError(f"{args.state_in} contains {count} streams, and --choices needs a state of one stream.")
    raise InputError(f"{args.state_in} contains {count} stream{'s' * (count > 1)}: continue with --streams {count}.")


def _start_symbols(args: Namespace, checkpoint: StoredCheckpoint) -> NDArray[np.integer[Any]]:
    """Return the ids (n,) to prime the network with: the end of the --start-file, then the --start-text."""
    skip = args.unknown == "skip"
    if skip and checkpoint.vocab.alphabet is not None:
        raise InputError(f"--unknown skip is for networks of text, and {checkpoint.path} was trained on sound.")
    parts: list[NDArray[np.integer[Any]]] = []
    if args.start_file:
        from charrnn.data.corpus import last_symbols

        options = options_of(checkpoint, args)
        table = bytecodec.read_table(args.table) if args.table else None
        if checkpoint.rate is None and args.start_seconds:
            raise InputError(f"--start-seconds is for sound, and {checkpoint.path} was trained on text: omit it.")
        seconds = args.start_seconds or START_SECONDS
        count = START_SYMBOLS if checkpoint.rate is None else max(1, round(seconds * checkpoint.rate))
        parts.append(
            last_symbols(
                args.start_file, checkpoint.vocab, options, count, table, args.encoding, args.quiet, skip_unknown=skip
            )
        )
    if args.start_text and skip:
        from charrnn.data.corpus import ids_skipping_unknown

        parts.extend(ids_skipping_unknown(iter([args.start_text]), "--start-text", checkpoint.vocab, args.quiet))
    elif args.start_text:
        parts.append(checkpoint.vocab.encode(args.start_text))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def read_live_start(file: str, args: Namespace, checkpoint: StoredCheckpoint) -> NDArray[np.integer[Any]]:
    """Return the ids (n,) at the end of a recording, read as a --start-file.

    Raise InputError for standard input and pipes, which could block all later recordings.
    """
    if not os.path.isfile(file):
        raise InputError(f"{printable(file)} is not a file. Give its absolute path, or one relative to {os.getcwd()}.")
    return _start_symbols(Namespace(**vars(args) | {"start_file": file, "start_text": None}), checkpoint)


def open_frames(args: Namespace, file: Path, named: set[str]) -> FrameSampling:
    """Load a frame predictor, and make its streams."""
    from charrnn.frames import model as frame_model
    from charrnn.frames.generate import FrameSampling

    checkpoint = frame_model.load(file)
    if checkpoint.model.config.loss == "mse" and "temperature" in named:
        raise InputError(
            f"{checkpoint.path} was trained with --loss mse and uses no random numbers: omit --temperature."
        )
    _set_threads(args, checkpoint)
    return FrameSampling(checkpoint, _streams(args, checkpoint), args.float)


def _set_threads(args: Namespace, checkpoint: FrameCheckpoint) -> None:
    """Set the number of threads, and compile the layers for them unless --engine is eager."""
    from charrnn.engines.cpu.layer import compile_layers
    from charrnn.engines.cpu.library import UnavailableError

    threads = threads_of(args)
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
            raise InputError("--state-in contains the start of a frame predictor: omit --start-file.")
        streams = load_streams(args.state_in, model)
        _check_streams(args, len(streams))
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


def print_choices(task: SymbolSampling, args: Namespace) -> None:
    """Print the likeliest next symbols, one per line: probability, symbol and meaning."""
    task.restart(args.temperature[0])
    if (task.engine.get_state()[1] == NO_SYMBOL).any():
        log(
            "no symbols were fed to the network, so these are the probabilities of a first symbol: give a --start-text "
            "or --start-file.",
            args.quiet,
        )
    probabilities = task.engine.probabilities(args.temperature[0])[0]
    likeliest = np.argsort(-probabilities, kind="stable")[: args.choices]
    with open_output("-", binary=False) as file:
        for symbol in likeliest.tolist():
            file.write(f"{probabilities[symbol]:<11.6g} {_describe(task.checkpoint, symbol)}\n".encode())
    if args.state_out:
        task.save_state(args.state_out)


def _describe(checkpoint: StoredCheckpoint, symbol: int) -> str:
    """Return a byte with its sample of full scale 1 and character, or a character with its code point."""
    character = checkpoint.vocab.decode(np.array([symbol]))
    if checkpoint.vocab.alphabet is None:
        return f"{character!r} U+{ord(character):04X}"
    sample = int(bytes_to_int16(np.array(symbol, dtype=np.uint8), checkpoint.encoding == "mulaw"))
    return f"{symbol:3d} {sample / 32768:+.5f} {character!r}"
