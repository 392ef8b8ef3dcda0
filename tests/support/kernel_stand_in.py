"""A stand-in for the kernel in Triton, so that backends can be tested without a GPU."""

import sys
import types

import torch


def exact(lstm, x, h, c):
    """Compute what torch's layer computes."""
    function, lstm.training_function = lstm.training_function, None
    try:
        y, (h, c) = lstm(x, (h, c))
    finally:
        lstm.training_function = function
    return y, h, c


class Kernel(types.ModuleType):
    """Replaces charrnn.cuda.lstm."""

    def __init__(self, function=exact):
        super().__init__("charrnn.cuda.lstm")
        self.kernel_lstm, self.flag = function, torch.zeros(1, dtype=torch.int32)

    def failures(self, device):
        return self.flag

    def check_size(self, n, units, device):
        pass


def put_kernel(monkeypatch, function=exact):
    """Use a function as the backend ``kernel``; return the module that it is in."""
    module = Kernel(function)
    monkeypatch.setitem(sys.modules, "charrnn.cuda.lstm", module)
    return module
