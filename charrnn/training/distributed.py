"""Training by several processes: each computes some of the rows, and gradients are averaged.

torchrun starts the processes and describes the group in environment variables. torch is imported only inside functions,
because commands read the rank of the process before they configure torch.
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
from charrnn.models.config import map_state

if TYPE_CHECKING:
    from torch import Tensor

    from charrnn.models.char_rnn import State

TIMEOUT = timedelta(minutes=10)  # for one collective operation; a process that exceeds it is assumed to hang
LONG_TIMEOUT = timedelta(days=30)  # while the main process prepares a corpus or samples; its end is still detected
HEAD_START = 5.0  # seconds for the main process to report a wrong command line before the others end
BUCKET = 1 << 24  # numbers (64 MB) that are averaged at a time
RUN_KEY = "charrnn/run"  # path of this job's run, in the store that outlives torchrun's restarts


class World:
    """The group of processes that train together, as an object in the process of one rank.

    This class is the group of a single process; its methods return what they are given.
    """

    rank = 0
    size = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and messages: the one of rank 0."""
        return self.rank == 0

    def all_reduce_weighted_mean(self, tensors: Sequence[Tensor], weight: float) -> None:
        """Replace tensors by their weighted means over all processes, whose weights add up to 1."""

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true in any process."""
        return self.all_reduce_max(flag) > 0

    def all_reduce_max(self, number: float) -> float:
        """Return the maximum over all processes."""
        return number

    def all_reduce_sum(self, number: float) -> float:
        """Return the sum over all processes."""
        return number

    def broadcast(self, number: float) -> float:
        """Return the number of the main process."""
        return self.all_reduce_sum(number if self.is_main else 0.0)

    def all_equal(self, tensors: Iterable[Tensor], number: int) -> bool:
        """Return whether all processes have the same tensors and number. A shared folder may have shown old files."""
        return True

    def gather_state(self, state: State) -> State:
        """Return the state of the rows of all processes, in the order of ranks. Only the main process gets all."""
        return state

    def barrier(self) -> None:
        """Wait for all other processes, without a timeout."""

    def publish(self, run: str) -> None:
        """Send the path of the run to the other processes, and to the main process after a restart."""

    def receive(self) -> str:
        """Wait for the path of the run from the main process, without a timeout."""
        raise NotImplementedError

    def run_before_restart(self) -> str | None:
        """Return the path of the run that this job trained before torchrun restarted it, or None."""
        return None


SINGLE_PROCESS = World()


class PeerError(InputError):
    """Error for another process of this run that ended or hangs."""


def is_distributed() -> bool:
    """Return whether torchrun, or a launcher with the same environment variables, started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get("WORLD_SIZE", "1") != "1"


def is_main() -> bool:
    """Return whether this is the main process, according to the environment."""
    return not is_distributed() or os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def main_process_only() -> Iterator[None]:
    """Discard the output of the block in all processes except the main one.

    If the block exits with an error, the others exit later, since torchrun stops all processes when one fails.
    """
    if is_main():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        try:
            yield
        except SystemExit as error:
            time.sleep(HEAD_START if error.code else 0)
            raise


@contextlib.contextmanager
def join() -> Iterator[World]:
    """Join the group that the environment describes; `SINGLE_PROCESS` if it describes none.

    The first process that fails reports its error. The others, which fail as a consequence, end silently. Raise
    InputError if environment variables are incomplete, or other processes cannot be reached.
    """
    if not is_distributed():
        yield SINGLE_PROCESS
        return
    world = _Group(*_group_from_environment())
    try:
        yield world
    except BaseException as error:
        code = _exit_code(error)
        if not world.is_first_to_fail() and code is not None:
            raise SystemExit(code) from None
        if type(error) is InputError and not world.is_main:
            raise InputError(f"{error} (Process {world.rank} of {world.size}, on {socket.gethostname()}.)") from None
        raise
    world.close()


def _group_from_environment() -> tuple[int, int, str, int]:
    """Return rank, number of processes, and the address and port of the store."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    values = [os.environ.get(name, "") for name in names]
    for name, value in zip(names, values, strict=True):
        if not (value if name == "MASTER_ADDR" else value.isdecimal()):
            raise InputError(f"the environment variable {name} is {value!r}: start several processes with torchrun.")
    rank, size, address, port = values
    return int(rank), int(size), address, int(port)


def _exit_code(error: BaseException) -> int | None:
    """Return the exit code of a command for an error that it reports; None for an unexpected error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, Terminated):
        return TERMINATED
    return FAILED if isinstance(error, InputError | OSError | MemoryError) else None


class _Group(World):
    """Processes that communicate by torch.distributed: numbers and states by gloo, gradients on GPUs by NCCL."""

    def __init__(self, rank: int, size: int, address: str, port: int) -> None:
        import torch

        self._torch: Any = torch
        distributed: Any = torch.distributed
        self._distributed = distributed
        self.rank, self.size = rank, size
        keeps_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        on_gpus = distributed.is_nccl_available() and torch.cuda.is_available()
        with _peer_errors():
            self._store: Any = distributed.TCPStore(address, port, size, keeps_store, TIMEOUT)
            self._session: Any = distributed.PrefixStore(_session_name(self._store, rank, size), self._store)
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
                store=self._session,
                rank=rank,
                world_size=size,
                timeout=TIMEOUT,
            )
            self._long_group = distributed.new_group(backend="gloo", timeout=LONG_TIMEOUT)

    def close(self) -> None:
        """Leave the group.

        Threads of groups and stores that still exist when Python exits sometimes abort the process.
        """
        self._distributed.destroy_process_group()
        self._long_group = self._session = self._store = None

    def is_first_to_fail(self) -> bool:
        """Record a failure; return whether it is the first of all processes."""
        try:
            return int(self._session.add("failed", 1)) == 1
        except RuntimeError:  # the process that keeps the store has ended
            return True

    def all_reduce_weighted_mean(self, tensors: Sequence[Tensor], weight: float) -> None:
        bucket: list[Tensor] = []
        for count, tensor in enumerate(tensors, 1):
            bucket.append(tensor)
            sizes = [t.numel() for t in bucket]
            if count == len(tensors) or sum(sizes) >= BUCKET:
                flat = self._torch.cat([t.flatten().float() for t in bucket]).mul_(weight)
                with _peer_errors():
                    self._distributed.all_reduce(flat)
                for averaged, part in zip(bucket, flat.split(sizes), strict=True):
                    averaged.copy_(part.view_as(averaged))
                bucket = []

    def all_reduce_max(self, number: float) -> float:
        return self._all_reduce(number, self._distributed.ReduceOp.MAX)

    def all_reduce_sum(self, number: float) -> float:
        return self._all_reduce(number, self._distributed.ReduceOp.SUM)

    def _all_reduce(self, number: float, operation: Any) -> float:
        box = self._torch.tensor(number, dtype=self._torch.float64)
        with _peer_errors():
            self._distributed.all_reduce(box, operation)
        return float(box)

    def all_equal(self, tensors: Iterable[Tensor], number: int) -> bool:
        for tensor in tensors:
            number = zlib.crc32(tensor.detach().cpu().numpy().tobytes(), number)
        return not self.any(self.broadcast(number) != number)

    def gather_state(self, state: State) -> State:
        if not state:
            return state
        rows = self._torch.zeros(self.size, dtype=self._torch.int64)
        rows[self.rank] = len(state[0][0])
        with _peer_errors():
            self._distributed.all_reduce(rows)
            return map_state(lambda tensor: self._gather(tensor, rows.tolist()), state)

    def _gather(self, own: Tensor, rows: Sequence[int]) -> Tensor:
        own = own.cpu().contiguous()
        if self.rank:
            self._distributed.send(own, 0)
            return own
        others = [own.new_empty(n, *own.shape[1:]) for n in rows[1:]]
        for rank, tensor in enumerate(others, 1):
            self._distributed.recv(tensor, rank)
        whole: Tensor = self._torch.cat([own, *others])
        return whole

    def barrier(self) -> None:
        with _peer_errors():
            self._distributed.barrier(self._long_group)

    def publish(self, run: str) -> None:
        with _peer_errors():
            self._store.set(RUN_KEY, os.fsencode(run))
        self.barrier()

    def receive(self) -> str:
        self.barrier()
        with _peer_errors():
            return os.fsdecode(self._store.get(RUN_KEY))

    def run_before_restart(self) -> str | None:
        with _peer_errors():
            exists = self._store.check([RUN_KEY])
            return os.fsdecode(self._store.get(RUN_KEY)) if exists else None


def _session_name(store: Any, rank: int, size: int) -> str:
    """Return a name that is the same in all processes and new after each restart.

    The store may hold keys from before a restart, and torchrun's counts of restarts differ between hosts. So the main
    process deletes old requests before it waits for new ones, and the other processes repeat their requests, each with
    a random name, until that name is answered.
    """
    name = uuid.uuid4().hex
    requests = [f"charrnn/hello/{other}" for other in range(1, size)]
    if rank == 0:
        for request in requests:
            store.delete_key(request)
        for request in requests:
            store.set(f"charrnn/welcome/{store.get(request).decode()}", name)
        return name
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    while not store.check([f"charrnn/welcome/{name}"]):
        if time.monotonic() > deadline:
            raise RuntimeError("timeout")
        store.set(f"charrnn/hello/{rank}", name)
        time.sleep(0.02)
    return str(store.get(f"charrnn/welcome/{name}").decode())


@contextlib.contextmanager
def _peer_errors() -> Iterator[None]:
    """Translate errors of torch.distributed that other processes cause into PeerError."""
    try:
        yield
    except RuntimeError as error:
        reason = first_line(error)
        if "imed out" in reason or "timeout" in reason.lower():
            problem = f"another process of this run did not answer for {TIMEOUT.seconds // 60} minutes"
        elif any(word in reason for word in ("losed", "reset", "refused", "roken pipe", "onnection", "ocket")):
            problem = "another process of this run died"
        else:
            problem = f"the processes of this run cannot connect ({reason})"
        raise PeerError(
            f"{problem} (detected on {socket.gethostname()}). The last save is complete: resume from it with --resume."
        ) from None
