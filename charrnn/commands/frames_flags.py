"""The flags of charrnn-train for frame predictors, their defaults and presets."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from bytecodec.console import Parser, wrong_command_line
from charrnn.commands.flags import whole

LOSSES = ("mse", "gaussian")  # those of charrnn.frames.model, which imports torch
FLAGS = ("preset", "frame_taps", "loss")
DEFAULTS: dict[str, Any] = {  # that differ from those of a character network
    "rate": 16000,
    "rnn_size": 300,
    "layers": 2,
    "forget_bias": "uniform",
    "seq_length": 100,
    "frame_taps": 40,
    "loss": "mse",
    "precision": "fp32",
}
PRESETS: dict[str, dict[str, Any]] = {  # of the blog, except for the batches
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
FOREIGN = ("mulaw", "wordvec_size", "encoding", "table")  # flags of a character network


def add(p: Parser) -> None:
    """Add the flags."""
    group = p.add_argument_group("frame predictor (docs/explanation/frame-predictor.md)")
    group.add_argument(
        "--frames",
        action="store_true",
        help="train a frame predictor of 16-bit samples, whose inputs are --seq-length samples apart. Its defaults are "
        "--rate 16000 --rnn-size 300 --layers 2 --forget-bias uniform --seq-length 100 --precision fp32",
    )
    group.add_argument("--preset", choices=tuple(PRESETS), help="settings of an experiment of 2016")
    group.add_argument(
        "--frame-taps",
        type=whole(1, 10**6),
        metavar="N",
        help="number of samples that are the input of a step (default: 40)",
    )
    group.add_argument(
        "--loss",
        choices=LOSSES,
        help="loss of a frame predictor: mse is the mean squared error, gaussian the negative logarithm of a normal "
        "density (default: mse)",
    )


def settle(p: Parser, args: Namespace, named: set[str]) -> None:
    """Reject flags that cannot be combined with --frames, or need it, and fill in its defaults."""
    if not args.frames:
        if foreign := [name for name in FLAGS if name in named]:
            wrong_command_line(p, f"--{foreign[0].replace('_', '-')} goes with --frames.")
        return
    if foreign := [name for name in FOREIGN if name in named]:
        flag = "--" + foreign[0].replace("_", "-")
        wrong_command_line(p, f"{flag} is for networks of symbols: leave it or --frames out.")
    chosen = PRESETS.get(args.preset, {})
    if args.max_iterations is not None or args.max_minutes is not None:
        chosen = {name: value for name, value in chosen.items() if name != "max_epochs"}
    for name, value in (DEFAULTS | chosen).items():
        if name not in named:
            setattr(args, name, value)
