"""The command line of charrnn-train: its flags, their defaults, and which of them go together."""

from __future__ import annotations

from argparse import Namespace

from bytecodec.channels import MIX, parse_channel
from bytecodec.console import Parser, wrong_command_line
from charrnn import runtime
from charrnn.commands import frames_flags
from charrnn.commands.flags import encoding, number, number_or, numbers, path, whole
from charrnn.recipe import DEFAULT_RECIPE, GPU_LAYERS, RECIPES, Settings
from charrnn.recordings import NORMALIZE_OVER, SoundOptions

CELLS = ("lstm", "lstmp", "lstmor", "gru", "rnn")  # charrnn.cells has them too, but loads torch
WITHOUT_FORGET_GATES = ("gru", "rnn")
MODEL_FLAGS = ("cell", "rnn_size", "proj_size", "layers", "wordvec_size", "forget_bias", "dropout")
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


def parser() -> Parser:
    """The command line of charrnn-train."""
    p = Parser("charrnn-train", "Train a character network on texts or recordings.", EXAMPLES)
    p.add_argument(
        "input",
        nargs="*",
        type=path,
        metavar="INPUT",
        help="texts or recordings, or folders of them, laid end to end; - is standard input",
    )
    data = p.add_argument_group("data")
    data.add_argument("--rate", type=whole(1000, 768000), default=11025, help="samples a second that recordings become")
    data.add_argument(
        "--channel",
        type=parse_channel,
        default=MIX,
        metavar="N",
        help="take one channel of recordings: left, right, or a number from 1; mix is the mean of all channels",
    )
    data.add_argument(
        "--remove-dc", action="store_true", help="subtract each recording's mean, before --normalize measures its peak"
    )
    data.add_argument("--normalize", action="store_true", help="bring the peak of recordings to full scale")
    data.add_argument(
        "--normalize-over",
        choices=NORMALIZE_OVER,
        default="files",
        help="what --normalize measures the peak of: files gives each recording a gain of its own, which suits "
        "recordings made at different levels, but turns one of silence into one of noise; set gives all of them one",
    )
    data.add_argument("--gain", type=number(-200, 200), default=0.0, metavar="DB", help="make recordings louder")
    data.add_argument("--mulaw", action="store_true", help="bytes are G.711 mu-law instead of linear")
    data.add_argument(
        "--encoding", type=encoding, default="utf-8", metavar="NAME", help="encoding of texts without a byte order mark"
    )
    data.add_argument(
        "--skip-unreadable", action="store_true", help="leave out files that cannot be read, and list them"
    )
    data.add_argument(
        "--table",
        type=path,
        metavar="FILE",
        help="read texts of BinToUTF8 by their table: in each line a byte, such as 65 or 0x41, and its character",
    )
    data.add_argument("--val-frac", type=number(0, 1), default=0.1, help="part of the symbols to validate with")
    data.add_argument("--test-frac", type=number(0, 1), default=0.1, help="part of the symbols to leave alone")
    data.add_argument("--batch-size", type=whole(1), metavar="N", help="rows of a batch" + _defaults("batch_size"))
    data.add_argument("--seq-length", type=whole(1), metavar="T", help="steps of a batch" + _defaults("seq_length"))
    model = p.add_argument_group("network")
    model.add_argument("--cell", choices=CELLS, default="lstm", help="kind of recurrent layer")
    model.add_argument("--rnn-size", type=whole(1, 10**6), default=680, metavar="H", help="units of a layer")
    model.add_argument(
        "--proj-size", type=whole(1, 10**6), metavar="P", help="units of an lstmp layer's projection (default: H // 2)"
    )
    model.add_argument("--layers", "--num-layers", type=whole(1, 1000), default=3, metavar="L", help="recurrent layers")
    model.add_argument("--wordvec-size", type=whole(1, 10**6), default=110, metavar="D", help="numbers in an embedding")
    model.add_argument(
        "--forget-bias",
        type=number_or("uniform", -1e6),
        default=1.0,
        metavar="B",
        help="initial forget gates' bias, or uniform: of each unit its own from U(0, 1)",
    )
    model.add_argument("--dropout", type=number(0, 0.999), default=0.0, metavar="P", help="outputs of layers to drop")
    frames_flags.add(p)
    learn = p.add_argument_group("learning")
    learn.add_argument("--recipe", choices=tuple(RECIPES), default=DEFAULT_RECIPE, help="how to learn (docs/model.md)")
    learn.add_argument(
        "--learning-rate",
        type=number(0, above=True),
        metavar="R",
        help="of Adam, at its highest" + _defaults("learning_rate"),
    )
    learn.add_argument(
        "--lr-decay-every",
        type=whole(1),
        metavar="EPOCHS",
        help="when to lower it, with torch-rnn's recipe (default: 5)",
    )
    learn.add_argument(
        "--lr-decay-factor", type=number(0, 1, True), metavar="F", help="by which factor, likewise (default: 0.5)"
    )
    learn.add_argument(
        "--grad-clip",
        type=number(0),
        metavar="G",
        help="limit of the gradient's norm, with torch-rnn's recipe of its elements; 0: none" + _defaults("grad_clip"),
    )
    learn.add_argument(
        "--max-epochs", type=number(0, above=True), metavar="E", help="length (default: 50, if no other)"
    )
    learn.add_argument("--max-iterations", type=whole(1), metavar="N", help="length in batches")
    learn.add_argument("--max-minutes", type=number(0, above=True), metavar="M", help="length by the clock")
    learn.add_argument(
        "--early-stop", type=whole(0), default=0, metavar="N", help="end after N validations without a best; 0: never"
    )
    learn.add_argument("--seed", type=whole(0, 2**31 - 1), default=0, help="of all that is random")
    run = p.add_argument_group("run")
    run.add_argument("--run-dir", type=path, metavar="DIR", help="a new folder (default: runs/INPUT-001, counting up)")
    run.add_argument(
        "--checkpoint-every", type=whole(1), default=1000, metavar="N", help="iterations between checkpoints"
    )
    run.add_argument(
        "--keep", type=whole(0), default=0, metavar="N", help="checkpoints to keep beside the best; 0: all"
    )
    run.add_argument(
        "--sample-seconds",
        type=number(0),
        default=0.0,
        metavar="S",
        help="sound to sample at each checkpoint, to RUN/samples; 0: none",
    )
    run.add_argument(
        "--temperature",
        type=numbers(0),
        metavar="LIST",
        help="of --sample-seconds, such as 0.8,1 (default: 1)",
    )
    run.add_argument(
        "--tensorboard",
        action="store_true",
        help="write losses, learning rate, gradient norm and samples to RUN/tensorboard, for TensorBoard to show",
    )
    run.add_argument("--print-every", type=whole(1), default=0, metavar="N", help="print a line every N iterations")
    run.add_argument(
        "--resume", type=path, metavar="RUN", help="go on with a run; takes only a new length and --device beside it"
    )
    run.add_argument("--init-from", type=path, metavar="CHECKPOINT", help="begin with the weights of another network")
    run.add_argument("--device", choices=runtime.DEVICES, default="auto", help="where to compute")
    run.add_argument("--precision", choices=runtime.PRECISIONS, default="auto", help="of matrix products")
    run.add_argument(
        "--gpu-layers",
        choices=("auto", *GPU_LAYERS),
        default="auto",
        help="how an NVIDIA GPU computes the layers (docs/model.md); auto: as was measured to be the fastest",
    )
    run.add_argument(
        "--threads",
        type=whole(0, runtime.MOST_THREADS),
        default=None,
        metavar="N",
        help="on a CPU; 0: a core each (default: CHARRNN_THREADS, or 0)",
    )
    return p


def _defaults(name: str) -> str:
    """What --help says of a default that hangs on the recipe."""
    values = {recipe: getattr(Settings(**fields), name) for recipe, fields in RECIPES.items()}
    if len(set(values.values())) == 1:
        return f" (default: {values[DEFAULT_RECIPE]:g})"
    return f" (default: {', '.join(f'{recipe} {value:g}' for recipe, value in values.items())})"


def sound_options(args: Namespace, rate: int) -> SoundOptions:
    """Return what the flags of charrnn-train say."""
    return SoundOptions(
        rate=rate,
        channel=args.channel,
        remove_dc=args.remove_dc,
        normalize=args.normalize,
        normalize_over=args.normalize_over,
        gain_db=args.gain,
        mulaw=args.mulaw,
    )


def check(p: Parser, args: Namespace, named: set[str]) -> None:
    """Refuse what is wrong whatever the files hold."""
    if args.resume:
        foreign = sorted(named - FLAGS_BESIDE_RESUME)
        if foreign:
            names = ", ".join("INPUT" if name == "input" else "--" + name.replace("_", "-") for name in foreign)
            wrong_command_line(p, f"--resume goes on with what the run was started with, so {names} cannot be given.")
    frames_flags.settle(p, args, named)
    if args.input.count("-") > 1:
        wrong_command_line(p, "- is standard input, which can be read once: name it once.")
    if "normalize_over" in named and not args.normalize:
        wrong_command_line(p, "--normalize-over goes with --normalize.")
    if args.val_frac + args.test_frac >= 1:
        wrong_command_line(
            p, f"--val-frac {args.val_frac:g} and --test-frac {args.test_frac:g} leave nothing to train on."
        )
    if args.recipe != "torch-rnn" and (foreign := sorted(named & {"lr_decay_every", "lr_decay_factor"})):
        flag = "--" + foreign[0].replace("_", "-")
        wrong_command_line(p, f"{flag} goes with --recipe torch-rnn: in {args.recipe}, the rate falls to the end.")
    if "temperature" in named and not args.sample_seconds:
        wrong_command_line(p, "--temperature goes with --sample-seconds.")
    if args.max_epochs is None and args.max_iterations is None and args.max_minutes is None and not args.resume:
        args.max_epochs = DEFAULT_EPOCHS
    if not args.init_from or "cell" in named:  # else the cell is that of the file, which is compared once it is read
        _check_network(p, args, named)


def _check_network(p: Parser, args: Namespace, named: set[str]) -> None:
    """Refuse flags that do not go with the cell."""
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
