"""What a run directory has to tell: what was trained on what, how it went, and what its checkpoints sound like."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.console import duration
from bytecodec.errors import InputError
from bytecodec.mulaw import decode_mulaw
from bytecodec.safe_text import printable
from charrnn.storage.csv_log import column_names, read_columns, read_rows
from charrnn.storage.run_dir import Run, is_frames
from charrnn.viz.curves import Curve, Tell, curve, flac_of, loss_column, loss_unit, rolling

SAMPLE_NAME = re.compile(r"(\d+)_t(\d+(?:\.\d+)?)\.wav")
MOST_NAME = 80  # characters of a run's or a recording's name
MOST_FACT = 300  # characters of a line of settings
MOST_WORD = 30  # characters of a setting
WINDOW = 100  # iterations before a checkpoint that its training loss is the mean of
KEPT_BESIDE = ("window", "unit", "noise")  # tensors of a frame predictor's checkpoint that are not parameters


@dataclass(frozen=True)
class Sample:
    """What a checkpoint sounds like at a temperature."""

    step: int
    temperature: float
    path: Path


@dataclass(frozen=True)
class TrainPoint:
    """Point of training at an iteration, with losses in bits (`Story.unit`), or None if unknown."""

    step: int
    epoch: float
    seconds: float
    train_bits: float
    val_bits: float | None


class RunSummary:
    """A run with the contents of its files, read once.

    Attributes
    ----------
    name
        The run's folder.
    train, val
        Losses in bits (`unit`) at each iteration and validation, as the logs hold them.
    train_loss, val_loss
        The losses as they were trained: in nats, or the mean squared error of a frame predictor.
    time
        Seconds trained at each point of ``train``.
    flac
        Bits a sample that FLAC takes for the validation part; None where it is not known.

    Raises
    ------
    InputError
        It is no run, or has no iteration yet.
    """

    def __init__(self, run: Run, tell: Tell = lambda _: None, done: Callable[[int], object] = lambda _: None) -> None:
        self.run, self.config = run, run.config()
        self.name = run.path.resolve().name
        if not run.log_file.is_file():
            raise InputError(f"the run {run.path} has no log.csv yet: let it train for a moment.")
        bits, factor = loss_column(run.log_file, column_names(run.log_file), "train_loss", "bits", self.config)
        names = ("iteration", "train_loss", bits, "elapsed_seconds", "epoch")
        columns = read_columns(run.log_file, names, tell, done)
        columns = columns[np.isfinite(columns).all(axis=1)]
        if not len(columns):
            raise InputError(f"{run.log_file} has no loss that is a number.")
        self.train_loss = curve(columns[:, 0], columns[:, 1])
        self.train = curve(columns[:, 0], columns[:, 2]).scaled(factor)
        self.time, self._epochs = columns[:, 3], columns[:, 4]
        self.val_loss, self.val = self._validations()
        self.flac = flac_of(run)

    def _validations(self) -> tuple[Curve, Curve]:
        """Return the losses of val.csv as they were trained, and in bits."""
        file = self.run.val_file
        rows = read_rows(file) if file.is_file() else []
        if not rows:
            return curve(np.empty(0), np.empty(0)), curve(np.empty(0), np.empty(0))
        bits, factor = loss_column(file, list(rows[0]), "val_loss", "bits", self.config)
        try:
            points = np.array([[row[name] for name in ("iteration", "val_loss", bits)] for row in rows], np.float64)
        except (KeyError, ValueError):
            raise InputError(f"{file} is not as charrnn-train wrote it.") from None
        points = points[np.isfinite(points).all(axis=1)]
        return curve(points[:, 0], points[:, 1]), curve(points[:, 0], points[:, 2]).scaled(factor)

    @cached_property
    def samples(self) -> list[Sample]:
        """What there is to hear, by iteration, then by temperature."""
        found = []
        for path in self.run.samples_folder.glob("*.wav"):
            if (name := SAMPLE_NAME.fullmatch(path.name)) and path.is_file():
                found.append(Sample(int(name[1]), float(name[2]), self.run.inside(path.relative_to(self.run.path))))
        return sorted(found, key=lambda sample: (sample.step, sample.temperature))

    @property
    def is_sound(self) -> bool:
        """Whether it was trained on sound."""
        return bool(self.config.get("rate"))

    @property
    def is_frames(self) -> bool:
        """Whether the run trained a frame predictor, which learns 16-bit samples instead of bytes."""
        return is_frames(self.config)

    @property
    def unit(self) -> str:
        """Unit of the losses in bits, such as 'bits a sample'."""
        if self.is_frames:
            return loss_unit(self.config, "bits")
        return "bits a sample" if self.is_sound else "bits a character"

    @property
    def rate(self) -> int:
        """Samples a second; 0 of text."""
        return int(self.config.get("rate") or 0)

    @property
    def inputs(self) -> str:
        """The names of what it was trained on, without their folders."""
        return inputs_of(self.config) or "?"

    @property
    def network(self) -> str:
        """Such as 'LSTM, 3 layers of 680'."""
        return network_of(self.config)

    @cached_property
    def parameters(self) -> int | None:
        """How many numbers the network learns, from the head of its newest checkpoint; None before the first."""
        from charrnn.storage.checkpoint_format import read_tensor_info

        try:
            newest = self.run.checkpoints()[-1]
            heads = read_tensor_info(self.run.inside(newest.relative_to(self.run.path)))
        except (IndexError, OSError, InputError):
            return None
        beside = KEPT_BESIDE if self.is_frames else ()
        return sum(math.prod(shape) for name, (shape, _) in heads.items() if name not in beside)

    def at(self, step: int) -> TrainPoint:
        """Where training was at an iteration."""
        row = min(int(np.searchsorted(self.train.x, step)), len(self.train) - 1)
        near = Curve(self.train.x[: row + 1], self.train.y[: row + 1])
        validated = np.flatnonzero(self.val.x == step)
        return TrainPoint(
            step,
            float(self._epochs[row]),
            float(self.time[row]),
            float(rolling(near, np.array([row]), WINDOW)[0]),
            float(self.val.y[validated[-1]]) if len(validated) else None,
        )

    def best(self) -> TrainPoint | None:
        """The moment of the lowest validation loss; None before the first validation."""
        return self.at(int(self.val.x[self.val_loss.y.argmin()])) if len(self.val) else None

    def original(self, seconds: float) -> tuple[NDArray[np.float32], float] | None:
        """Return the data from the validation part on, and where it begins in the data in seconds.

        The samples are (n,) with full scale 1. Return None if the data are text, or are missing.
        """
        count: Any
        count, val, test = (self.config.get(name) for name in ("symbols", "val_frac", "test_frac"))
        numbers = all(isinstance(number, int | float) for number in (count, val, test))
        file, size = self.run.corpus_file, 2 if self.is_frames else 1  # bytes of a sample
        if not self.is_sound or not numbers or not file.is_file() or file.stat().st_size != size * count:
            return None
        place = max(0, count - int(val * count) - int(test * count)) if val else 0
        data = np.fromfile(file, np.uint8, size * round(seconds * self.rate), offset=size * place)
        if not len(data):
            return None
        if self.is_frames:
            samples = data.view("<i2") / 32768
        else:
            is_mulaw = self.config.get("encoding") == "mulaw"
            samples = decode_mulaw(data) / 32768 if is_mulaw else (data - 128.0) / 128
        return np.asarray(samples, np.float32), place / self.rate


def facts(story: RunSummary) -> dict[str, str]:
    """What was trained on what, and how far, as words under names."""
    config, model = story.config, story.config.get("model") or {}
    settings = config.get("training") or {}
    last = story.at(int(story.train.x[-1]))
    symbols = config.get("symbols") or 0
    encoding = "16 bits" if story.is_frames else config.get("encoding")
    sound = f"{duration(symbols / (story.rate or 1))} of sound at {story.rate:,} Hz, {encoding}"
    found: dict[str, object] = {
        "Trained on": story.inputs,
        "That is": sound if story.is_sound else f"{symbols:,} characters of text",
        "Kept for validation, test": " and ".join(
            f"{float(config.get(n) or 0):.0%}" for n in ("val_frac", "test_frac")
        ),
        "Network": story.network,
        "Embeddings": "" if story.is_frames else str(model.get("wordvec_size", "?")),
        "Sees": f"{model.get('taps', '?')} samples, {model.get('spacing', '?')} apart" if story.is_frames else "",
        "Loss": str(model.get("loss", "?")) if story.is_frames else "",
        "Parameters": f"{story.parameters:,}" if story.parameters else "",
        "Recipe": f"{_word(settings, 'recipe')}, learning rate {_word(settings, 'learning_rate')}",
        "Batch": f"{_word(settings, 'batch_size')} rows of {_word(settings, 'seq_length')} steps",
        "Dropout": str(model.get("dropout") or ""),
        "Computed in": f"{_word(settings, 'precision')} on {_word(settings, 'device')}",
        "Began with": str(config.get("init_from") or ""),
        "Seed": str(settings.get("seed", "?")),
        "Trained for": f"{last.step:,} iterations, {last.epoch:.2f} epochs, {duration(last.seconds)}",
    }
    return {name: printable(words, MOST_FACT) for name, words in found.items() if words}


def chosen(story: RunSummary, which: str | None) -> list[Sample]:
    """The samples of checkpoints: all, or those in a list such as '100,500,best,newest'.

    Raises
    ------
    InputError
        There are none, or not one of those that the list names.
    """
    samples = story.samples
    if not samples:
        raise InputError(
            f"the run {story.run.path} has no sound in {story.run.samples_folder}: train with --sample-seconds, or "
            f"write one there with charrnn-sample, named such as {story.run.sample_file(1000, 1.0).name}."
        )
    if which is None:
        return samples
    steps = {sample.step for sample in samples}
    wanted = set()
    for word in which.split(","):
        step = _step(story, word.strip(), steps)
        if step not in steps:
            there = ", ".join(map(str, sorted(steps)))
            raise InputError(f"the run {story.run.path} has no sound of checkpoint {word.strip()}. It has {there}.")
        wanted.add(step)
    return [sample for sample in samples if sample.step in wanted]


def _step(story: RunSummary, word: str, steps: set[int]) -> int:
    if word == "newest":
        return max(steps)
    if word == "first":
        return min(steps)
    if word == "best":
        best = story.best()
        return best.step if best else -1
    return int(word) if word.isdecimal() else -1


def distinguish(names: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Return distinct printable names of runs: their own, or with the folder if two are the same."""
    own = [printable(name, MOST_NAME) for name in names]
    return [n if own.count(n) == 1 else printable(p, MOST_FACT) for n, p in zip(own, paths, strict=True)]


def inputs_of(config: Mapping[str, Any]) -> str:
    """Return printable names of a run's inputs, without their folders; "" if there are none."""
    inputs = config.get("inputs")
    names = inputs if isinstance(inputs, list) else []
    shown = [printable(Path(str(name)).name, MOST_NAME) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def network_of(config: Mapping[str, Any]) -> str:
    """Return a description of a run's network, such as 'LSTM, 3 layers of 680'."""
    model = config.get("model")
    model = model if isinstance(model, dict) else {}
    layers = model.get("layers", "?")
    cell = _word({"cell": "network"} | model, "cell")
    count, size = _word(model, "layers"), _word(model, "rnn_size")
    kind = "frame predictor, " if is_frames(config) else ""
    return f"{kind}{cell.upper()}, {count} layer{'s' * (layers != 1)} of {size}"


def _word(settings: Mapping[str, Any], name: str) -> str:
    return printable(settings.get(name, "?"), MOST_WORD)
