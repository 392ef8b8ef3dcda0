"""charrnn-convert: convert torch-rnn networks to checkpoints, and checkpoints to ONNX or to self-contained pages."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bytecodec.console import Parser, command, log, option, print_path
from bytecodec.errors import InputError, printable
from bytecodec.files import open_output, refuse_same_file
from charrnn import runtime
from charrnn.commands import flags
from charrnn.commands.flags import path
from charrnn.engines.cpu.pack import FORMATS
from charrnn.storage import run_dir

if TYPE_CHECKING:
    from charrnn.models.config import ModelConfig
    from charrnn.storage.checkpoint import Checkpoint
    from charrnn.storage.checkpoint_format import StoredCheckpoint

EXAMPLES = """
charrnn-convert cv/checkpoint_100000.t7 voice.safetensors
charrnn-sample voice.safetensors --seconds 27 -o voice.wav
charrnn-convert poems.t7 poems.safetensors --vocab data/poems.json
charrnn-convert runs/voice-001 voice.onnx
charrnn-convert runs/voice-001 voice.html --title "A voice"
"""


def parser() -> Parser:
    p = Parser(
        "charrnn-convert",
        "Convert a torch-rnn network (.t7) to a checkpoint (.safetensors), export one step of a checkpoint's network "
        "for other programs (.onnx), or write a self-contained page that plays a network in a browser (.html).",
        EXAMPLES,
    )
    p.add_argument("input", type=path, metavar="IN", help=".t7 file, or checkpoint or run to convert to .onnx or .html")
    p.add_argument("output", type=path, metavar="OUT", help=".safetensors, .onnx or .html file to write")
    flags.add_checkpoint(p)
    vocab = ".json file that preprocess.py wrote (default: the vocabulary in IN, or IN's .json)"
    option(p, "--vocab FILE", path, vocab)
    option(p, "--rate HZ", flags.RATE, "sampling rate in Hz of the sound that a .t7 was trained on", 11025)
    p.add_argument("--mulaw", action="store_true", help="mark the bytes of a .t7 as G.711 mu-law instead of linear")
    option(p, "--title TEXT", str, "heading of a page (default: name of the run or of the file)")
    p.add_argument(
        "--precision",
        choices=("auto", *FORMATS),
        default="auto",
        help="precision of the weights in a page; auto is int4.5, or int7 or fp32 for small networks, as when sampling",
    )
    return p


@command
def charrnn_convert(argv: Sequence[str] | None = None) -> int:
    """Import or export a network as the command line says, and return the exit code."""
    p = parser()
    args = p.parse_args(argv)
    named = flags.explicit_flags(p, argv)
    target, is_torch7 = Path(args.output).suffix.lower(), Path(args.input).suffix.lower() == ".t7"
    if target not in ((".safetensors",) if is_torch7 else (".onnx", ".html")) or args.input == "-":
        p.error(
            f"{args.input} to {args.output}: IN must end in .t7 and OUT in .safetensors, or IN must be a checkpoint or "
            "a run and OUT end in .onnx or .html.",
        )
    if not is_torch7 and named & {"vocab", "rate", "mulaw"}:
        p.error("--vocab, --rate and --mulaw are for a .t7: a checkpoint contains them.")
    if is_torch7 and "checkpoint" in named:
        p.error("--checkpoint is for a run: omit it with a .t7.")
    if target != ".html" and named & {"title", "precision"}:
        p.error(f"--title and --precision are for an .html page: omit them with {args.output}.")
    refuse_same_file(args.input, args.output)
    runtime.before_torch()
    convert = _from_torch_rnn if is_torch7 else _to_onnx if target == ".onnx" else _to_page
    log(convert(args, named), args.quiet)
    print_path(Path(args.output))
    return 0


def _from_torch_rnn(args: Namespace, named: set[str]) -> str:
    """Convert a torch-rnn network to a checkpoint; return a summary, as the next two functions do."""
    from charrnn.storage import torch_rnn
    from charrnn.storage.checkpoint import save

    checkpoint = torch_rnn.load(args.input, args.vocab, args.rate, args.mulaw)
    if checkpoint.rate is None and named & {"rate", "mulaw"}:
        raise InputError(f"{args.input} was trained on text: omit --rate and --mulaw.")
    save(args.output, checkpoint)
    return _summary(checkpoint, checkpoint.model.config)


def _to_onnx(args: Namespace, _: set[str]) -> str:
    """Convert one step of a checkpoint's network to ONNX."""
    from charrnn.storage import onnx_export

    file = _symbols_checkpoint(args)
    onnx_export.require("onnx")
    from charrnn.engines import arrays
    from charrnn.storage.checkpoint import load

    checkpoint = load(file)
    onnx_export.save(args.output, arrays(checkpoint.model), checkpoint.model.config, checkpoint.metadata())
    return _summary(checkpoint, checkpoint.model.config)


def _to_page(args: Namespace, _: set[str]) -> str:
    """Write a self-contained page that plays the network of a checkpoint."""
    from charrnn.storage.checkpoint_format import load
    from charrnn.viz.run_summary import describe_inputs
    from charrnn.web.page import make_page

    checkpoint = load(_symbols_checkpoint(args))
    run = None if Path(args.input).is_file() else run_dir.find_run(args.input)
    title = args.title or (run.path if run else Path(args.input)).resolve().name
    page = make_page(checkpoint, printable(title), describe_inputs(run.config()) if run else "", args.precision)
    with open_output(args.output) as file:
        file.write(page.encode())
    return f"a page of {len(page) / 1e6:.1f} MB: {_summary(checkpoint, checkpoint.config)}"


def _symbols_checkpoint(args: Namespace) -> Path:
    """Return the checkpoint file to convert, which must be of a network of symbols."""
    from charrnn.storage.checkpoint_format import kind_of

    file = run_dir.checkpoint_path(args.input, args.checkpoint)
    refuse_same_file(str(file), args.output)
    if kind_of(file) == "frames":
        suffix = Path(args.output).suffix.lower()
        raise InputError(f"{file} is a frame predictor, and only networks of symbols can be converted to {suffix}.")
    return file


def _summary(checkpoint: Checkpoint | StoredCheckpoint, config: ModelConfig) -> str:
    """Return the layers, vocabulary and sound of a network."""
    sound = f" at {checkpoint.rate} Hz, {checkpoint.encoding}" if checkpoint.rate else ""
    return (
        f"{config.cell}, {config.layers} layer{'s' * (config.layers > 1)} of {config.rnn_size}, embedding size "
        f"{config.wordvec_size}, after {checkpoint.step:,} iterations; {checkpoint.vocab.describe()}{sound}."
    )


if __name__ == "__main__":
    sys.exit(charrnn_convert())
