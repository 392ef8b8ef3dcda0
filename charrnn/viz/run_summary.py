"""Contents of a run directory: settings, losses, samples and the data it was trained on."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.console import duration
from bytecodec.errors import InputError, printable
from charrnn.storage.csv_log import column_names, read_columns, read_rows
from charrnn.storage.run_dir import Run, is_frames
from charrnn.viz.curves import Curve, OnMessage, OnProgress, curve, ignore, rolling
from charrnn.viz.units import RunKind

SAMPLE_NAME = re.compile(r"(\d+)_t(\d+(?:\.\d+)?)\.wav")
MAX_NAME = 80  # characters of a run's or a recording's name
MAX_LINE = 300  # characters of a row of settings
MAX_VALUE = 30  # characters of one setting
WINDOW = 100  # iterations of which the training loss at a checkpoint is the mean
NOT_PARAMETERS = ("window", "unit", "noise")  # tensors of a frame predictor's checkpoint


@dataclass(frozen=True)
class Sample:
    """Recording sampled from a checkpoint at a temperature."""

    step: int
    temperature: float
    path: Path


@dataclass(frozen=True)
class TrainPoint:
    """State of training at an iteration, with losses in bits (`RunSummary.unit`); ``val_bits`` is None if unknown."""

    step: int
    epoch: float
    seconds: float
    train_bits: float
    val_bits: float | None

    @property
    def bits(self) -> float:
        """Validation loss, or the training loss if there was no validation."""
        return self.train_bits if self.val_bits is None else self.val_bits


class RunSummary:
    """A run with the contents of its files, read once.

    Attributes
    ----------
    name
        Name of the run's folder.
    kind
        Units and formats.
    train, val
        Losses in bits (`unit`) at each iteration and each validation.
    train_loss, val_loss
        The losses as they were trained: in nats, or the mean squared error of a frame predictor.
    time
        Seconds of training at each point of ``train``.
    flac
        FLAC's bits per sample on the validation part; None if unknown.

    Raises
    ------
    InputError
        The folder is not a run, or has no iteration yet.
    """

    def __init__(self, run: Run, on_message: OnMessage = ignore, on_progress: OnProgress = ignore) -> None:
        self.run, self.config = run, run.config()
        self.name, self.kind = run.path.resolve().name, RunKind.of(self.config)
        self.flac = self.kind.flac_bits
        if not run.log_file.is_file():
            raise InputError(f"the run {run.path} has no log.csv yet: wait for its first iterations.")

        def read(
            file: Path, on_progress: OnProgress, loss: str, *others: str
        ) -> tuple[Curve, Curve, NDArray[np.float64]]:
            """Return a loss as it was trained and in bits, and other columns (columns, n)."""
            bits, factor = self.kind.column(file, column_names(file), loss, "bits")
            columns = read_columns(file, ("iteration", loss, bits, *others), on_message, on_progress)
            x, y, y_bits, *rest = columns[np.isfinite(columns).all(axis=1)].T
            return curve(x, y), curve(x, factor * y_bits), np.array(rest)

        self.train_loss, self.train, (self.time, self._epochs) = read(
            run.log_file, on_progress, "train_loss", "elapsed_seconds", "epoch"
        )
        if not len(self.train):
            raise InputError(f"{run.log_file} has no loss that is a number.")
        self.val_loss = self.val = curve(np.empty(0), np.empty(0))
        if run.val_file.is_file() and read_rows(run.val_file):
            self.val_loss, self.val, _ = read(run.val_file, ignore, "val_loss")

    @cached_property
    def samples(self) -> list[Sample]:
        """Samples of checkpoints, by iteration, then by temperature."""
        found = []
        for path in self.run.samples_folder.glob("*.wav"):
            if (name := SAMPLE_NAME.fullmatch(path.name)) and path.is_file():
                found.append(Sample(int(name[1]), float(name[2]), self.run.safe_join(f"samples/{path.name}")))
        return sorted(found, key=lambda sample: (sample.step, sample.temperature))

    @property
    def unit(self) -> str:
        """Unit of the losses in bits, such as 'bits per sample'."""
        return self.kind.display_unit

    @property
    def rate(self) -> int:
        """Sampling rate in Hz; 0 for text."""
        return self.config.get("rate") or 0

    @property
    def is_sound(self) -> bool:
        """Whether the run was trained on sound."""
        return self.rate > 0

    @property
    def inputs(self) -> str:
        """Names of the training data, without their folders."""
        return describe_inputs(self.config) or "?"

    @property
    def network(self) -> str:
        """Description of the network, such as 'LSTM, 3 layers of 680'."""
        return describe_network(self.config)

    @property
    def network_size(self) -> str:
        """Description of the network, with the number of parameters if available."""
        return f"{self.network}{f', {self.parameters:,} parameters' if self.parameters else ''}"

    @cached_property
    def parameters(self) -> int | None:
        """Number of parameters, from the header of the newest checkpoint; None before the first one."""
        from charrnn.storage.checkpoint_format import read_tensor_info

        try:
            newest = self.run.checkpoints()[-1]
            tensors = read_tensor_info(self.run.safe_join(newest.relative_to(self.run.path)))
        except (IndexError, OSError, InputError):
            return None
        excluded = NOT_PARAMETERS if self.kind.is_frames else ()
        return sum(math.prod(shape) for name, (shape, _) in tensors.items() if name not in excluded)

    def at(self, step: int) -> TrainPoint:
        """Return the state of training at an iteration."""
        row = min(int(np.searchsorted(self.train.x, step)), len(self.train) - 1)
        until = Curve(self.train.x[: row + 1], self.train.y[: row + 1])
        validated = np.flatnonzero(self.val.x == step)
        return TrainPoint(
            step,
            float(self._epochs[row]),
            float(self.time[row]),
            float(rolling(until, np.array([row]), WINDOW)[0]),
            float(self.val.y[validated[-1]]) if len(validated) else None,
        )

    def last(self) -> TrainPoint:
        """Return the state of training at the last iteration."""
        return self.at(int(self.train.x[-1]))

    def best(self) -> TrainPoint | None:
        """Return the state at the lowest validation loss; None before the first validation."""
        return self.at(int(self.val.x[self.val_loss.y.argmin()])) if len(self.val) else None

    def free_running(self, on_message: OnMessage = ignore) -> dict[str, Any] | None:
        """Return the measures of generated sound; None if charrnn-eval wrote none, or if they cannot be read.

        In the latter case ``on_message`` receives the reason.
        """
        try:
            return self.run.free_running()
        except (InputError, OSError) as error:
            on_message(f"{str(error).rstrip('.')}: the measures of free running are not shown.")
            return None

    def original(self, seconds: float) -> tuple[NDArray[np.float32], float] | None:
        """Return the data from the validation part on, and where it begins in the data in seconds.

        The samples are (n,) with full scale 1. Return None if the data are text, or are missing.
        """
        file, size, config = self.run.corpus_file, self.kind.sample_bytes, self.config
        if not self.is_sound or not {"symbols", "val_frac", "test_frac"} <= config.keys() or not file.is_file():
            return None
        count, val, test = config["symbols"], config["val_frac"], config["test_frac"]
        if file.stat().st_size != size * count:
            return None
        first = count - int(val * count) - int(test * count) if val else 0
        data = np.fromfile(file, np.uint8, size * round(seconds * self.rate), offset=size * first)
        if not len(data):
            return None
        return self.kind.samples(data, config.get("encoding")), first / self.rate

    def settings(self) -> dict[str, str]:
        """Return a table of the data, the network and the training."""
        config, model, training = self.config, self.config.get("model", {}), self.config.get("training", {})
        last, symbols = self.last(), config.get("symbols", 0)
        encoding = "16 bits" if self.kind.is_frames else config.get("encoding")
        sound = f"{duration(symbols / (self.rate or 1))} of sound at {self.rate:,} Hz, {encoding}"
        fractions = [f"{100 * config.get(name, 0):.0f} %" for name in ("val_frac", "test_frac")]
        found: dict[str, object] = {
            "Training data": self.inputs,
            "Length": sound if self.is_sound else f"{symbols:,} characters of text",
            "Validation and test parts": " and ".join(fractions),
            "Network": self.network,
            **self.kind.settings(model),
            "Parameters": f"{self.parameters:,}" if self.parameters else "",
            "Recipe": f"{_value(training, 'recipe')}, learning rate {_value(training, 'learning_rate')}",
            "Batch": f"{_value(training, 'batch_size')} rows of {_value(training, 'seq_length')} steps",
            "Dropout": str(model.get("dropout") or ""),
            "Precision": f"{_value(training, 'precision')} on {_value(training, 'device')}",
            "Initialised from": str(config.get("init_from") or ""),
            "Seed": str(training.get("seed", "?")),
            "Trained for": f"{last.step:,} iterations, {last.epoch:.2f} epochs, {duration(last.seconds)}",
        }
        return {name: printable(value, MAX_LINE) for name, value in found.items() if value}


def select_samples(summary: RunSummary, which: str | None) -> list[Sample]:
    """Return the samples of checkpoints: all, or those in a list such as '100,500,best,newest'.

    Raise InputError if there are none, or a checkpoint in the list has none.
    """
    samples, run = summary.samples, summary.run
    if not samples and run.is_voice:
        raise InputError(f"{run.path.name} is a bundled voice, and comes without samples of its training: name a run.")
    if not samples and not summary.is_sound:
        raise InputError(f"the run {run.path} has no sound samples, because it was trained on text: name another run.")
    if not samples:
        raise InputError(
            f"the run {run.path} has no sound samples in {run.samples_folder}: train with --sample-seconds, or write "
            f"one there with charrnn-sample, named like {run.sample_file(1000, 1.0).name}."
        )
    if which is None:
        return samples
    steps = {sample.step for sample in samples}
    best = summary.best()
    named = {"newest": max(steps), "first": min(steps), "best": best.step if best else -1}
    selected = set()
    for name in map(str.strip, which.split(",")):
        step = named.get(name, int(name) if name.isdecimal() else -1)
        if step not in steps:
            available = ", ".join(map(str, sorted(steps)))
            raise InputError(f"the run {run.path} has no sample of checkpoint {name}. It has {available}.")
        selected.add(step)
    return [sample for sample in samples if sample.step in selected]


def distinct_names(names: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Return distinct printable names of runs: their own, or the path if two are the same."""
    own = [printable(name, MAX_NAME) for name in names]
    return [n if own.count(n) == 1 else printable(p, MAX_LINE) for n, p in zip(own, paths, strict=True)]


def names_of(summaries: Sequence[RunSummary]) -> list[str]:
    """Return distinct names of runs."""
    return distinct_names([one.name for one in summaries], [one.run.path for one in summaries])


def describe_inputs(config: Mapping[str, Any]) -> str:
    """Return printable names of a run's inputs, without their folders; "" if there are none."""
    names = config.get("inputs", [])
    shown = [printable(Path(name).name, MAX_NAME) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def describe_network(config: Mapping[str, Any]) -> str:
    """Return a description of a run's network, such as 'LSTM, 3 layers of 680'."""
    model = {"cell": "network"} | config.get("model", {})
    cell = _value(model, "cell")
    count, size = _value(model, "layers"), _value(model, "rnn_size")
    kind = "frame predictor, " if is_frames(config) else ""
    return f"{kind}{cell.upper()}, {count} layer{'s' * (count != '1')} of {size}"


def _value(settings: Mapping[str, Any], name: str) -> str:
    return printable(settings.get(name, "?"), MAX_VALUE)
