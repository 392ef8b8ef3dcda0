"""What the machine is asked for: threads, memory, device and precision.

``before_torch`` has to run before anything imports torch, so this module imports it only inside functions.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import warnings
from typing import TYPE_CHECKING

from bytecodec.errors import InputError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "bf16")
MOST_THREADS = 1024  # torch crashes where the system cannot start as many as it is asked for
DEVICES = ("auto", "cpu", "cuda", "mps")

# Turns of the loop in which an OpenMP thread waits for the next piece of work before it sleeps. libgomp's own
# default lets it spin for milliseconds, which starves the thread that it waits for as soon as another process
# wants a core; sleeping at once costs a system call at each of the thousands of meetings in an iteration.
# docs/benchmarks.md has both sides.
SPIN_COUNT = 1000

# glibc's mallopt parameters (malloc.h)
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def before_torch() -> None:
    """Settings of the process that make torch fast on a CPU, for commands to make before they import torch.

    Waiting OpenMP threads sleep early (see `SPIN_COUNT`; a setting in the environment wins). And glibc keeps
    freed memory: by default it gives every large tensor back to the system, so that each iteration of
    training takes some 40,000 page faults to get the same memory again, a quarter of its time. Of several processes
    on a machine, `set_threads` gives each its share of the cores, where torchrun gives it one thread.
    """
    if local_processes() > 1 and os.environ.get("OMP_NUM_THREADS") == "1":
        del os.environ["OMP_NUM_THREADS"]
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
    warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous")  # averaged ones, on a GPU
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def default_threads() -> int:
    """CHARRNN_THREADS, or 0: as many as torch would take.

    Raises
    ------
    InputError
        CHARRNN_THREADS is no whole number from 0 to 1024.
    """
    value = os.environ.get("CHARRNN_THREADS", "0")
    if not value.isdecimal() or int(value) > MOST_THREADS:
        raise InputError(f"CHARRNN_THREADS is {value!r}: make it a number of threads, or 0 for all cores.")
    return int(value)


def local_processes() -> int:
    """How many processes torchrun started on this machine to train together."""
    value = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(value) if value.isdecimal() and int(value) else 1


def set_threads(count: int) -> int:
    """Have torch compute on ``count`` threads (0: a core each, or this process's share of them); returns how many."""
    import torch

    if not count and local_processes() > 1:
        count = max(1, torch.get_num_threads() // local_processes())
    if count:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def take_device(device: str) -> None:
    """Have ``cuda`` mean a GPU of this process's own, where several processes train on a machine.

    Raises
    ------
    InputError
        There is no GPU, or there are fewer than processes.
    """
    if choose_device(device) != "cuda" or local_processes() == 1:
        return
    import torch

    count, rank = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if rank >= count:
        raise InputError(
            f"torch finds {count} NVIDIA GPUs here for {local_processes()} processes: "
            f"start at most {count} with --nproc-per-node, or use --device cpu."
        )
    torch.cuda.set_device(rank)


def choose_device(name: str) -> str:
    """The device for a ``--device``: auto is an NVIDIA GPU, or Apple's that can train, else the CPU.

    Raises
    ------
    InputError
        A device was asked for by name that is not there.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() and trains_on("mps") else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("torch finds no NVIDIA GPU here: use --device cpu, or install a torch built for CUDA.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise InputError("torch finds no Apple GPU here: use --device cpu.")
    return name


def trains_on(device: str) -> bool:
    """Whether training works on a device in principle: it can take all that a step of learning is made of, and two
    steps of a tiny network come to what they come to on the CPU."""
    import torch

    def learn(device: str) -> list[float]:
        torch.manual_seed(0)
        embedding, lstm, norm = torch.nn.Embedding(7, 5), torch.nn.LSTM(5, 6, batch_first=True), torch.nn.LayerNorm(6)
        model = torch.nn.ModuleList([embedding, lstm, norm]).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        ids, losses = torch.arange(12, device=device).view(3, 4) % 6, []
        for _ in range(2):
            y = norm(lstm(embedding(ids))[0])
            loss = torch.nn.functional.cross_entropy(y.flatten(0, 1), ids.flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            optimizer.grad_scale = torch.nn.utils.get_total_norm(gradients).clamp(min=1)  # type: ignore[attr-defined]
            optimizer.found_inf = 1 - loss.detach().isfinite().float()  # type: ignore[attr-defined]
            optimizer.step()
            losses.append(loss.item())
        return losses

    with torch.random.fork_rng(devices=[]):
        try:
            found = learn(device)
        except (RuntimeError, NotImplementedError, AssertionError):
            return False
        return all(abs(a - b) < 1e-3 for a, b in zip(found, learn("cpu"), strict=True))


def choose_precision(name: str, device: str) -> str:
    """The precision for a ``--precision``: auto is bf16 where the processor multiplies it in hardware.

    On such CPUs (AVX-512 BF16 or AMX) bf16 was measured faster at every size from 2x64 to 3x680; without the
    instructions it is emulated, and slower.
    """
    import torch

    if name != "auto":
        return name
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if device == "mps":
        return "fp32"  # nobody has measured bf16 there yet
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def autocast(precision: str, device: str) -> torch.autocast:
    """A context in which matrix products run in the given precision; weights and loss stay fp32."""
    import torch

    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")
