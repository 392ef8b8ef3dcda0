"""Samples of a run's checkpoints, which are written while the network trains."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bytecodec.console import progress
from charrnn.engines import engine
from charrnn.sampling.task import SamplingTask, SymbolSampling
from charrnn.storage.checkpoint_format import load
from charrnn.storage.run_dir import Run

CHUNK = 256  # symbols per call of the engine, between which sampling can be stopped


@dataclass
class CheckpointSampler(abc.ABC):
    """Function that writes samples/STEP_tTEMPERATURE.wav for a run's checkpoint.

    Each sample starts from the zero state and has the same seed, so that samples differ only by the weights. One file
    is written per temperature. If ``stopped`` returns true, sampling ends, and the unfinished file is discarded.
    """

    run: Run
    seconds: float
    temperatures: Sequence[float]
    seed: int = 0
    threads: int = 0
    quiet: bool = False
    stopped: Callable[[], bool] = lambda: False

    @abc.abstractmethod
    def open_task(self, path: Path) -> SamplingTask:
        """Load a checkpoint of sound to sample one stream."""

    def __call__(self, step: int) -> None:
        """Write the missing samples of the checkpoint of an iteration."""
        self.run.samples_folder.mkdir(exist_ok=True)
        files = {temperature: self.run.sample_file(step, temperature) for temperature in self.temperatures}
        missing = {temperature: file for temperature, file in files.items() if not file.exists()}
        if not missing:
            return
        task = self.open_task(self.run.checkpoint_file(step))
        with contextlib.suppress(StoppedError):
            for temperature, file in missing.items():
                task.restart(temperature)
                self._write(task, file)

    def _write(self, task: SamplingTask, file: Path) -> None:
        length = max(1, round(self.seconds * (task.rate or 0)))
        with (
            progress(length, f" {task.unit}", self.quiet, unit_scale=True, desc="sampling", leave=False) as bar,
            task.open_output(str(file)) as output,
        ):
            for _, (piece,) in task.pieces(1, length):
                if self.stopped():
                    raise StoppedError
                output.write(piece)
                bar.update(len(piece))


class SymbolSampler(CheckpointSampler):
    """Sampler for character networks that were trained on sound."""

    def open_task(self, path: Path) -> SymbolSampling:
        """Load a checkpoint into an engine of one stream."""
        checkpoint = load(path)
        start = np.empty(0, dtype=np.int64)
        return SymbolSampling(checkpoint, engine(checkpoint, threads=self.threads), start, seed=self.seed, chunk=CHUNK)


class StoppedError(Exception):
    """Raised to leave a file that is being written, which is then discarded."""
