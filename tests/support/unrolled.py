"""The slow reference of cells' ``forward``."""

import torch


def unrolled(cell, x, state):
    """Compute ``cell.forward`` step by step."""
    outputs = []
    for x_t in x.unbind(dim=1):
        y_t, state = cell.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, dim=1), state
