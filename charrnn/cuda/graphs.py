"""Work of a GPU recorded once as a CUDA graph, and done again by one call instead of hundreds.

What is recorded reads and writes the same memory each time, so it is a function of no arguments that works in place.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable

import torch

Work = Callable[[], None]

SWITCH = "CHARRNN_GRAPHS"  # the environment variable that, as 0, has everything run without graphs


def graphs_enabled(device: str) -> bool:
    """Whether work on a device is to be recorded: on an NVIDIA GPU, unless the environment says otherwise."""
    return device == "cuda" and os.environ.get(SWITCH) != "0"


def warm_up_on_side_stream(work: Work) -> None:
    """Do the work once beside the current stream, as libraries set themselves up before they can be recorded."""
    stream = _stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)


def capture(work: Work) -> Work:
    """What does the same work again; it is not done while it is recorded.

    Where it cannot be recorded, what stood in the way is raised, and not what follows from it; and the device is as
    before: torch leaves its stream the current one then, and up to some version takes all memory for that of a graph.
    """
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    before, reasons = torch.cuda.current_stream(), []

    def noted() -> None:
        try:
            work()
        except Exception as error:
            reasons.append(error)
            raise

    try:
        with torch.cuda.graph(graph, pool=pool, stream=_stream()):
            noted()
    except Exception:
        torch.cuda.set_stream(before)
        with contextlib.suppress(RuntimeError, AttributeError):  # newer versions have ended it by themselves
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        if reasons:
            raise reasons[0] from None
        raise
    return graph.replay


@functools.cache
def _stream_of(device: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _stream() -> torch.cuda.Stream:
    """One for all work beside the current stream: memory that was used there, and what libraries keep for each stream,
    is there for the next."""
    return _stream_of(torch.cuda.current_device())
