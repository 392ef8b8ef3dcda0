"""The loss of a network on a part, the same whatever the shape of the batches that it was trained with."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from charrnn.data import ContiguousBatches
from charrnn.model import CharRNN, State
from charrnn.parallel import ALONE, World
from charrnn.runtime import autocast
from charrnn.vocab import Ids

BITS = 1 / math.log(2)  # in a nat
ROWS = 50
STEPS = 256


def evaluate(
    model: CharRNN,
    ids: Ids,
    precision: str = "fp32",
    device: str = "cpu",
    tell: Callable[[int, int], None] = lambda done, total: None,
    world: World = ALONE,
) -> float:
    """Mean loss in nats of every symbol of ids (n,), n >= 2, but the first.

    The part is read as 50 rows (fewer where it has fewer symbols) from the zero state, whatever the shape of
    the batches in training, so that figures of different runs can be compared. What does not fill the rows
    goes on from the state of the last one. The processes of a ``world`` each score rows of their own; all are told how
    far they are at the same places, and get the same mean.
    """
    training = model.training
    model.eval()
    try:
        return _mean_loss(model, ids, precision, device, tell, world)
    finally:
        model.train(training)


@torch.no_grad()
def _mean_loss(
    model: CharRNN, ids: Ids, precision: str, device: str, tell: Callable[[int, int], None], world: World
) -> float:
    rows = min(ROWS, len(ids) - 1)
    batches = ContiguousBatches(ids, rows, 1, world.rank, world.size)  # the last of many has the last row
    state = model.initial_state(batches.rows)
    total, count = 0.0, len(ids) - 1

    def score(x: NDArray[np.int64], y: NDArray[np.int64], state: State) -> tuple[float, State]:
        with autocast(precision, device):
            loss, state = model.loss(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device), state)
        return float(loss) * x.size, state

    for position in range(0, batches.row_length, STEPS):
        if batches.rows:
            nats, state = score(*batches.at(position, STEPS), state)
            total += nats
        tell(rows * min(position + STEPS, batches.row_length), count)
    left = ids[rows * batches.row_length :].astype(np.int64)[None]
    if left.shape[1] > 1 and world.rank == world.size - 1:
        last_row = tuple(tuple(tensor[-1:].contiguous() for tensor in layer) for layer in state)
        total += score(left[:, :-1], left[:, 1:], last_row)[0]
    return world.sum(total) / count
