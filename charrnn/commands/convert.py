"""charrnn-convert: networks from one program's files to another's."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bytecodec.console import Parser, command, print_path, refuse_same_file, say, wrong_command_line
from bytecodec.errors import InputError
from charrnn import runtime
from charrnn.commands.flags import given, path, whole

if TYPE_CHECKING:
    from charrnn.checkpoint import Checkpoint

EXAMPLES = """
charrnn-convert cv/checkpoint_100000.t7 voice.safetensors
charrnn-sample voice.safetensors --seconds 27 -o voice.wav
charrnn-convert poems.t7 poems.safetensors --vocab data/poems.json
"""


def parser() -> Parser:
    """The command line of charrnn-convert."""
    p = Parser(
        "charrnn-convert",
        "Convert a network that torch-rnn trained (.t7) to a checkpoint (.safetensors), to sample from it and to go on "
        "training with charrnn-train --init-from.",
        EXAMPLES,
    )
    p.add_argument("input", type=path, metavar="IN", help="torch-rnn's checkpoint, a .t7")
    p.add_argument("output", type=path, metavar="OUT", help="a .safetensors; what is there is replaced")
    p.add_argument(
        "--vocab", type=path, metavar="FILE", help="the .json of preprocess.py (default: IN holds it, or IN's .json)"
    )
    p.add_argument(
        "--rate", type=whole(1000, 768000), default=11025, help="samples a second of sound that it was trained on"
    )
    p.add_argument("--mulaw", action="store_true", help="its bytes are G.711 mu-law instead of linear")
    return p


@command
def charrnn_convert(argv: Sequence[str] | None = None) -> int:
    """Run charrnn-convert; returns the exit code."""
    p = parser()
    args = p.parse_args(argv)
    kinds = tuple(Path(name).suffix.lower() for name in (args.input, args.output))
    if kinds != (".t7", ".safetensors"):
        wrong_command_line(p, f"{args.input} to {args.output}: IN has to end in .t7, and OUT in .safetensors.")
    refuse_same_file(args.input, args.output)
    runtime.before_torch()
    from charrnn import torch_rnn
    from charrnn.checkpoint import save

    checkpoint = torch_rnn.load(args.input, args.vocab, args.rate, args.mulaw)
    named = given(p, argv)
    if checkpoint.rate is None and named & {"rate", "mulaw"}:
        raise InputError(f"{args.input} was trained on text, which --rate and --mulaw say nothing of: leave them out.")
    save(args.output, checkpoint)
    _say_what_it_is(checkpoint, args)
    print_path(Path(args.output))
    return 0


def _say_what_it_is(checkpoint: Checkpoint, args: Namespace) -> None:
    config = checkpoint.model.config
    sound = f" at {checkpoint.rate} Hz, {checkpoint.encoding}" if checkpoint.rate else ""
    say(
        f"{config.cell}, {config.layers} layer{'s' * (config.layers > 1)} of {config.rnn_size}, embeddings of "
        f"{config.wordvec_size}, after {checkpoint.step:,} iterations; {checkpoint.vocab.describe()}{sound}.",
        args.quiet,
    )


if __name__ == "__main__":
    sys.exit(charrnn_convert())
