"""Recordings and flags for small runs of frame predictors."""

import numpy as np

RATE = 16000
SMALL = "--frames --cell lstmp --rnn-size 12 --layers 1 --frame-taps 4 --seq-length 20 --batch-size 8".split()
SMALL += ["--threads", "1", "-q"]


def voice(seconds):
    """Return glides of a harmonic sound with a little noise, (n,) int16 at 16 kHz."""
    t = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    x = sum(np.sin(k * phase) / k for k in range(1, 6)) * (1 + 0.5 * np.sin(2 * np.pi * 1.3 * t))
    return (3000 * x + np.random.default_rng(0).normal(0, 60, t.size)).astype(np.int16)
