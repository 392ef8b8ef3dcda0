"""The loss of a network on a part of the data, whatever the shape of the batches in training."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bytecodec.arguments import check_choice, check_integers
from bytecodec.errors import InputError
from charrnn.data.batches import NEXT_SYMBOL, ContextWindow, ContiguousBatches
from charrnn.data.vocab import Ids
from charrnn.models.char_rnn import Layers, State
from charrnn.models.config import SILENCE_ID, map_state
from charrnn.runtime import PRECISIONS, autocast
from charrnn.training.distributed import SINGLE_PROCESS, World

BITS = 1 / math.log(2)  # per nat
ROWS = 50
STEPS = 256


def in_bits(nats: float) -> float:
    """Convert nats to bits."""
    return nats * BITS


def evaluate(
    model: Layers,
    ids: Ids,
    precision: str = "fp32",
    device: str = "cpu",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    world: World = SINGLE_PROCESS,
    context: ContextWindow = NEXT_SYMBOL,
) -> float:
    """Return the mean loss in nats of all symbols of ids (n,), n >= 2, except the first ``context.max_lag``.

    The part is read as 50 rows (fewer if it has fewer symbols) from the zero state, so that losses of different runs
    can be compared. A network that reads samples as numbers also reads those before a row. The symbols after the last
    row continue from the state of that row. Each process of a ``world`` scores some of the rows. All processes call
    ``on_progress(done, total)`` at the same positions and return the same mean.

    Rows and steps are scored in pieces whose size depends on the network only (`Layers.max_symbols`), so that the
    result is reproducible. Pieces of another size would change it by rounding only.

    Raises
    ------
    InputError
        The model is not a network of charrnn, or the ids are too few, of another shape or type, or not its symbols.
    """
    if not isinstance(model, Layers):
        raise InputError(f"model is a {type(model).__name__}; it must be a network of charrnn.")
    if len(check_integers("ids", ids, 1)) <= context.max_lag:
        raise InputError(f"{len(ids)} ids are too few to evaluate: more than {context.max_lag} are needed.")
    check_choice("precision", precision, PRECISIONS)
    training = model.training
    model.eval()
    try:
        return _mean_loss(model, ids, precision, device, on_progress, world, context)
    except IndexError as error:  # raised by torch in the embedding and the loss
        raise InputError("ids has symbols that the network does not have.") from error
    finally:
        model.train(training)


@torch.no_grad()
def _mean_loss(
    model: Layers,
    ids: Ids,
    precision: str,
    device: str,
    on_progress: Callable[[int, int], None],
    world: World,
    context: ContextWindow,
) -> float:
    total, count = 0.0, len(ids) - context.max_lag
    rows = min(ROWS, count)
    batches = ContiguousBatches(ids, rows, 1, world.rank, world.size, context)  # the last process has the last row
    max_symbols = model.max_symbols()
    # Networks with a long window receive many symbols for each step.
    steps = max(1, min(max(STEPS, context.min_lag // 32), max_symbols // rows))
    # There is one group of rows unless the vocabulary is very large.
    groups = [slice(first, first + max_symbols) for first in range(0, batches.rows, max_symbols)]
    before = torch.from_numpy(_symbols_before(ids, batches, model.history)).to(device)
    states = [model.state_after(before[group]) for group in groups]

    def score(x: Tensor, y: Tensor, state: State) -> tuple[float, State]:
        with autocast(precision, device):
            loss, state = model.loss(x.to(device), y.to(device), state)
        return float(loss) * y.numel(), state

    for position in range(0, batches.row_length, steps):
        if batches.rows:
            x, y = map(torch.from_numpy, batches.at(position, steps))
            for k, group in enumerate(groups):
                nats, states[k] = score(x[group], y[group], states[k])
                total += nats
        on_progress(rows * min(position + steps, batches.row_length), count)
    x, y = map(torch.from_numpy, batches.rest())
    if y.numel() and world.rank == world.size - 1:
        state = map_state(lambda tensor: tensor[-1:].contiguous(), states[-1])
        for start in range(0, y.shape[1], max_symbols):
            end = min(start + max_symbols, y.shape[1])
            nats, state = score(x[:, start : end + x.shape[1] - y.shape[1]], y[:, start:end], state)
            total += nats
    return world.all_reduce_sum(total) / count


def _symbols_before(ids: Ids, batches: ContiguousBatches, count: int) -> NDArray[np.int64]:
    """Return the symbols (rows, count) before each row; those before the first one are silence."""
    before = np.full((batches.rows, count), SILENCE_ID, dtype=np.int64)
    for row, symbols in enumerate(before, batches.own.start):
        start = row * batches.row_length
        known = min(start, count)
        symbols[count - known :] = ids[start - known : start]
    return before
