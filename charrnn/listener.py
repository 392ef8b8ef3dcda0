"""The events of a training, for those that show or record them: a progress bar, TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping


class Listener:
    """Receives the events of a `charrnn.train.Trainer`; a subclass overrides those that it needs."""

    def iterated(self, row: Mapping[str, float]) -> None:
        """An iteration is done; the row is that of log.csv."""

    def saving(self, iteration: int) -> None:
        """The run is about to be saved at an iteration, from which it can go on without repeating those before."""

    def validating(self, done: int, total: int) -> None:
        """So many symbols of the validation part are scored."""

    def checkpointed(self, iteration: int, row: Mapping[str, float] | None) -> None:
        """A checkpoint is complete; the row is that of val.csv, or None where there is no validation part."""

    def sampled(self, iteration: int) -> None:
        """The sound of a checkpoint is in the run's folder of samples, unless its making was interrupted."""
