"""What stands for the kernel in Triton, which a test puts in its place."""

import sys
import types

import torch


def exact(lstm, x, h, c):
    """A way that is right: what stands for the kernel."""
    way, lstm.way = lstm.way, None
    try:
        y, (h, c) = lstm(x, (h, c))
    finally:
        lstm.way = way
    return y, h, c


class Kernel(types.ModuleType):
    """What stands for charrnn.kernel_lstm."""

    def __init__(self, kernel_lstm=exact):
        super().__init__("charrnn.kernel_lstm")
        self.function, self.flag, self.beside = kernel_lstm, torch.zeros(1, dtype=torch.int32), None

    def kernel_lstm(self, *args, beside=0):
        self.beside = beside
        return self.function(*args)

    def failures(self, device):
        return self.flag


def put_kernel(monkeypatch, function=exact):
    """Have the network's way ``kernel`` be a function; returns the module that it is in."""
    module = Kernel(function)
    monkeypatch.setitem(sys.modules, "charrnn.kernel_lstm", module)
    return module
