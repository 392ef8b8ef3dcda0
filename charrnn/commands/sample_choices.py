"""charrnn-sample --choices: the likeliest next symbols, for a user who chooses."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

import numpy as np

from bytecodec import decode_mulaw
from bytecodec.console import Parser, log, wrong_command_line
from bytecodec.files import open_output
from charrnn.engines import NOTHING

if TYPE_CHECKING:
    from charrnn.sampling.task import SymbolSampling
    from charrnn.storage.checkpoint_format import StoredCheckpoint

# Flags of the network, its start and the computation; all others concern sampling.
COMPATIBLE = {
    *("network", "checkpoint", "choices", "temperature", "streams", "engine", "precision", "threads", "quiet"),
    *("start_text", "start_file", "start_seconds", "channel", "table"),
    *("encoding", "unknown", "state_in", "state_out"),
}


def check_choices(p: Parser, args: Namespace, named: set[str]) -> None:
    """Reject the flags that cannot be combined with --choices."""
    if foreign := sorted(named - COMPATIBLE):
        flag = "--" + foreign[0].replace("_", "-")
        wrong_command_line(p, f"--choices K samples nothing, so {flag} has no effect: leave one of them out")
    if len(args.temperature) > 1 or (args.streams or 1) > 1:
        wrong_command_line(p, "--choices K needs one stream and one temperature.")


def print_choices(task: SymbolSampling, args: Namespace) -> None:
    """Print the likeliest next symbols, one per line: probability, symbol and meaning."""
    task.restart(args.temperature[0])
    if (task.engine.get_state()[1] == NOTHING).any():
        log(
            "the network has read nothing, so all symbols have the same probability: give a --start-text or "
            "--start-file.",
            args.quiet,
        )
    probabilities = task.engine.probabilities(args.temperature[0])[0]
    likeliest = np.argsort(-probabilities, kind="stable")[: args.choices]
    with open_output("-", binary=False) as file:
        for symbol in likeliest.tolist():
            file.write(f"{probabilities[symbol]:<11.6g} {_described(task.checkpoint, symbol)}\n".encode())
    if args.state_out:
        task.save_state(args.state_out)


def _described(checkpoint: StoredCheckpoint, symbol: int) -> str:
    """Return a byte with its sample of full scale 1 and character, or a character with its code point."""
    character = checkpoint.vocab.decode(np.array([symbol]))
    if checkpoint.vocab.alphabet is None:
        return f"{character!r} U+{ord(character):04X}"
    if checkpoint.encoding == "mulaw":
        sample = int(decode_mulaw(np.array(symbol, dtype=np.uint8))) / 32768
    else:
        sample = (symbol - 128) / 128
    return f"{symbol:3d} {sample:+.5f} {character!r}"
