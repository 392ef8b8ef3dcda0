"""Recurrent layers side by side on a GPU: the steps of a batch are cut into blocks, and a layer is at a block while the
layer below is at the next one. Of three layers and five blocks:

    layer 2               b0   b1   b2   b3   b4
    layer 1          b0   b1   b2   b3   b4
    layer 0     b0   b1   b2   b3   b4            --> time, which backward goes the other way

Block b of a layer needs block b of the layer below and the state after its own block b - 1, and nothing else. Each
layer has a CUDA stream of its own, so that it is the device which finds out what can run at the same time.

Backward overlaps as well, because autograd runs what belongs to an operation on the stream of that operation, and has
a stream wait wherever a gradient passes from one to another ("Stream semantics of backward passes" in torch's notes on
CUDA). At its end the stream that called ``backward`` waits for all streams on which gradients of weights were left:
each layer has weights, so that is all of them, and what reads the gradients next is safe.

It computes what the layers compute one after the other, except that dropout draws for each block on its own, which
makes other random numbers, and that sums over all steps (the gradients of weights) are made of sums over blocks.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Stage = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, tuple[Tensor, ...]]]
"""A layer with what follows it: (x: (N, t, D), state) -> (y: (N, t, H), state), for any number t of steps."""

STEPS_A_BLOCK_COSTS = 4.0
"""How many steps' time a block costs beside its steps: launches, weights that are cast anew, gradients that are added.
A guess from data sheets: 40 microseconds, where a step of torch's LSTM takes 10."""


def number_of_blocks(depth: int, steps: int) -> int:
    """Into how many blocks to cut T steps for L layers: 5 for 50 steps and 3 layers.

    With s a step's time and o what a block costs beside its steps, B blocks take (B + L - 1) (s T / B + o) in all,
    which is least at B = sqrt((L - 1) T s / o).
    """
    return max(1, min(steps, round(math.sqrt((depth - 1) * steps / STEPS_A_BLOCK_COSTS))))


class Lanes(Protocol):
    """Where stages run: each on a lane of its own, beside the main one, which the caller is on."""

    def fork(self) -> None:
        """From here on the lanes see what the main one was given before."""

    def on(self, lane: int) -> contextlib.AbstractContextManager[Any]:
        """Work within the block is the lane's."""

    def hand_over(self, tensors: Sequence[Tensor], lane: int) -> None:
        """A lane is about to read these, of the main one and of the lane below, which has just been given its block."""

    def join(self, tensors: Sequence[Tensor]) -> None:
        """The main lane sees all that the others were given, and is about to read these."""


class Streams:
    """CUDA streams as lanes.

    They are made once and kept, for what libraries set up for a stream, such as cuBLAS's memory, is then there before a
    graph is recorded. Recording works because every stream is forked from the one that is recorded, and joined to it.

    Memory: torch gives freed memory of a stream to what that stream is given next, without a look at others that may
    still read it. ``record_stream`` says who else reads a tensor: it is then freed only when they are done, also where
    autograd kept it and frees it behind its last use in backward. While a graph is recorded nobody can know when that
    is, and such a tensor's memory is not used again within the graph, which costs some megabytes and is safe. Gradients
    that pass between streams autograd records itself. Those of weights, made on a lane and read by the optimiser on the
    main one, are freed in the next step after ``fork``: what gets their memory comes after the optimiser.

    Parameters
    ----------
    cuda
        What stands for `torch.cuda`.
    """

    def __init__(self, count: int, cuda: Any = torch.cuda) -> None:
        self._cuda = cuda
        self._streams = [cuda.Stream() for _ in range(count)]

    def fork(self) -> None:
        """Every stream waits for the current one."""
        self._main = self._cuda.current_stream()
        for stream in self._streams:
            stream.wait_stream(self._main)

    def on(self, lane: int) -> contextlib.AbstractContextManager[Any]:
        """Its stream is the current one, for autograd and for memory as well."""
        stream: contextlib.AbstractContextManager[Any] = self._cuda.stream(self._streams[lane])
        return stream

    def hand_over(self, tensors: Sequence[Tensor], lane: int) -> None:
        """A stream waits for what the one below has been given so far: its block b, and not yet its block b + 1."""
        if lane:
            self._streams[lane].wait_stream(self._streams[lane - 1])
        for tensor in tensors:
            tensor.record_stream(self._streams[lane])

    def join(self, tensors: Sequence[Tensor]) -> None:
        """The current stream waits for every other."""
        for stream in self._streams:
            self._main.wait_stream(stream)
        for tensor in tensors:
            tensor.record_stream(self._main)


class OneLane:
    """Lanes where there are none, as on a CPU: blocks are computed in the order in which they are given."""

    def fork(self) -> None:
        """Nothing to wait for."""

    def on(self, lane: int) -> contextlib.AbstractContextManager[Any]:
        """Where all is."""
        return contextlib.nullcontext()

    def hand_over(self, tensors: Sequence[Tensor], lane: int) -> None:
        """They are there."""

    def join(self, tensors: Sequence[Tensor]) -> None:
        """They are there."""


class Wavefront:
    """What runs the stages of a network over a batch in blocks.

    Parameters
    ----------
    blocks
        How many; 0: as `number_of_blocks` says.
    lanes
        Where; None: streams on a GPU, made at the first batch.
    """

    def __init__(self, blocks: int = 0, lanes: Lanes | None = None) -> None:
        self._blocks, self._lanes = blocks, lanes

    def __call__(
        self, stages: Sequence[Stage], x: Tensor, state: Sequence[tuple[Tensor, ...]]
    ) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Outputs (N, T, H) of the last stage for inputs (N, T, D) of the first, and each one's state after them."""
        if self._lanes is None:
            self._lanes = Streams(len(stages)) if x.is_cuda else OneLane()
        lanes, states, outputs = self._lanes, list(state), []
        lengths = _lengths(x.shape[1], self._blocks or number_of_blocks(len(stages), x.shape[1]))
        pieces = torch.split(x, lengths, dim=1)  # whose backward is one operation, not one a piece
        lanes.fork()
        for piece in pieces:
            for lane, stage in enumerate(stages):
                lanes.hand_over([piece, *states[lane]], lane)
                with lanes.on(lane):
                    piece, states[lane] = stage(piece, states[lane])
            outputs.append(piece)
        lanes.join([*outputs, *(tensor for layer in states for tensor in layer)])
        return torch.cat(outputs, dim=1), states


def _lengths(steps: int, blocks: int) -> list[int]:
    """Of blocks that are as even as can be, none of them empty."""
    blocks = min(steps, blocks)
    return [steps * (b + 1) // blocks - steps * b // blocks for b in range(blocks)]
