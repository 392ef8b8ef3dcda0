"""The processes that train together: each computes rows of its own, and their gradients are averaged.

torchrun starts them, and tells each by environment variables who it is and where they meet. Imports torch only inside
functions, as a command asks here who it is before it sets torch up.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bytecodec.console import FAILED, INTERRUPTED, TERMINATED, Terminated
from bytecodec.errors import InputError, first_line

if TYPE_CHECKING:
    from torch import Tensor

    from charrnn.models.char_rnn import State

TIMEOUT = timedelta(minutes=10)  # for a process that trains to meet the others, who then take it for hung
LONG_TIMEOUT = timedelta(days=30)  # while the main process prepares a corpus or samples; its death is noticed at once
BUCKET = 1 << 24  # numbers (64 MB) that are averaged at a time
RUN_KEY = "charrnn/run"  # of this job's run, in the store that outlives torchrun's restarts


class World:
    """One process of ``size``, the ``rank``-th; rank 0 leads, which is to write and to talk.

    This one is a world of one process, in which nothing has to be agreed on.
    """

    rank = 0
    size = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor], weight: float) -> None:
        """Put the weighted sum of all processes' tensors in their place; the weights add up to 1."""

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return self.all_reduce_max(flag) > 0

    def all_reduce_max(self, number: float) -> float:
        """The largest of all processes' numbers."""
        return number

    def sum(self, number: float) -> float:
        """The sum of all processes' numbers."""
        return number

    def broadcast(self, number: float) -> float:
        """The leader's number."""
        return number

    def all_equal(self, tensors: Iterable[Tensor], number: int) -> bool:
        """Whether all have these tensors and this number, as they may not where a shared folder shows old files."""
        return True

    def gather(self, state: State) -> State:
        """The state of the rows of all processes, in the order of their ranks; only the leader gets it whole."""
        return state

    def wait(self) -> None:
        """Wait for all others, however long it takes them."""

    def publish(self, run: str) -> None:
        """The leader's part: tell the others, and itself after a restart, which run this is; it is open by now."""

    def receive(self) -> str:
        """The others' part: wait, however long it takes, for the leader to say which run it is."""
        raise NotImplementedError

    def run_before_restart(self) -> str | None:
        """The run that this job trained when torchrun started it anew, or None."""
        return None


SINGLE_PROCESS = World()


class PeerError(InputError):
    """Another process of this training is gone or hangs, so that this one cannot go on."""


def is_one_of_many() -> bool:
    """Whether torchrun, or who speaks its language, started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get("WORLD_SIZE", "1") != "1"


def is_main() -> bool:
    """Whether this process is the one that talks, as far as can be known before they have met."""
    return not is_one_of_many() or os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def main_process_only() -> Iterator[None]:
    """Print nothing in any process but the one that leads, while all say the same."""
    if is_main():
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stderr(nowhere),
        contextlib.redirect_stdout(nowhere),
    ):
        yield


@contextlib.contextmanager
def join() -> Iterator[World]:
    """Be one of the processes that train together, as the environment says: `ALONE` where it says nothing.

    Whichever process fails first says why, and the others, which fail for want of it, end without a word.

    Raises
    ------
    InputError
        The environment is not as torchrun makes it, or the others cannot be reached.
    """
    if not is_one_of_many():
        yield SINGLE_PROCESS
        return
    world = _Group(*_who_and_where())
    try:
        yield world
    except BaseException as error:
        code = _exit_code(error)
        if not world.is_first_to_fail() and code is not None:
            raise SystemExit(code) from None
        if type(error) is InputError and not world.is_main:
            raise InputError(f"{error} (Process {world.rank} of {world.size}, on {socket.gethostname()}.)") from None
        raise
    world.leave()


def _who_and_where() -> tuple[int, int, str, int]:
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    values = [os.environ.get(name, "") for name in names]
    for name, value in zip(names, values, strict=True):
        if not (value if name == "MASTER_ADDR" else value.isdecimal()):
            raise InputError(f"the environment variable {name} is {value!r}: start several processes with torchrun.")
    rank, size, address, port = values
    return int(rank), int(size), address, int(port)


def _exit_code(error: BaseException) -> int | None:
    """What a command exits with for an error that it has words for."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, Terminated):
        return TERMINATED
    return FAILED if isinstance(error, InputError | OSError | MemoryError) else None


class _Group(World):
    """Processes that meet through torch.distributed: numbers and states by gloo, gradients by NCCL if on GPUs."""

    def __init__(self, rank: int, size: int, address: str, port: int) -> None:
        import torch

        self._torch: Any = torch
        distributed: Any = torch.distributed
        self._distributed = distributed
        self.rank, self.size = rank, size
        keeper = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        on_gpus = distributed.is_nccl_available() and torch.cuda.is_available()
        with _together():
            self._store: Any = distributed.TCPStore(address, port, size, keeper, TIMEOUT)
            self._attempt: Any = distributed.PrefixStore(_meeting(self._store, rank, size), self._store)
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
                store=self._attempt,
                rank=rank,
                world_size=size,
                timeout=TIMEOUT,
            )
            self._long_group = distributed.new_group(backend="gloo", timeout=LONG_TIMEOUT)

    def leave(self) -> None:
        """Part with the others, when all is done.

        Torch's threads end with what they serve. Those of groups and stores that are still there when Python ends abort
        the process now and then, after all has been done and said.
        """
        self._distributed.destroy_process_group()
        self._long_group = self._attempt = self._store = None

    def is_first_to_fail(self) -> bool:
        """Whether no other process has failed before; from now on, one has."""
        try:
            return int(self._attempt.add("failed", 1)) == 1
        except RuntimeError:  # the store went down with its keeper
            return True

    def average(self, tensors: Sequence[Tensor], weight: float) -> None:
        """Put the weighted sum of all processes' tensors in their place; the weights add up to 1."""
        bucket: list[Tensor] = []
        for tensor in tensors:
            bucket.append(tensor)
            if sum(t.numel() for t in bucket) >= BUCKET:
                self._average(bucket, weight)
                bucket = []
        if bucket:
            self._average(bucket, weight)

    def _average(self, tensors: Sequence[Tensor], weight: float) -> None:
        flat = self._torch.cat([tensor.flatten().float() for tensor in tensors]).mul_(weight)
        with _together():
            self._distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def all_reduce_max(self, number: float) -> float:
        """The largest of all processes' numbers."""
        return self._reduced(number, self._distributed.ReduceOp.MAX)

    def sum(self, number: float) -> float:
        """The sum of all processes' numbers."""
        return self._reduced(number, self._distributed.ReduceOp.SUM)

    def _reduced(self, number: float, operation: Any) -> float:
        box = self._torch.tensor(number, dtype=self._torch.float64)
        with _together():
            self._distributed.all_reduce(box, operation)
        return float(box)

    def broadcast(self, number: float) -> float:
        """The leader's number."""
        box = self._torch.tensor(number, dtype=self._torch.float64)
        with _together():
            self._distributed.broadcast(box, 0)
        return float(box)

    def all_equal(self, tensors: Iterable[Tensor], number: int) -> bool:
        """Whether all have these tensors and this number, as they may not where a shared folder shows old files."""
        for tensor in tensors:
            number = zlib.crc32(tensor.detach().cpu().numpy().tobytes(), number)
        return not self.any(self.broadcast(number) != number)

    def gather(self, state: State) -> State:
        """The state of the rows of all processes, in the order of their ranks; only the leader gets it whole."""
        rows = self._torch.zeros(self.size, dtype=self._torch.int64)
        rows[self.rank] = len(state[0][0])
        with _together():
            self._distributed.all_reduce(rows)
            return tuple(tuple(self._gathered(tensor, rows.tolist()) for tensor in layer) for layer in state)

    def _gathered(self, own: Tensor, rows: Sequence[int]) -> Tensor:
        own = own.cpu().contiguous()
        if self.rank:
            self._distributed.send(own, 0)
            return own
        others = [own.new_empty(n, *own.shape[1:]) for n in rows[1:]]
        for rank, tensor in enumerate(others, 1):
            self._distributed.recv(tensor, rank)
        whole: Tensor = self._torch.cat([own, *others])
        return whole

    def wait(self) -> None:
        """Wait for all others, however long it takes them."""
        with _together():
            self._distributed.barrier(self._long_group)

    def publish(self, run: str) -> None:
        """The leader's part: tell the others, and itself after a restart, which run this is; it is open by now."""
        with _together():
            self._store.set(RUN_KEY, os.fsencode(run))
        self.wait()

    def receive(self) -> str:
        """The others' part: wait, however long it takes, for the leader to say which run it is."""
        self.wait()
        with _together():
            return os.fsdecode(self._store.get(RUN_KEY))

    def run_before_restart(self) -> str | None:
        """The run that this job trained when torchrun started it anew, or None."""
        with _together():
            known = self._store.check([RUN_KEY])
            return os.fsdecode(self._store.get(RUN_KEY)) if known else None


def _meeting(store: Any, rank: int, size: int) -> str:
    """A name for this meeting that no earlier one had, the same in all processes.

    The store may hold what was written before a restart, and the restarts that torchrun counts differ from host to
    host. So nothing that is found in it is believed: the leader clears the greetings of old before it waits for new
    ones, and a process greets until it is answered by the name that it made up.
    """
    name = uuid.uuid4().hex
    others = [f"charrnn/hello/{other}" for other in range(1, size)]
    if rank == 0:
        for hello in others:
            store.delete_key(hello)
        for hello in others:
            store.set(f"charrnn/welcome/{store.get(hello).decode()}", name)
        return name
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    while not store.check([f"charrnn/welcome/{name}"]):
        if time.monotonic() > deadline:
            raise RuntimeError("timeout")
        store.set(f"charrnn/hello/{rank}", name)
        time.sleep(0.02)
    return str(store.get(f"charrnn/welcome/{name}").decode())


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Say in a sentence what torch.distributed raises when the others are not there."""
    try:
        yield
    except RuntimeError as error:
        first = first_line(error)
        if "imed out" in first or "timeout" in first.lower():
            what = f"another process of this training did not answer for {TIMEOUT.seconds // 60} minutes"
        elif any(word in first for word in ("losed", "reset", "refused", "roken pipe", "onnection", "ocket")):
            what = "another process of this training died"
        else:
            what = f"the processes of this training cannot meet ({first})"
        raise PeerError(
            f"{what} ({socket.gethostname()} noticed). What was saved last is whole: go on from it with --resume."
        ) from None
