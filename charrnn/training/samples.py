"""Samples of a run's checkpoints, which are written while the network trains."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence

from bytecodec.console import progress
from charrnn.engines import engine
from charrnn.sampling.generate import generate
from charrnn.sampling.writers import open_sound
from charrnn.storage.checkpoint_format import load
from charrnn.storage.run_dir import Run

CHUNK = 256  # symbols per call of the engine, between which sampling can be stopped


class CheckpointSampler(abc.ABC):
    """Function that writes samples/STEP_tTEMPERATURE.wav for a run's checkpoint.

    Each sample starts from the zero state and has the same seed, so that samples differ only by the weights.

    Parameters
    ----------
    seconds
        Length of each sample.
    temperatures
        One file is written for each of them.
    threads
        Number of CPU threads; 0 for one per core.
    stopped
        Returns whether to stop. A file that is unfinished then is not kept.
    """

    def __init__(
        self,
        run: Run,
        seconds: float,
        temperatures: Sequence[float],
        seed: int = 0,
        threads: int = 0,
        quiet: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.run, self.seconds, self.temperatures = run, seconds, temperatures
        self.seed, self.threads, self.quiet, self._stopped = seed, threads, quiet, stopped

    def __call__(self, step: int) -> None:
        """Write the missing samples of the checkpoint of an iteration."""
        self.run.samples_folder.mkdir(exist_ok=True)
        for temperature in self.temperatures:
            if self.run.sample_file(step, temperature).exists():
                continue
            try:
                self.write(step, temperature)
            except StoppedError:
                return

    @abc.abstractmethod
    def write(self, step: int, temperature: float) -> None:
        """Write one sample; raise StoppedError to leave none."""

    def check_stop(self) -> None:
        """Raise StoppedError if sampling is to stop."""
        if self._stopped():
            raise StoppedError


class SymbolSampler(CheckpointSampler):
    """Sampler for character networks that were trained on sound."""

    def write(self, step: int, temperature: float) -> None:
        """Write one sample."""
        checkpoint = load(self.run.checkpoint_file(step))
        length = max(1, round(self.seconds * (checkpoint.rate or 0)))
        with (
            progress(length, " symbols", self.quiet, unit_scale=True, desc="sampling", leave=False) as bar,
            open_sound(str(self.run.sample_file(step, temperature)), checkpoint) as sound,
        ):
            for ids in generate(engine(checkpoint, threads=self.threads), length, temperature, self.seed, CHUNK):
                self.check_stop()
                sound.write(ids[0])
                bar.update(len(ids[0]))


class StoppedError(Exception):
    """Leaves a file that is being written, which is then not kept."""
