"""What a GPU does at best: memory, products, its L2 cache, a barrier of all its programs, and a kernel in a graph.

On the CPU, in Triton's interpreter, all of it is tiny, and rehearses the code.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from gpu_scene import Scene, spread, timed

from charrnn.grid_barrier import PATIENCE, arrive, wait

PRODUCT = 8192
COPIED = 1 << 30  # bytes
CACHED = 19 << 20  # bytes, about as many as the weights of 3 x 680 in bf16
BLOCK = 4096  # numbers of fp32 that a program reads at a time
PROGRAMS = 8  # of `_read_again` for a multiprocessor, which are on it together
READS, ROUNDS, KERNELS = 256, 1000, 1000


@triton.jit
def _read_again(x, totals, blocks, reads, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Sums of blocks, of another one each time, past the caches of the multiprocessors."""
    total = tl.zeros((BLOCK,), tl.float32)
    for r in range(reads):
        block = (tl.program_id(0) + r * tl.num_programs(0)) % blocks
        total += tl.load(x + block * BLOCK + tl.arange(0, BLOCK), cache_modifier=".cg")
    tl.store(totals + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def _meet(barrier, left, rounds, patience):  # type: ignore[no-untyped-def]
    """Meet the others so many times; notes whether they came."""
    programs = tl.num_programs(0)
    for t in range(rounds):
        arrive(barrier)
        patience = wait(barrier, (t + 1) * programs, patience)
    tl.store(left + tl.program_id(0), patience)


def copy(scene: Scene) -> dict[str, float]:
    """Read and written by a copy within the memory."""
    size = COPIED if scene.device == "cuda" else 1 << 10
    there = torch.zeros(size, dtype=torch.uint8, device=scene.device)
    here = torch.empty_like(there)
    return spread("GB/s of memory", [2 * size / s / 1e9 for s in timed(scene, lambda: here.copy_(there))])


def product(scene: Scene) -> dict[str, float]:
    """Of large matrices in bf16, of random numbers: zeros would spare the GPU the heat that slows it down."""
    n = PRODUCT if scene.device == "cuda" else 8
    a, b = (torch.randn(n, n, device=scene.device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    return spread("TFLOP/s", [2 * n**3 / s / 1e12 for s in timed(scene, lambda: torch.mm(a, b, out=out))])


def cache(scene: Scene) -> dict[str, float]:
    """Read again and again from a buffer that the L2 cache has room for."""
    programs, reads = PROGRAMS * multiprocessors(scene), READS if scene.device == "cuda" else 2
    blocks = CACHED // (4 * BLOCK)
    x, totals = torch.ones(blocks * BLOCK, device=scene.device), torch.zeros(programs, device=scene.device)
    seconds = timed(scene, lambda: _read_again[(programs,)](x, totals, blocks, reads, BLOCK, num_warps=8))
    if not bool((totals == reads * BLOCK).all()):
        raise ValueError("the sums are wrong")
    return spread("GB/s of L2", [4 * BLOCK * programs * reads / s / 1e9 for s in seconds])


def meeting(scene: Scene) -> dict[str, float]:
    """A barrier of one program a multiprocessor, as `charrnn.grid_barrier` has it."""
    programs, rounds = multiprocessors(scene), ROUNDS if scene.device == "cuda" else 3
    barrier = torch.zeros(1, dtype=torch.int32, device=scene.device)
    left = torch.zeros(programs, dtype=torch.int32, device=scene.device)

    def meet() -> None:
        barrier.zero_()
        _meet[(programs,)](barrier, left, rounds, PATIENCE, launch_cooperative_grid=True)

    seconds = timed(scene, meet)
    if not bool((left == PATIENCE).all()) or barrier.item() != rounds * programs:
        raise ValueError("some waited in vain")
    return spread("us a meeting", [1e6 * s / rounds for s in seconds])


def kernel(scene: Scene) -> dict[str, float]:
    """One of many in a graph that each do next to nothing."""
    x, count = torch.zeros(1, device=scene.device), KERNELS if scene.device == "cuda" else 3

    def kernels() -> None:
        for _ in range(count):
            x.add_(1)

    scene.aside(kernels)
    return spread("us a kernel", [1e6 * s / count for s in timed(scene, scene.record(kernels))])


def multiprocessors(scene: Scene) -> int:
    """How many there are; the interpreter has one program after another, so that only one can meet."""
    return torch.cuda.get_device_properties(0).multi_processor_count if scene.device == "cuda" else 1
