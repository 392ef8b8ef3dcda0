"""Samples while a network trains: what each checkpoint sounds like."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bytecodec.console import progress
from charrnn.engines import engine
from charrnn.frames import model as frame_model
from charrnn.frames.generate import FrameStream
from charrnn.runtime import set_threads
from charrnn.sampling.generate import generate
from charrnn.sampling.writers import open_samples, open_sound
from charrnn.storage.checkpoint_format import load
from charrnn.storage.run_dir import Run

CHUNK = 256  # symbols between looks at whether to stop


class CheckpointSampler:
    """Writes samples/STEP_tTEMPERATURE.wav of a run's checkpoints.

    Each starts from the zero state and with the same seed, so that what differs is what was learnt.

    Parameters
    ----------
    seconds
        The length of each.
    temperatures
        One file for each of them.
    threads
        Number of CPU threads; 0 for one per core.
    stopped
        Whether to stop; a file that is begun then is not kept.
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
        self._run, self._seconds, self._temperatures = run, seconds, temperatures
        self._seed, self._threads, self._quiet, self._stopped = seed, threads, quiet, stopped

    def __call__(self, step: int) -> None:
        """Write the missing samples of the checkpoint of an iteration."""
        self._run.samples_folder.mkdir(exist_ok=True)
        for temperature in self._temperatures:
            if self._run.sample_file(step, temperature).exists():
                continue
            try:
                self._sample(step, temperature)
            except _StoppedError:
                return

    def _sample(self, step: int, temperature: float) -> None:
        checkpoint = load(self._run.checkpoint_file(step))
        length = max(1, round(self._seconds * (checkpoint.rate or 0)))
        with (
            progress(length, " symbols", self._quiet, unit_scale=True, desc="sampling", leave=False) as bar,
            open_sound(str(self._run.sample_file(step, temperature)), checkpoint) as sound,
        ):
            for ids in generate(engine(checkpoint, threads=self._threads), length, temperature, self._seed, CHUNK):
                if self._stopped():
                    raise _StoppedError
                sound.write(ids[0])
                bar.update(len(ids[0]))


class FrameSampler(CheckpointSampler):
    """The same for a run of a frame predictor."""

    def _sample(self, step: int, temperature: float) -> None:
        set_threads(self._threads)
        checkpoint = frame_model.load(self._run.checkpoint_file(step))
        left = max(1, round(self._seconds * checkpoint.rate))
        take = FrameStream(checkpoint.model, seed=self._seed, temperature=temperature)
        with (
            progress(left, " samples", self._quiet, unit_scale=True, desc="sampling", leave=False) as bar,
            open_samples(str(self._run.sample_file(step, temperature)), checkpoint.rate) as sound,
        ):
            while left:
                if self._stopped():
                    raise _StoppedError
                samples = take.read(left)
                sound.write(samples)
                bar.update(len(samples))
                left -= len(samples)


class _StoppedError(Exception):
    """Leaves the file that is being written, which is then not kept."""
