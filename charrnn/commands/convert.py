"""charrnn-convert: convert torch-rnn networks to checkpoints, and checkpoints to ONNX."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bytecodec.console import Parser, command, log, option, print_path
from bytecodec.errors import InputError
from bytecodec.files import refuse_same_file
from charrnn import runtime
from charrnn.commands import flags
from charrnn.commands.flags import path
from charrnn.storage import run_dir

if TYPE_CHECKING:
    from charrnn.storage.checkpoint import Checkpoint

EXAMPLES = """
charrnn-convert cv/checkpoint_100000.t7 voice.safetensors
charrnn-sample voice.safetensors --seconds 27 -o voice.wav
charrnn-convert poems.t7 poems.safetensors --vocab data/poems.json
charrnn-convert runs/voice-001 voice.onnx
"""


def parser() -> Parser:
    p = Parser(
        "charrnn-convert",
        "Convert a torch-rnn network (.t7) to a checkpoint (.safetensors), or export one step of a checkpoint's "
        "network for other programs (.onnx).",
        EXAMPLES,
    )
    p.add_argument("input", type=path, metavar="IN", help=".t7 file, or checkpoint or run to convert to .onnx")
    p.add_argument("output", type=path, metavar="OUT", help=".safetensors or .onnx file to write")
    flags.add_checkpoint(p)
    vocab = ".json file that preprocess.py wrote (default: the vocabulary in IN, or IN's .json)"
    option(p, "--vocab FILE", path, vocab)
    option(p, "--rate HZ", flags.RATE, "sampling rate in Hz of the sound that a .t7 was trained on", 11025)
    p.add_argument("--mulaw", action="store_true", help="mark the bytes of a .t7 as G.711 mu-law instead of linear")
    return p


@command
def charrnn_convert(argv: Sequence[str] | None = None) -> int:
    """Import or export a network as the command line says, and return the exit code."""
    p = parser()
    args = p.parse_args(argv)
    named = flags.explicit_flags(p, argv)
    kinds = tuple(Path(name).suffix.lower() for name in (args.input, args.output))
    to_onnx = kinds[1] == ".onnx" and kinds[0] != ".t7" and args.input != "-"
    if not to_onnx and kinds != (".t7", ".safetensors"):
        p.error(
            f"{args.input} to {args.output}: IN must end in .t7 and OUT in .safetensors, "
            "or IN must be a checkpoint or a run and OUT end in .onnx.",
        )
    if to_onnx and named & {"vocab", "rate", "mulaw"}:
        p.error("--vocab, --rate and --mulaw are for a .t7: a checkpoint contains them.")
    if not to_onnx and "checkpoint" in named:
        p.error("--checkpoint is for a run: omit it with a .t7.")
    refuse_same_file(args.input, args.output)
    runtime.before_torch()
    log(_summary(_to_onnx(args) if to_onnx else _from_torch_rnn(args, named)), args.quiet)
    print_path(Path(args.output))
    return 0


def _from_torch_rnn(args: Namespace, named: set[str]) -> Checkpoint:
    """Convert a torch-rnn network to a checkpoint."""
    from charrnn.storage import torch_rnn
    from charrnn.storage.checkpoint import save

    checkpoint = torch_rnn.load(args.input, args.vocab, args.rate, args.mulaw)
    if checkpoint.rate is None and named & {"rate", "mulaw"}:
        raise InputError(f"{args.input} was trained on text: omit --rate and --mulaw.")
    save(args.output, checkpoint)
    return checkpoint


def _to_onnx(args: Namespace) -> Checkpoint:
    """Convert one step of a checkpoint's network to ONNX."""
    from charrnn.storage import onnx_export
    from charrnn.storage.checkpoint_format import kind_of

    file = run_dir.checkpoint_path(args.input, args.checkpoint)
    if kind_of(file) == "frames":
        raise InputError(f"{file} is a frame predictor, and only networks of symbols can be converted to .onnx.")
    onnx_export.require("onnx")
    from charrnn.engines import arrays
    from charrnn.storage.checkpoint import load

    checkpoint = load(file)
    onnx_export.save(args.output, arrays(checkpoint.model), checkpoint.model.config, checkpoint.metadata())
    return checkpoint


def _summary(checkpoint: Checkpoint) -> str:
    """Return the layers, vocabulary and sound of a network."""
    config = checkpoint.model.config
    sound = f" at {checkpoint.rate} Hz, {checkpoint.encoding}" if checkpoint.rate else ""
    return (
        f"{config.cell}, {config.layers} layer{'s' * (config.layers > 1)} of {config.rnn_size}, embedding size "
        f"{config.wordvec_size}, after {checkpoint.step:,} iterations; {checkpoint.vocab.describe()}{sound}."
    )


if __name__ == "__main__":
    sys.exit(charrnn_convert())
