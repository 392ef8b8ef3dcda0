"""The command line of charrnn-train: its flags, their defaults, and which of them can be combined."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from bytecodec.channels import MIX, parse_channel
from bytecodec.console import Parser, wrong_command_line
from charrnn import runtime
from charrnn.commands import frames_flags
from charrnn.commands.flags import encoding, number, number_or, numbers, path, whole
from charrnn.data.recordings import NORMALIZE_OVER
from charrnn.training.recipe import DEFAULT_RECIPE, GPU_LAYERS, RECIPES, Settings

CELLS = ("lstm", "lstmp", "lstmor", "gru", "rnn")  # those of charrnn.models.cells, which imports torch
WITHOUT_FORGET_GATES = ("gru", "rnn")
LENGTH_FLAGS = ("max_epochs", "max_iterations", "max_minutes")
FLAGS_BESIDE_RESUME = {"resume", "device", "print_every", "quiet", *LENGTH_FLAGS}
DEFAULT_EPOCHS = 50
EXAMPLES = """
wav2utf8 in.wav out.txt && charrnn-train out.txt --rnn-size 680 --layers 3
charrnn-train voice.flac --rnn-size 256 --layers 2 --max-minutes 30
charrnn-train recordings/ --run-dir runs/choir
charrnn-train --resume runs/choir --max-epochs 80
charrnn-train voice.flac --frames --loss gaussian --max-minutes 30
torchrun --standalone --nproc-per-node 2 -m charrnn.commands.train voice.flac     on two processes or GPUs
"""

Add = Callable[..., Any]  # add_argument of a group


def parser() -> Parser:
    """Return the parser of charrnn-train."""
    p = Parser("charrnn-train", "Train a character network on texts or recordings.", EXAMPLES)
    p.add_argument(
        "input",
        nargs="*",
        type=path,
        metavar="INPUT",
        help="texts, recordings or folders of them, in the order given; - is standard input",
    )
    data = p.add_argument_group("data").add_argument
    _add_recordings(data)
    _add_texts(data)
    _add_batches(data)
    _add_network(p.add_argument_group("network").add_argument)
    frames_flags.add(p)
    learning = p.add_argument_group("learning").add_argument
    _add_learning(learning)
    _add_length(learning)
    run = p.add_argument_group("run").add_argument
    _add_run(run)
    _add_hardware(run)
    return p


def _add_recordings(add: Add) -> None:
    add(
        "--rate",
        type=whole(1000, 768000),
        default=11025,
        metavar="HZ",
        help="sampling rate in Hz to which recordings are converted",
    )
    add(
        "--channel",
        type=parse_channel,
        default=MIX,
        metavar="N",
        help="channel of recordings: left, right or a number from 1, or mix for the mean of all channels",
    )
    add(
        "--remove-dc",
        action="store_true",
        help="subtract the mean of each recording before --normalize measures its peak",
    )
    add("--normalize", action="store_true", help="amplify recordings so that their peak reaches full scale")
    add(
        "--normalize-over",
        choices=NORMALIZE_OVER,
        default="files",
        help="whether --normalize gives each recording its own gain (files), which suits recordings made at different "
        "levels but amplifies pauses to noise, or the same gain to all (set)",
    )
    add(
        "--gain",
        type=number(-200, 200),
        default=0.0,
        metavar="DB",
        help="gain of recordings in decibels; with --normalize, relative to full scale",
    )
    add("--mulaw", action="store_true", help="convert recordings to G.711 mu-law bytes instead of linear ones")


def _add_texts(add: Add) -> None:
    add(
        "--encoding", type=encoding, default="utf-8", metavar="NAME", help="encoding of texts without a byte order mark"
    )
    add("--skip-unreadable", action="store_true", help="skip files that cannot be read, and list them")
    add(
        "--table",
        type=path,
        metavar="FILE",
        help="table of texts that BinToUTF8 wrote; each line has a byte, such as 65 or 0x41, and its character",
    )


def _add_batches(add: Add) -> None:
    add("--val-frac", type=number(0, 1), default=0.1, metavar="F", help="fraction of the symbols for validation")
    add("--test-frac", type=number(0, 1), default=0.1, metavar="F", help="fraction of the symbols for the test part")
    add("--batch-size", type=whole(1), metavar="N", help="number of rows in a batch" + _defaults("batch_size"))
    add(
        "--seq-length",
        type=whole(1),
        metavar="T",
        help="number of symbols per row of a batch" + _defaults("seq_length"),
    )


def _add_network(add: Add) -> None:
    add("--cell", choices=CELLS, default="lstm", help="kind of the recurrent layers")
    add("--rnn-size", type=whole(1, 10**6), default=680, metavar="H", help="number of units per layer")
    add(
        "--proj-size",
        type=whole(1, 10**6),
        metavar="P",
        help="number of outputs of the projection of an lstmp layer (default: H // 2)",
    )
    add("--layers", "--num-layers", type=whole(1, 1000), default=3, metavar="L", help="number of recurrent layers")
    add("--wordvec-size", type=whole(1, 10**6), default=110, metavar="D", help="size of the embedding of a symbol")
    add(
        "--forget-bias",
        type=number_or("uniform", -1e6),
        default=1.0,
        metavar="B",
        help="initial bias of the forget gates, or uniform to draw it from U(0, 1) for each unit",
    )
    add(
        "--dropout",
        type=number(0, 0.999),
        default=0.0,
        metavar="P",
        help="fraction of the outputs of each layer that is dropped in training",
    )


def _add_learning(add: Add) -> None:
    add(
        "--recipe",
        choices=tuple(RECIPES),
        default=DEFAULT_RECIPE,
        help="named set of training settings (docs/explanation/models.md)",
    )
    add(
        "--learning-rate",
        type=number(0, above=True),
        metavar="R",
        help="maximum learning rate of Adam" + _defaults("learning_rate"),
    )
    add(
        "--lr-decay-every",
        type=whole(1),
        metavar="EPOCHS",
        help="number of epochs after which --recipe torch-rnn lowers the learning rate (default: 5)",
    )
    add(
        "--lr-decay-factor",
        type=number(0, 1, True),
        metavar="F",
        help="factor by which --recipe torch-rnn multiplies the learning rate (default: 0.5)",
    )
    add(
        "--grad-clip",
        type=number(0),
        metavar="G",
        help="limit of the norm of the gradient, or with --recipe torch-rnn of each element; 0 for none"
        + _defaults("grad_clip"),
    )


def _add_length(add: Add) -> None:
    add(
        "--max-epochs",
        type=number(0, above=True),
        metavar="E",
        help="stop after E epochs (default: 50, unless another limit is given)",
    )
    add("--max-iterations", type=whole(1), metavar="N", help="stop after N iterations")
    add("--max-minutes", type=number(0, above=True), metavar="M", help="stop after M minutes of training")
    add(
        "--early-stop",
        type=whole(0),
        default=0,
        metavar="N",
        help="stop after N validations without a new lowest loss; 0 for never",
    )
    add(
        "--seed",
        type=whole(0, 2**31 - 1),
        default=0,
        metavar="N",
        help="seed of all random numbers: initial weights, dropout and samples",
    )


def _add_run(add: Add) -> None:
    add("--run-dir", type=path, metavar="DIR", help="new folder for the run (default: runs/INPUT-001, counting up)")
    add("--checkpoint-every", type=whole(1), default=1000, metavar="N", help="number of iterations between checkpoints")
    add(
        "--keep",
        type=whole(0),
        default=0,
        metavar="N",
        help="number of newest checkpoints to keep besides the best one; 0 for all",
    )
    add(
        "--sample-seconds",
        type=number(0),
        default=0.0,
        metavar="S",
        help="seconds of sound to sample at each checkpoint into RUN/samples; 0 for none",
    )
    add(
        "--temperature",
        type=numbers(0),
        metavar="LIST",
        help="temperatures for --sample-seconds, such as 0.8,1 (default: 1)",
    )
    add(
        "--tensorboard",
        action="store_true",
        help="write losses, learning rate, gradient norm and samples to RUN/tensorboard for TensorBoard",
    )
    add(
        "--print-every",
        type=whole(1),
        default=0,
        metavar="N",
        help="print a line every N iterations; 0 for every ten seconds unless a bar is shown",
    )
    add("--resume", type=path, metavar="RUN", help="resume a run; only a new limit and --device can be given with it")
    add("--init-from", type=path, metavar="CHECKPOINT", help="start from the weights of another network")


def _add_hardware(add: Add) -> None:
    add(
        "--device",
        choices=runtime.DEVICES,
        default="auto",
        help="device to train on; auto is a GPU if there is one that can train, else the CPU",
    )
    add(
        "--precision",
        choices=runtime.PRECISIONS,
        default="auto",
        help="precision of matrix products; auto is bf16 if the hardware multiplies it, else fp32",
    )
    add(
        "--gpu-layers",
        choices=("auto", *GPU_LAYERS),
        default="auto",
        help="backend for recurrent layers on an NVIDIA GPU (docs/guide/gpu.md); auto is kernel where it can be used",
    )
    add(
        "--threads",
        type=whole(0, runtime.MAX_THREADS),
        default=None,
        metavar="N",
        help="number of CPU threads; 0 for one per core (default: CHARRNN_THREADS, or 0)",
    )


def _defaults(name: str) -> str:
    """Return the default of a setting for --help, per recipe if recipes differ."""
    values = {recipe: getattr(Settings(**fields), name) for recipe, fields in RECIPES.items()}
    if len(set(values.values())) == 1:
        return f" (default: {values[DEFAULT_RECIPE]:g})"
    return f" (default: {', '.join(f'{recipe} {value:g}' for recipe, value in values.items())})"


def check(p: Parser, args: Namespace, named: set[str]) -> None:
    """Reject flags that are wrong whatever the files contain, and fill in defaults that depend on other flags.

    Parameters
    ----------
    named
        The names of the flags that are given.
    """
    if args.resume:
        foreign = sorted(named - FLAGS_BESIDE_RESUME)
        if foreign:
            names = ", ".join("INPUT" if name == "input" else _flag(name) for name in foreign)
            wrong_command_line(p, f"--resume keeps what the run was created with, so {names} cannot be given.")
    frames_flags.settle(p, args, named)
    if args.input.count("-") > 1:
        wrong_command_line(p, "- is standard input, which can be read only once: name it once.")
    if "normalize_over" in named and not args.normalize:
        wrong_command_line(p, "--normalize-over needs --normalize.")
    if args.val_frac + args.test_frac >= 1:
        wrong_command_line(
            p, f"--val-frac {args.val_frac:g} and --test-frac {args.test_frac:g} leave nothing to train on."
        )
    if args.recipe != "torch-rnn" and (foreign := sorted(named & {"lr_decay_every", "lr_decay_factor"})):
        wrong_command_line(
            p, f"{_flag(foreign[0])} needs --recipe torch-rnn: with {args.recipe}, the rate falls until the end."
        )
    if "temperature" in named and not args.sample_seconds:
        wrong_command_line(p, "--temperature needs --sample-seconds.")
    if args.max_epochs is None and args.max_iterations is None and args.max_minutes is None and not args.resume:
        args.max_epochs = DEFAULT_EPOCHS
    if not args.init_from or "cell" in named:  # otherwise the cell is known when the file is read
        _check_network(p, args, named)


def _check_network(p: Parser, args: Namespace, named: set[str]) -> None:
    """Reject flags that the cell does not have."""
    if args.cell == "lstmp":
        size = args.rnn_size // 2 if args.proj_size is None else args.proj_size
        if not 1 <= size < args.rnn_size and not args.init_from:
            wrong_command_line(
                p, f"--cell lstmp projects --rnn-size {args.rnn_size} to fewer, and --proj-size is {size}."
            )
    elif "proj_size" in named:
        wrong_command_line(p, f"--proj-size is for --cell lstmp: {args.cell} has no projection.")
    if args.cell in WITHOUT_FORGET_GATES and "forget_bias" in named:
        wrong_command_line(p, f"{args.cell} has no forget gates: leave --forget-bias out.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
