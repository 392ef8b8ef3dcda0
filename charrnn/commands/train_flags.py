"""The command line of charrnn-train: its flags, their defaults, and which of them can be combined."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace, _ArgumentGroup
from typing import Any

from bytecodec.channels import MIX, parse_channel
from bytecodec.console import Parser, number, option, whole
from charrnn import runtime
from charrnn.commands import flags
from charrnn.commands.flags import flag_of, numbers, path
from charrnn.data.recordings import NORMALIZE_OVER
from charrnn.models.config import CELLS, MAX_CONTEXT, MAX_NOISE, PREDICTIONS, WITHOUT_FORGET_GATES
from charrnn.training.recipe import DEFAULT_RECIPE, GPU_LAYERS, RECIPES, SAMPLES, Settings

FRAME_LOSSES = ("mse", "gaussian")  # those of charrnn.frames.model, which imports torch
LENGTH_FLAGS = ("max_epochs", "max_iterations", "max_minutes")
FLAGS_WITH_RESUME = {"resume", "device", "print_every", "quiet", *LENGTH_FLAGS}
WITH_RESUME = "only --max-epochs, --max-iterations, --max-minutes, --device, --print-every and -q can be changed"
FRAME_FLAGS = ("frame_taps", "loss")
SYMBOL_FLAGS = ("mulaw", "wordvec_size", "encoding", "table", *SAMPLES[DEFAULT_RECIPE])
DEFAULT_EPOCHS = 50
FRAME_DEFAULTS: dict[str, Any] = {  # defaults that differ from those of a character network
    "rate": 16000,
    "rnn_size": 300,
    "layers": 2,
    "forget_bias": "uniform",
    "seq_length": 100,
    "frame_taps": 40,
    "loss": "mse",
    "precision": "fp32",
}
PRESETS: dict[str, dict[str, Any]] = {  # with the batches of recipe modern, 25 and 90 million symbols
    "quick": {"rnn_size": 256, "layers": 2, "wordvec_size": 64, "max_iterations": 5000},
    "long": {"rnn_size": 384, "layers": 2, "wordvec_size": 64, "max_iterations": 18000},
}
FRAME_PRESETS: dict[str, dict[str, Any]] = {  # from docs/explanation/frame-predictor.md, except for the batches
    "day12": {
        "cell": "lstm",
        "rnn_size": 300,
        "layers": 2,
        "frame_taps": 40,
        "seq_length": 40000,
        "batch_size": 4,
        "learning_rate": 2e-3,
        "max_epochs": 128.0,
    },
    "finale": {"cell": "lstmp", "rnn_size": 512, "layers": 1, "frame_taps": 240, "seq_length": 4000, "batch_size": 32},
}
EXAMPLES = """
wav2utf8 in.wav out.txt && charrnn-train out.txt --rnn-size 680 --layers 3
charrnn-train voice.flac --preset quick
charrnn-train voice.flac --rnn-size 256 --layers 2 --max-minutes 30
charrnn-train recordings/ --run-dir runs/choir
charrnn-train --resume runs/choir --max-epochs 80
charrnn-train voice.flac --frames --loss gaussian --max-minutes 30
torchrun --standalone --nproc-per-node 2 -m charrnn.commands.train voice.flac
"""
INPUT = "texts, recordings or folders of them; - is standard input (default: the demo recording, data/voice.wav)"
PRESET = (
    "named set of sizes and length: quick (2 layers of 256, embeddings of 64, 5,000 iterations: about ten minutes on "
    "two cores) or long (2 layers of 384, embeddings of 64, 18,000 iterations: about an hour and a half); with "
    "--frames, day12 or finale, two experiments of a course blog of 2016"
)
SIZE = whole(1, 10**6)


def parser() -> Parser:
    p = Parser("charrnn-train", "Train a character network on texts or recordings.", EXAMPLES)
    p.add_argument("input", nargs="*", type=path, metavar="INPUT", help=INPUT)
    p.add_argument("--preset", choices=(*PRESETS, *FRAME_PRESETS), help=PRESET)
    _add_data(p.add_argument_group("data"))
    _add_network(p.add_argument_group("network"))
    _add_frames(p.add_argument_group("frame predictor (docs/explanation/frame-predictor.md)"))
    _add_learning(p.add_argument_group("learning"))
    _add_run(p.add_argument_group("run"))
    return p


def _add_data(g: _ArgumentGroup) -> None:
    option(g, "--rate HZ", flags.RATE, "sampling rate in Hz to which recordings are converted", 11025)
    option(g, "--channel N", parse_channel, f"channel of recordings: {flags.CHANNEL}", MIX)
    g.add_argument("--remove-dc", action="store_true", help="subtract the mean of each recording before --normalize")
    g.add_argument("--normalize", action="store_true", help="amplify recordings so that their peak reaches full scale")
    g.add_argument(
        "--normalize-over",
        choices=NORMALIZE_OVER,
        default="files",
        help="whether --normalize chooses one gain for each recording (files), which amplifies quiet ones to noise, or "
        "one for all (set)",
    )
    gain = "gain in decibels; with --normalize, relative to full scale"
    option(g, "--gain DB", number(-200, 200), gain, 0.0)
    mulaw = "convert recordings to G.711 mu-law bytes; required for texts that wav2utf8 --mulaw wrote"
    g.add_argument("--mulaw", action="store_true", help=mulaw)
    flags.add_encoding(g, "texts")
    g.add_argument("--skip-unreadable", action="store_true", help=flags.SKIP_UNREADABLE)
    table = "table of texts that BinToUTF8 wrote; each line has a byte and its character"
    option(g, "--table FILE", path, table)
    option(g, "--val-frac F", number(0, 1), "fraction of the symbols for validation", 0.1)
    option(g, "--test-frac F", number(0, 1), "fraction of the symbols for the test part", 0.1)
    option(g, "--batch-size N", whole(1), "number of rows in a batch" + _defaults("batch_size"))
    option(g, "--seq-length T", whole(1), "number of symbols per row of a batch" + _defaults("seq_length"))


def _add_network(g: _ArgumentGroup) -> None:
    g.add_argument("--cell", choices=tuple(CELLS), default="lstm", help="kind of the recurrent layers")
    option(g, "--rnn-size H", SIZE, "number of units per layer", 680)
    option(g, "--proj-size P", SIZE, "size of the projection of an lstmp layer (default: H // 2)")
    option(g, "--layers --num-layers L", whole(1, 1000), "number of recurrent layers", 3)
    option(g, "--wordvec-size D", SIZE, "size of the embedding of a symbol", 110)
    bias = "initial bias of the forget gates, or uniform for U(0, 1)"
    option(g, "--forget-bias B", _forget_bias, bias, 1.0)
    option(g, "--dropout P", number(0, 0.999), "fraction of the outputs of each layer to drop", 0.0)
    context = "number of samples before the last one that are also read as numbers; linear sound only"
    option(g, "--context N", whole(0, MAX_CONTEXT), context + _sample_defaults("context"))
    prediction = (
        "linear predictions that are read and corrected: lpc (orders 32 and 100), lpc-long (orders 80 and 240) or "
        "none; linear sound only"
    )
    g.add_argument("--prediction", choices=PREDICTIONS, help=prediction + _sample_defaults("prediction"))
    noise = (
        "largest amplitude of the noise and tones that disturb training, relative to the level; with 0, the network "
        "does not learn from its own sound either; linear sound only"
    )
    option(g, "--noise R", number(0, MAX_NOISE), noise + _sample_defaults("noise"))


def _add_frames(g: _ArgumentGroup) -> None:
    g.add_argument(
        "--frames",
        action="store_true",
        help="train a frame predictor of 16-bit samples that are --seq-length apart. Its defaults are "
        "--rate 16000 --rnn-size 300 --layers 2 --forget-bias uniform --seq-length 100 --precision fp32",
    )
    option(g, "--frame-taps K", SIZE, "number of samples in the input of a step (default: 40)")
    g.add_argument(
        "--loss",
        choices=FRAME_LOSSES,
        help="mean squared error, or negative logarithm of a normal density (default: mse)",
    )


def _add_learning(g: _ArgumentGroup) -> None:
    recipe = "named set of training settings (docs/explanation/models.md)"
    g.add_argument("--recipe", choices=tuple(RECIPES), default=DEFAULT_RECIPE, help=recipe)
    rate = "maximum learning rate of Adam" + _defaults("learning_rate")
    option(g, "--learning-rate R", number(0, above=True), rate)
    every = (
        "epochs between reductions of the learning rate in --recipe torch-rnn; the first reduction is one "
        "epoch earlier (default: 5)"
    )
    option(g, "--lr-decay-every EPOCHS", whole(1), every)
    factor = "factor by which the learning rate is then multiplied (default: 0.5)"
    option(g, "--lr-decay-factor F", number(0, 1, above=True), factor)
    clip = "limit of the gradient's norm (with --recipe torch-rnn: of each element); 0 for none"
    option(g, "--grad-clip G", number(0), clip + _defaults("grad_clip"))
    epochs = "stop after E epochs (default: 50, unless another limit is given)"
    option(g, "--max-epochs E", number(0, above=True), epochs)
    option(g, "--max-iterations N", whole(1), "stop after N iterations")
    option(g, "--max-minutes M", number(0, above=True), "stop after M minutes of training")
    option(g, "--early-stop N", whole(0), "stop after N validations without an improvement; 0 for never", 0)
    option(g, "--seed N", whole(0, 2**31 - 1), "seed of all random numbers", 0)


def _add_run(g: _ArgumentGroup) -> None:
    option(g, "--run-dir DIR", path, "new folder for the run (default: runs/INPUT-001, counting up)")
    option(g, "--checkpoint-every N", whole(1), "number of iterations between checkpoints", 1000)
    option(g, "--keep N", whole(0), "newest checkpoints to keep in addition to the best one; 0 for all", 0)
    seconds = "seconds of sound to sample at each checkpoint; 0 for none"
    option(g, "--sample-seconds S", number(0), seconds, 0.0)
    option(g, "--temperature LIST", numbers(0), "temperatures for --sample-seconds, such as 0.8,1 (default: 1)")
    tensorboard = "log losses, learning rate, gradient norm and samples to RUN/tensorboard"
    g.add_argument("--tensorboard", action="store_true", help=tensorboard)
    every = "print a line every N iterations (default: every ten seconds, or a progress bar on a terminal)"
    option(g, "--print-every N", whole(1), every, 0)
    option(g, "--resume RUN", path, f"resume a run with its settings; {WITH_RESUME}")
    option(g, "--init-from CHECKPOINT", path, "start from the weights of another network")
    device = "device to train on; auto is a GPU if one can train, else the CPU"
    g.add_argument("--device", choices=runtime.DEVICES, default="auto", help=device)
    precision = "precision of matrix products; auto is bf16 if the hardware supports it"
    g.add_argument("--precision", choices=runtime.PRECISIONS, default="auto", help=precision)
    g.add_argument(
        "--gpu-layers",
        choices=("auto", *GPU_LAYERS),
        default="auto",
        help="backend for layers on an NVIDIA GPU (docs/guide/gpu.md); auto is kernel where possible",
    )
    flags.add_threads(g)


def _defaults(name: str) -> str:
    """Return the default of a setting for --help, per recipe if recipes differ."""
    values = {recipe: getattr(Settings(**fields), name) for recipe, fields in RECIPES.items()}
    if len(set(values.values())) == 1:
        return f" (default: {values[DEFAULT_RECIPE]:g})"
    return f" (default: {', '.join(f'{recipe} {value:g}' for recipe, value in values.items())})"


def _sample_defaults(name: str) -> str:
    """Return the default of a setting of linear sound for --help."""
    return f" (default: {', '.join(f'{recipe} {fields[name]}' for recipe, fields in SAMPLES.items())})"


def _forget_bias(text: str) -> float | str:
    if text == "uniform":
        return text
    try:
        return number(-1e6)(text)
    except ArgumentTypeError as error:
        raise ArgumentTypeError(f"{error}, or 'uniform'") from None


def check(p: Parser, args: Namespace, named: set[str]) -> None:
    """Reject flags that are invalid for any input, and fill in defaults that depend on other flags."""
    if args.resume and (foreign := sorted(named - FLAGS_WITH_RESUME)):
        names = ", ".join("INPUT" if name == "input" else flag_of(name) for name in foreign)
        p.error(f"--resume uses the settings of the run, so {names} cannot be given: {WITH_RESUME}.")
    _check_frame_flags(p, args, named)
    _apply_preset(args, named)
    if args.input.count("-") > 1:
        p.error("- is standard input, which can be read only once: name it once.")
    if "normalize_over" in named and not args.normalize:
        p.error("--normalize-over needs --normalize.")
    if args.val_frac + args.test_frac >= 1:
        p.error(f"--val-frac {args.val_frac:g} and --test-frac {args.test_frac:g} leave no data to train on.")
    if args.recipe != "torch-rnn" and (foreign := sorted(named & {"lr_decay_every", "lr_decay_factor"})):
        p.error(f"{flag_of(foreign[0])} needs --recipe torch-rnn: with {args.recipe}, the rate falls until the end.")
    if "temperature" in named and not args.sample_seconds:
        p.error("--temperature needs --sample-seconds.")
    if not args.resume and all(getattr(args, name) is None for name in LENGTH_FLAGS):
        args.max_epochs = DEFAULT_EPOCHS
    if not args.init_from or "cell" in named:  # otherwise the cell is that of the file
        _check_network(p, args, named)


def _check_frame_flags(p: Parser, args: Namespace, named: set[str]) -> None:
    """Reject flags that cannot be combined with --frames, or require it."""
    if not args.frames:
        if foreign := [name for name in FRAME_FLAGS if name in named]:
            p.error(f"{flag_of(foreign[0])} requires --frames.")
        if args.preset in FRAME_PRESETS:
            p.error(f"--preset {args.preset} requires --frames.")
        return
    if foreign := [name for name in SYMBOL_FLAGS if name in named]:
        p.error(f"{flag_of(foreign[0])} is for networks of symbols: omit it or --frames.")
    if args.preset in PRESETS:
        p.error(f"--preset {args.preset} is for networks of symbols: omit it or --frames.")


def _apply_preset(args: Namespace, named: set[str]) -> None:
    """Fill in the defaults of --frames and of --preset. A limit that is given replaces that of the preset."""
    values = FRAME_DEFAULTS if args.frames else {}
    values = values | (PRESETS | FRAME_PRESETS).get(args.preset, {})
    for name, value in values.items():
        if name not in named and not (name in LENGTH_FLAGS and named & set(LENGTH_FLAGS)):
            setattr(args, name, value)


def _check_network(p: Parser, args: Namespace, named: set[str]) -> None:
    """Reject flags that the cell does not have."""
    if args.cell == "lstmp":
        size = args.rnn_size // 2 if args.proj_size is None else args.proj_size
        if not 1 <= size < args.rnn_size and not args.init_from:
            p.error(f"--cell lstmp needs a --proj-size below --rnn-size {args.rnn_size}, and it is {size}.")
    elif "proj_size" in named:
        p.error(f"--proj-size is for --cell lstmp: {args.cell} has no projection.")
    if args.cell in WITHOUT_FORGET_GATES and "forget_bias" in named:
        p.error(f"{args.cell} has no forget gates: omit --forget-bias.")
