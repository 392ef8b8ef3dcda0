"""The loss of a network on a part, the same whatever the shape of the batches that it was trained with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray

from charrnn.data import NEXT_SYMBOL, ContiguousBatches, Reach
from charrnn.model import Layers, State
from charrnn.parallel import ALONE, World
from charrnn.runtime import autocast
from charrnn.vocab import Ids

BITS = 1 / math.log(2)  # in a nat
ROWS = 50
STEPS = 256


def in_bits(nats: float) -> float:
    """Bits for nats."""
    return nats * BITS


def evaluate(
    model: Layers,
    ids: Ids,
    precision: str = "fp32",
    device: str = "cpu",
    tell: Callable[[int, int], None] = lambda done, total: None,
    world: World = ALONE,
    reach: Reach = NEXT_SYMBOL,
) -> float:
    """Mean loss in nats of every symbol of ids (n,), n >= 2, but the first (of another ``reach``: the first ``far``).

    The part is read as 50 rows (fewer where it has fewer symbols) from the zero state, whatever the shape of
    the batches in training, so that figures of different runs can be compared. What does not fill the rows
    goes on from the state of the last one. The processes of a ``world`` each score rows of their own; all are told how
    far they are at the same places, and get the same mean.
    """
    training = model.training
    model.eval()
    try:
        return _mean_loss(model, ids, precision, device, tell, world, reach)
    finally:
        model.train(training)


@torch.no_grad()
def _mean_loss(
    model: Layers,
    ids: Ids,
    precision: str,
    device: str,
    tell: Callable[[int, int], None],
    world: World,
    reach: Reach,
) -> float:
    total, count = 0.0, len(ids) - reach.far
    rows = min(ROWS, count)
    batches = ContiguousBatches(ids, rows, 1, world.rank, world.size, reach)  # the last of many has the last row
    state = model.initial_state(batches.rows)

    def score(x: NDArray[Any], y: NDArray[Any], state: State) -> tuple[float, State]:
        with autocast(precision, device):
            loss, state = model.loss(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device), state)
        return float(loss) * y.size, state

    steps = max(STEPS, reach.near // 32)  # those that reach far back are handed many symbols beside each step's own
    for position in range(0, batches.row_length, steps):
        if batches.rows:
            nats, state = score(*batches.at(position, steps), state)
            total += nats
        tell(rows * min(position + steps, batches.row_length), count)
    x, y = batches.rest()
    if y.size and world.rank == world.size - 1:
        last_row = tuple(tuple(tensor[-1:].contiguous() for tensor in layer) for layer in state)
        total += score(x, y, last_row)[0]
    return world.sum(total) / count
