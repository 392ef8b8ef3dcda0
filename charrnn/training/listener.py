"""Interface for objects that receive the events of training, such as a progress bar or TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping


class Listener:
    """Receiver of the events of a `charrnn.training.trainer.Trainer`; a subclass overrides what it needs."""

    def iterated(self, row: Mapping[str, float]) -> None:
        """Handle a finished iteration, with its row of log.csv."""

    def saving(self, iteration: int) -> None:
        """Handle the moment before the run is saved at an iteration, from which it can be resumed."""

    def validating(self, done: int, total: int) -> None:
        """Handle the progress of a validation, in symbols."""

    def checkpointed(self, iteration: int, row: Mapping[str, float] | None) -> None:
        """Handle a complete checkpoint, with its row of val.csv; None without a validation part."""

    def sampled(self, iteration: int) -> None:
        """Handle the end of sampling at a checkpoint, which may have been interrupted."""
