"""CUDA graphs: work of a GPU that is captured once and replayed by one call instead of hundreds.

Captured work reads and writes the same memory each time, so it is a function without arguments that works in place.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable

import torch

Work = Callable[[], None]

SWITCH = "CHARRNN_GRAPHS"  # environment variable; 0 disables graphs


def graphs_enabled(device: str) -> bool:
    """Return whether work on a device is captured: on an NVIDIA GPU, unless the environment variable is 0."""
    return device == "cuda" and os.environ.get(SWITCH) != "0"


def warm_up_on_side_stream(work: Work) -> None:
    """Run the work once on a side stream, as capturing requires, so that libraries initialise themselves before."""
    stream = _stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)


def capture(work: Work) -> Work:
    """Return a function that replays the work; it is not run while it is captured.

    If it cannot be captured, the first error is raised, and the device is left as it was: torch would leave the side
    stream current, and older versions would allocate all later memory in the graph's pool.
    """
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    before, reasons = torch.cuda.current_stream(), []

    def recorded() -> None:
        try:
            work()
        except Exception as error:
            reasons.append(error)
            raise

    try:
        with torch.cuda.graph(graph, pool=pool, stream=_stream(torch.cuda.current_device())):
            recorded()
    except Exception:
        torch.cuda.set_stream(before)
        with contextlib.suppress(RuntimeError, AttributeError):  # newer versions end it themselves
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        if reasons:
            raise reasons[0] from None
        raise
    return graph.replay


@functools.cache
def _stream(device: int) -> torch.cuda.Stream:
    """Return a GPU's side stream, always the same one, so that its memory and the libraries' workspaces are reused."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
