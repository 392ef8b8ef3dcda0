"""charrnn-sample for networks of symbols: checks of flags, start symbols and engine."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import bytecodec
from bytecodec.console import Parser, wrong_command_line
from bytecodec.errors import InputError
from charrnn import runtime
from charrnn.commands.flags import options_of
from charrnn.commands.sample_choices import check_choices
from charrnn.storage import run_dir

if TYPE_CHECKING:
    from charrnn.sampling.task import SymbolSampling
    from charrnn.storage.checkpoint_format import StoredCheckpoint, Streams

START_SYMBOLS = 2000  # read at the end of a --start-file by a network of text
CHUNK = 256  # symbols per piece: how often Ctrl-C is noticed, and the delay of a listener
GPU_CHUNK = 2048  # the same on a GPU, which is faster, and idle between two pieces


def check(p: Parser, args: Namespace, named: set[str]) -> None:
    """Reject flags that do not apply to a network of symbols."""
    if args.choices:
        check_choices(p, args, named)
    if args.float:
        wrong_command_line(p, "--float is for frame predictors: a network of symbols writes bytes.")
    if args.table and not args.start_file:
        wrong_command_line(p, "--table is for reading a --start-file: name one.")
    if args.unknown == "skip" and not (args.start_text or args.start_file):
        wrong_command_line(p, "--unknown skip needs --start-text or --start-file.")
    if args.join == "reset" and not args.segments:
        wrong_command_line(p, "--join reset needs --segments K.")


def open_task(args: Namespace, named: set[str]) -> SymbolSampling:
    """Load the network into an engine."""
    from charrnn.engines import engine
    from charrnn.sampling.task import SymbolSampling
    from charrnn.storage.checkpoint_format import load, load_streams

    checkpoint = load(run_dir.checkpoint_path(args.network, args.checkpoint))
    saved = load_streams(args.state_in, checkpoint.config) if args.state_in else None
    if saved:
        _check_streams(args, saved)
    threads = runtime.default_threads() if args.threads is None else args.threads
    return SymbolSampling(
        checkpoint,
        engine(checkpoint, args.engine, args.streams or 1, args.precision, threads),
        _start_symbols(args, checkpoint),
        saved,
        args.seed,
        args.join,
        GPU_CHUNK if args.engine == "cuda" else CHUNK,
    )


def _check_streams(args: Namespace, saved: Streams) -> None:
    count = len(saved.last)
    if count == (args.streams or 1):
        return
    if args.choices:
        raise InputError(f"{args.state_in} holds {count} streams, and --choices needs a state of one stream.")
    raise InputError(f"{args.state_in} holds {count} stream{'s' * (count > 1)}: continue with --streams {count}.")


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
        count = START_SYMBOLS if checkpoint.rate is None else max(1, round(args.start_seconds * checkpoint.rate))
        parts.append(
            last_symbols(
                args.start_file, checkpoint.vocab, options, count, table, args.encoding, args.quiet, skip_unknown=skip
            )
        )
    if args.start_text and skip:
        from charrnn.data.corpus import known_ids

        parts.extend(known_ids(iter([args.start_text]), "--start-text", checkpoint.vocab, args.quiet))
    elif args.start_text:
        parts.append(checkpoint.vocab.encode(args.start_text))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
