"""What charrnn-train does for a frame predictor and for nothing else."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from bytecodec.errors import InputError
from charrnn.commands.train_flags import sound_options
from charrnn.frames import data as frame_data
from charrnn.frames import model as frame_model
from charrnn.frames.data import Recordings
from charrnn.frames.model import FrameCheckpoint, FrameConfig, FrameRNN
from charrnn.frames.noise import shape_noise
from charrnn.storage.checkpoint import meta_model
from charrnn.storage.run_dir import Run

FIELDS = {  # of a FrameConfig, by the names of the flags
    **{name: name for name in ("cell", "rnn_size", "proj_size", "layers", "forget_bias", "dropout", "loss")},
    "frame_taps": "taps",
    "seq_length": "spacing",
}


def make(
    args: Namespace, named: set[str], inputs: Sequence[str], run: Run
) -> tuple[FrameRNN, Recordings, dict[str, Any]]:
    """Network, data, and what config.json says of them, for a new run."""
    old = frame_model.load(args.init_from) if args.init_from else None
    rate = old.rate if old and "rate" not in named else args.rate
    options = sound_options(args, rate)
    recordings = frame_data.prepare(inputs, run.corpus_file, options, args.quiet, args.skip_unreadable)
    if old:
        model = old.model
        _check_same_network(args, named, model.config)
    else:
        config = FrameConfig(**{field: getattr(args, flag) for flag, field in FIELDS.items()})
        samples = recordings.split(args.val_frac, args.test_frac, config.context.max_lag)["train"]
        if len(samples) <= config.context.max_lag:
            raise InputError(too_short(recordings, len(samples), config))
        model = frame_model.build(config, args.seed, samples)
    sound = recordings.sound.to_json() if recordings.sound else None
    facts = {"kind": frame_model.KIND, "rate": rate, "encoding": None, "sound": sound}
    return model, recordings, facts | {"model": model.config.to_json()}


def too_short(recordings: Recordings, samples: int, config: FrameConfig) -> str:
    """What to say where there is no more than a window to train on."""
    return (
        f"{', '.join(recordings.names)}: {samples:,} samples to train on are no more than one window of "
        f"--frame-taps {config.taps} x --seq-length {config.spacing}. Lower one of them, or give more."
    )


def reopen(run: Run, config: dict[str, Any]) -> tuple[FrameRNN, Recordings]:
    """Network and data of a run that goes on."""
    shape = FrameConfig(**config["model"])
    meta_model(run.resume_file, shape.layers, lambda: FrameRNN(shape), "model.")
    model = FrameRNN(shape)
    return model, frame_data.open_recordings(run.corpus_file, tuple(config["inputs"]))


def task(model: FrameRNN, recordings: Recordings, config: dict[str, Any]) -> dict[str, Any]:
    """What a frame predictor brings to its `charrnn.training.trainer.Trainer`."""
    parts = recordings.split(config["val_frac"], config["test_frac"], model.config.context.max_lag)

    def package(step: int, epoch: float, train_loss: float | None) -> FrameCheckpoint:
        shape_noise(model, parts["train"])
        return FrameCheckpoint(model, step, epoch, config["rate"], train_loss, sound=config.get("sound"))

    return {"parts": parts, "package": package, "context": model.config.context, "bits": model.bits}


def describe(config: FrameConfig, rate: int) -> str:
    """What the plan says of a network beside its layers."""
    return (
        f"{config.taps} taps {config.spacing:,} samples apart (a window of {config.context.max_lag / rate:g} s), "
        f"loss {config.loss}"
    )


def _check_same_network(args: Namespace, named: set[str], config: FrameConfig) -> None:
    for flag, field in FIELDS.items():
        if flag in named and getattr(args, flag) != getattr(config, field):
            name = "--" + flag.replace("_", "-")
            raise InputError(f"{args.init_from} has {name} {getattr(config, field)}: leave {name} out.")
