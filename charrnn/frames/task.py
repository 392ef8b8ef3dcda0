"""The training task of frame predictors, and the sampler of their checkpoints."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from charrnn.data import baselines
from charrnn.frames import data as frame_data
from charrnn.frames import model as frame_model
from charrnn.frames.data import Recordings
from charrnn.frames.generate import FrameSampling, FrameStream
from charrnn.frames.model import FrameCheckpoint, FrameConfig, FrameRNN
from charrnn.frames.noise import shape_noise
from charrnn.runtime import set_threads
from charrnn.storage.checkpoint import meta_model
from charrnn.storage.run_dir import Run
from charrnn.training.recipe import Settings
from charrnn.training.samples import CheckpointSampler
from charrnn.training.task import TrainingTask, check_same_network, sound_options, with_training_fields


class FrameTask(TrainingTask):
    """A frame predictor on recordings."""

    unit = "16-bit sample"
    units = "samples"

    FIELDS: ClassVar[dict[str, str]] = {  # of a FrameConfig, by the names of their options
        **{name: name for name in ("cell", "rnn_size", "proj_size", "layers", "forget_bias", "dropout", "loss")},
        "frame_taps": "taps",
        "seq_length": "spacing",
    }

    model: FrameRNN
    data: Recordings
    parts: Mapping[str, NDArray[np.int16]]

    def __init__(
        self, model: FrameRNN, data: Recordings, metadata: Mapping[str, Any], val_frac: float, test_frac: float
    ):
        context = model.config.context
        super().__init__(model, data, data.split(val_frac, test_frac, context.max_lag), context, metadata)

    @classmethod
    def create(cls, options: Namespace, given: set[str], run: Run, settings: Settings) -> Self:
        old = frame_model.load(options.init_from) if options.init_from else None
        sound = sound_options(options, given, old.rate if old else None)
        data = frame_data.prepare(options.input, run.corpus_file, sound, options.quiet, options.skip_unreadable)
        if old:
            check_same_network(options, given, old.model.config, cls.FIELDS)
            model = with_training_fields(old.model, options, given)
        else:
            config = FrameConfig(**{field: getattr(options, name) for name, field in cls.FIELDS.items()})
            samples = data.split(options.val_frac, options.test_frac, config.context.max_lag)["train"]
            if len(samples) <= config.context.max_lag:
                raise InputError(
                    f"{', '.join(data.names)}: {len(samples):,} samples to train on do not exceed one window of "
                    f"--frame-taps {config.taps} x --seq-length {config.spacing}. "
                    "Lower one of them, or give more recordings."
                )
            model = frame_model.build(config, options.seed, samples)
        metadata = {
            "kind": frame_model.KIND,
            "rate": sound.rate,
            "encoding": None,
            "sound": data.sound.to_json() if data.sound else None,
            "model": model.config.to_json(),
        }
        return cls(model, data, metadata, options.val_frac, options.test_frac)

    @classmethod
    def reopen(cls, run: Run, config: Mapping[str, Any]) -> Self:
        shape = FrameConfig(**config["model"])
        meta_model(run.resume_file, shape.layers, lambda: FrameRNN(shape), "model.")  # before memory is allocated
        data = frame_data.open_recordings(run.corpus_file, tuple(config["inputs"]))
        return cls(FrameRNN(shape), data, config, config["val_frac"], config["test_frac"])

    def adapt(self, settings: Settings) -> Settings:
        return replace(settings, seq_length=self.model.config.spacing)

    def bits(self, loss: float) -> float:
        return self.model.bits(loss)

    def counts(self) -> dict[str, int]:
        return {
            name: len(ids) if name == "train" else max(0, len(ids) - self.context.max_lag)
            for name, ids in self.parts.items()
        }

    def description(self) -> str:
        config = self.model.config
        seconds = self.context.max_lag / self.metadata["rate"]
        return f"{config.taps} taps {config.spacing:,} samples apart (a window of {seconds:g} s), loss {config.loss}"

    def checkpoint(self, step: int, epoch: float, train_loss: float | None) -> FrameCheckpoint:
        shape_noise(self.model, self.parts["train"])
        metadata = self.metadata
        return FrameCheckpoint(self.model, step, epoch, metadata["rate"], train_loss, sound=metadata.get("sound"))

    def baselines(self, quiet: bool) -> dict[str, float]:
        targets = self.parts["val"][self.context.max_lag :]
        return baselines.measure_frame_baselines(targets, self.metadata["rate"]) if len(targets) else {}

    def sampler(self, run: Run, **options: Any) -> Callable[[int], None]:
        return FrameSampler(run, **options)


class FrameSampler(CheckpointSampler):
    """Sampler for frame predictors."""

    def open_task(self, path: Path) -> FrameSampling:
        """Load a checkpoint with one stream."""
        set_threads(self.threads)
        checkpoint = frame_model.load(path)
        return FrameSampling(checkpoint, [FrameStream(checkpoint.model, seed=self.seed)])
