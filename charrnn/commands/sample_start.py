"""The symbols that charrnn-sample primes a network with before the first one is drawn."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import bytecodec
from bytecodec.console import Parser, wrong_command_line
from bytecodec.errors import InputError
from charrnn.commands.flags import options_of

if TYPE_CHECKING:
    from charrnn.storage.checkpoint_format import StoredCheckpoint

START_SYMBOLS = 2000  # number of symbols that are read of a --start-file by a network of text


def check_unknown(p: Parser, args: Namespace) -> None:
    """Reject --unknown without a start text or file."""
    if args.unknown == "skip" and not (args.start_text or args.start_file):
        wrong_command_line(p, "--unknown skip needs --start-text or --start-file.")


def start_symbols(args: Namespace, checkpoint: StoredCheckpoint) -> NDArray[np.integer[Any]]:
    """Return the ids (n,) to read: the end of the --start-file, then the --start-text."""
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
    if args.start_text:
        parts.append(_text_symbols(args.start_text, checkpoint, skip, args.quiet))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _text_symbols(text: str, checkpoint: StoredCheckpoint, skip: bool, quiet: bool) -> NDArray[np.integer[Any]]:
    if not skip:
        return checkpoint.vocab.encode(text)
    from charrnn.data.corpus import known_ids

    return np.concatenate(list(known_ids(iter([text]), "--start-text", checkpoint.vocab, quiet)))
