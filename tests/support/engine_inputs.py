"""Networks, symbols and uniform numbers for tests of engines."""

import numpy as np
import torch

from charrnn.models.char_rnn import build
from charrnn.sampling.generate import uniforms


def uniform_numbers(steps, streams, seed=0):
    """Return u (steps, streams)."""
    return np.stack([uniforms(seed, k, 0, steps) for k in range(streams)], axis=1)


def random_symbols(streams, steps, vocab_size=7, seed=0):
    """Return ids (streams, steps)."""
    return np.random.default_rng(seed).integers(0, vocab_size, (streams, steps))


def perturbed(config, seed=0, amount=0.1, sharpness=1):
    """Return a network whose weights that begin at zero are not zero, with logits times `sharpness`."""
    model = build(config, seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                parameter.add_(noise * amount)
        model.output.weight.mul_(sharpness)
    return model
