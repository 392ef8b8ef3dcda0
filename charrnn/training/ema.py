"""The exponential moving average of the weights, which a run validates and saves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

WARM_UP = 10  # the initial weights lose their influence in about this many iterations, however high the decay is


class EMA:
    """The exponential moving average of a network's weights.

    After iteration t, counted from 1: average <- d average + (1 - d) weights, with d = min(decay, t / (t + 9)), so that
    the random initial weights lose their influence in the first iterations. Averaging along the path removes the noise
    that a rate above zero leaves in the weights (Polyak and Juditsky 1992); a falling rate does so only at the end.
    The average starts as a copy of the weights, and spans about 1 / (1 - decay) iterations.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._weights = parameters
        self._decay = decay
        self.tensors = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Include the weights after an iteration, counted from 1."""
        decay = min(self._decay, iteration / (iteration + WARM_UP - 1))
        torch._foreach_lerp_(list(self.tensors.values()), list(self._weights.values()), 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Use the averaged weights in the network within the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, weights in self._weights.items():
            weights.data, self.tensors[name] = self.tensors[name], weights.data
