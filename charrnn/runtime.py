"""Threads, memory, device and precision of this process.

``before_torch`` has to run before anything imports torch, so this module imports torch inside functions only.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import warnings
from typing import TYPE_CHECKING

from bytecodec.errors import InputError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "bf16")
MAX_THREADS = 1024  # torch crashes if the system cannot start as many threads as requested
DEVICES = ("auto", "cpu", "cuda", "mps")

# Iterations for which an OpenMP thread spins before it sleeps. By libgomp's default it spins for milliseconds. If
# another process needs a core, that delays the thread that it waits for. Sleeping at once would cost a system call at
# each of the thousands of barriers per iteration of training.
SPIN_COUNT = 1000

# glibc's mallopt parameters (malloc.h)
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def before_torch() -> None:
    """Make torch fast on a CPU; commands call this before they import torch.

    Waiting OpenMP threads sleep early (see `SPIN_COUNT`), unless the environment has another setting. glibc keeps freed
    memory: by default it returns every large tensor to the system, which costs 40,000 page faults per iteration of
    training, a quarter of its time. torchrun's limit of one thread per process is removed, so that `set_threads` can
    divide the cores among the processes.
    """
    if local_processes() > 1 and os.environ.get("OMP_NUM_THREADS") == "1":
        del os.environ["OMP_NUM_THREADS"]
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
    warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous")  # EMA weights on a GPU
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # C libraries other than glibc
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def default_threads() -> int:
    """Return the environment's CHARRNN_THREADS, or 0, which means torch's default."""
    value = os.environ.get("CHARRNN_THREADS", "0")
    if not value.isdecimal() or int(value) > MAX_THREADS:
        raise InputError(
            f"CHARRNN_THREADS is {value!r}; it must be a number of threads from 0 to {MAX_THREADS}, 0 for all cores."
        )
    return int(value)


def local_processes() -> int:
    """Return the number of processes that torchrun started on this machine; 1 without torchrun."""
    value = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(value) if value.isdecimal() and int(value) else 1


def set_threads(count: int) -> int:
    """Set torch's number of threads; return it. 0: one per core, or this process's share of the cores."""
    import torch

    if not count and local_processes() > 1:
        count = max(1, torch.get_num_threads() // local_processes())
    if count:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def select_gpu(device: str) -> None:
    """Make ``cuda`` a different GPU for each of several processes on a machine."""
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
    """Return the device for a name; auto is an NVIDIA GPU, an Apple GPU that can train, or the CPU."""
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
    """Return whether two training steps of a tiny network run on a device and give the same losses as on the CPU."""
    import torch

    def losses_on(device: str) -> list[float]:
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
            losses = losses_on(device)
        except (RuntimeError, NotImplementedError, AssertionError):
            return False
        return all(abs(a - b) < 1e-3 for a, b in zip(losses, losses_on("cpu"), strict=True))


@functools.cache
def computes_bf16(device: str) -> bool:
    """Return whether torch runs LSTM layers in bf16 on a device: on x86 CPUs, oneDNN needs AVX-512 for that."""
    import torch

    if device != "cpu":
        return True
    with torch.random.fork_rng(devices=[]), torch.inference_mode(), autocast("bf16", device):
        try:
            torch.nn.LSTM(8, 8)(torch.zeros(1, 1, 8))
        except RuntimeError:
            return False
    return True


def choose_precision(name: str, device: str) -> str:
    """Return the precision for a name; auto is bf16 if the processor multiplies it in hardware.

    On such CPUs (AVX-512 BF16 or AMX) bf16 is faster at every size from 2x64 to 3x680. Without these instructions it is
    emulated and slower, and an `InputError` is raised where it does not work at all.
    """
    import torch

    if name == "bf16" and not computes_bf16(device):
        raise InputError("this processor cannot compute in bf16: use --precision fp32.")
    if name != "auto":
        return name
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device == "mps":
        return "fp32"  # bf16 has not been measured on such a device
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def autocast(precision: str, device: str) -> torch.autocast:
    """Return a context in which matrix products run in a precision; weights and loss stay fp32."""
    import torch

    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")
