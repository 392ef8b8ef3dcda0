"""The processes that train together: each computes rows of its own, and their gradients are averaged."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from charrnn.model import State


class World:
    """One process of ``size``, the ``rank``-th; rank 0 leads, which is to write and to talk.

    This one is a world of one process, in which nothing has to be agreed on.
    """

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor], weight: float) -> None:
        """Put the weighted sum of all processes' tensors in their place; the weights add up to 1."""

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag

    def leaders(self, number: float) -> float:
        """The leader's number."""
        return number

    def gather(self, state: State) -> State:
        """The state of the rows of all processes, in the order of their ranks; only the leader gets it whole."""
        return state


ALONE = World()
