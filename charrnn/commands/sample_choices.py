"""charrnn-sample --choices: the most likely next symbols, for people who choose by hand."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

import numpy as np

from bytecodec import decode_mulaw
from bytecodec.console import Parser, log, wrong_command_line
from bytecodec.files import open_output
from charrnn.engines import NOTHING

if TYPE_CHECKING:
    from charrnn.commands.sample import Job
    from charrnn.storage.checkpoint_format import StoredCheckpoint

# The flags of the network, its start and the computation; all others concern sampled symbols.
GOES_WITH = {
    *("network", "checkpoint", "choices", "temperature", "streams", "engine", "precision", "threads", "quiet"),
    *("start_text", "start_file", "start_seconds", "channel", "table"),
    *("encoding", "unknown", "state_in", "state_out"),
}


def check_choices(p: Parser, args: Namespace, named: set[str]) -> None:
    """Reject the flags that cannot be combined with --choices."""
    if foreign := sorted(named - GOES_WITH):
        flag = "--" + foreign[0].replace("_", "-")
        wrong_command_line(p, f"--choices K samples nothing, so {flag} has no effect: leave one of them out")
    if len(args.temperature) > 1 or (args.streams or 1) > 1:
        wrong_command_line(p, "--choices K takes one stream and one temperature.")


def print_choices(job: Job) -> None:
    """Print the most likely next symbols, one per line: the probability, the symbol and its meaning."""
    job.rewind()
    if (job.engine.get_state()[1] == NOTHING).any():
        log(
            "nothing has been read, so all symbols have the same probability: give a --start-text or --start-file.",
            job.args.quiet,
        )
    probabilities = job.engine.probabilities(job.args.temperature[0])[0]
    likeliest = np.argsort(-probabilities, kind="stable")[: job.args.choices]
    with open_output("-", binary=False) as file:
        for symbol in likeliest.tolist():
            file.write(f"{probabilities[symbol]:<11.6g} {_described(job.checkpoint, symbol)}\n".encode())


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
