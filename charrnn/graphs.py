"""Work of a GPU recorded once as a CUDA graph, and done again by one call instead of hundreds.

What is recorded reads and writes the same memory each time, so it is a function of no arguments that works in place.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

Work = Callable[[], None]

SWITCH = "CHARRNN_GRAPHS"  # the environment variable that, as 0, has everything run without graphs


def wanted(device: str) -> bool:
    """Whether work on a device is to be recorded: on an NVIDIA GPU, unless the environment says otherwise."""
    return device == "cuda" and os.environ.get(SWITCH) != "0"


def aside(work: Work) -> None:
    """Do the work once on a stream of its own, as libraries set themselves up there before they can be recorded."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)


def recorded(work: Work) -> Work:
    """What does the same work again; it is not done while it is recorded."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
