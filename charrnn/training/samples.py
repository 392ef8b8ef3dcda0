"""Samples of a run's checkpoints, which are written while the network trains, and the calibration at its end."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bytecodec.console import log, progress
from bytecodec.errors import InputError
from charrnn.data.vocab import Ids
from charrnn.engines import engine
from charrnn.sampling import calibration
from charrnn.sampling.free_running import Measures, Reference
from charrnn.sampling.task import SamplingTask, SymbolSampling
from charrnn.storage.checkpoint_format import KIND, load, read_metadata, set_calibration
from charrnn.storage.run_dir import Run

CHUNK = 256  # symbols per call of the engine, between which sampling can be stopped


@dataclass
class CheckpointSampler(abc.ABC):
    """Function that writes samples/STEP_tTEMPERATURE.wav for a run's checkpoint.

    Each sample starts from the zero state and has the same seed, so that samples differ only by the weights, and the
    last one also by its calibration. One file is written per temperature. If ``stopped`` returns true, sampling ends,
    and the unfinished file is discarded.
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
        """Write the samples of a checkpoint that are missing, or older than it, as from before its calibration."""
        checkpoint = self.run.checkpoint_file(step)
        if not checkpoint.exists():
            return
        self.run.samples_folder.mkdir(exist_ok=True)
        changed = checkpoint.stat().st_mtime_ns
        files = {temperature: self.run.sample_file(step, temperature) for temperature in self.temperatures}
        missing = {t: file for t, file in files.items() if not file.exists() or file.stat().st_mtime_ns < changed}
        if not missing:
            return
        task = self.open_task(checkpoint)
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


@dataclass
class Calibrator:
    """Function that calibrates the temperature of a run's checkpoint, if it has been trained for long enough.

    It uses the compiled engine. If that cannot run the network, or ``stopped`` returns true, there is no calibration.
    """

    run: Run
    recording: Ids
    rate: int
    batch_symbols: int  # per iteration
    threads: int = 0
    quiet: bool = False
    stopped: Callable[[], bool] = lambda: False

    def seconds(self, step: int) -> float:
        """Return the duration of each stream for the checkpoint of an iteration; 0 if it was trained for too short."""
        duration = calibration.stream_seconds(step * self.batch_symbols, self.rate)
        if self.run.config()["init_from"]:  # the network was trained before
            duration = max(duration, calibration.MIN_SECONDS)
        return duration

    def __call__(self, step: int) -> None:
        """Calibrate the checkpoint of an iteration, unless it is already calibrated."""
        file, trained, name = self.run.checkpoint_file(step), step * self.batch_symbols, f"checkpoint {step:,}"
        if self.stopped() or not file.exists() or read_metadata(file, KIND).get("calibration") is not None:
            return
        duration = self.seconds(step)
        if not duration:
            least = calibration.min_training_symbols(self.rate)
            log(
                f"{name} is not calibrated: it was trained on {trained:,} symbols, and needs {least:,}. Its sound may "
                "be louder or quieter than the recording; longer training changes that.",
                self.quiet,
            )
            return
        total = calibration.TRIALS * round(duration * self.rate)
        with progress(total, " samples", self.quiet, unit_scale=True, desc="calibration", leave=False) as bar:

            def advance(count: int) -> None:
                bar.update(count)
                if self.stopped():
                    raise StoppedError

            try:
                sampler = engine(file, "cpu", calibration.STREAMS, threads=self.threads)
                reference = Reference(self.recording, self.rate, round(duration * self.rate))
                factor, before, after = calibration.calibrate(sampler, reference, self.rate, duration, advance)
            except InputError as problem:
                log(f"{problem} Therefore {name} is not calibrated.")
            except StoppedError:
                log(f"interrupted: {name} is not calibrated; --resume calibrates it.")
            else:
                set_calibration(file, factor)
                log(f"{name} in free running: {_summary(before)}", self.quiet)
                if factor != 1:
                    log(f"calibrated, with temperatures multiplied by {factor:.3f}: {_summary(after)}", self.quiet)


def _summary(measures: Measures) -> str:
    return f"level {measures.level:+.1f} dB, spectrum {measures.spectrum_distance:.1f} dB from the recording's"


class StoppedError(Exception):
    """Raised to stop sampling; what is unfinished is discarded."""
