"""Which checks tools/gpu_check.py does, and in which order."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import gpu_checks as do
import torch
from gpu_scene import ENGINE_WAYS, REHEARSAL, TRAINING_WAYS, Scene
from gpu_workers import Check, Outcome

from charrnn.config import ModelConfig

BATCHES = (512, 2048, 8192, 4096, 128)  # rows, the most telling ones first
STREAMS = (16, 256, 512, 2)  # beside 1 and 64
SHAPES = ((32, 16), (16, 16), (16, 32), (32, 32))  # of the kernels' programs, the first of which are taken

Made = tuple[str, Callable[[Scene], Outcome], dict[str, Any]]  # name, work, and what else `Check` takes


def checks(rehearse: bool = False) -> list[Check]:
    """All of them, so that what the end of the time leaves out tells least; or tiny ones on the CPU."""
    scene = REHEARSAL if rehearse else Scene("cuda", ModelConfig(256))
    ways, batches = (("torch",), ()) if rehearse else (ENGINE_WAYS, BATCHES)
    made = [("the machine", do.the_machine, {}), *ceilings(), *first_tests(ways), *goals(scene, ways)]
    made += [*trainings(batches[:2]), ("test: the commands, end to end", do.commands, {"limit": 120.0})]
    made += [*samplings(ways, STREAMS), *further_tests(ways), *trainings(batches[2:]), *others(scene, ways)]
    return [Check(name, partial(tidily, scene, work), **options) for name, work, options in made]


def tidily(scene: Scene, work: Callable[[Scene], Outcome]) -> Outcome:
    """A check without what others before it left in memory; what it leaves to be done is done within its time."""
    scene.wait()
    gc.collect()
    gc.freeze()  # what is still here stays, and need not be looked at by the next collection
    if scene.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        torch.set_num_threads(1)
    found = work(scene)
    scene.wait()
    return found


def ceilings() -> Iterator[Made]:
    """What the GPU does at best."""
    for name, function in (
        ("copy", "copy"),
        ("bf16 matrix product", "product"),
        ("L2 read", "cache"),
        ("a barrier of all multiprocessors", "meeting"),
        ("a kernel in a CUDA graph", "kernel"),
    ):
        yield f"ceiling: {name}", partial(do.ceiling, name=function), {"limit": 30.0}


def compared(name: str, precision: str, other: dict[str, Any], shared: dict[str, Any], graphed: bool = False) -> Made:
    """A test of two ways to learn against each other."""
    most = {"fp32": 1e-3, "bf16": 5e-2}[precision]
    shared = {"precision": precision, **shared}
    work = partial(do.same_losses, one={"graphed": graphed}, other=other, most=most, shared=shared)
    return f"test: {name}, {precision}", work, {}


def other_ways(precision: str) -> Iterator[Made]:
    """Tests of ways to learn against torch's."""
    for way in TRAINING_WAYS:
        if way != "torch":
            name, work, _ = compared(f"learning {way} as by torch", precision, {"way": way}, {}, graphed=True)
            yield name, work, {"kind": f"training {way}"}


def engine_test(way: str, precision: str, streams: int, **changes: Any) -> Made:
    """A test of a way to sample."""
    work = partial(do.engine_symbols, way=way, precision=precision, streams=streams, **changes)
    other = "".join(f", {name} {value}" for name, value in changes.items())
    return f"test: engine, {way}, {precision}, {streams} streams{other}", work, {"kind": f"engine {way}"}


def first_tests(ways: Sequence[str]) -> Iterator[Made]:
    """What has to be right for anything to be worth timing."""
    yield "test: training in fp32 as on the CPU", do.as_on_the_cpu, {}
    yield compared("recorded as plain, clip by value", "bf16", {"graphed": True}, {"clip": "value"})
    yield "test: what is not finite teaches nothing", do.nothing_learnt, {}
    yield from other_ways("bf16")
    for way, (precision, streams) in product(ways, (("fp32", 1), ("fp32", 3), ("bf16", 64))):
        yield engine_test(way, precision, streams)


def further_tests(ways: Sequence[str]) -> Iterator[Made]:
    """The rest."""
    yield "test: a resumed run", do.resume, {}
    yield from other_ways("fp32")
    for name, shared in (("clip by norm", {"clip": "norm"}), ("dropout", {"dropout": 0.3}), ("clip by value", {})):
        for precision in ("fp32",) if name == "clip by value" else ("bf16", "fp32"):
            yield compared(f"recorded as plain, {name}", precision, {"graphed": True}, shared)
    for way in ways:
        yield engine_test(way, "bf16", 1)
        yield engine_test(way, "bf16", 16)
        yield engine_test(way, "fp32", 80)
        yield engine_test(way, "fp32", 1, layer_norm=False, layers=1)


def trained(way: str, rows: int, precision: str = "bf16", graphed: bool = True) -> Made:
    """A benchmark of training."""
    work = partial(do.training, precision=precision, graphed=graphed, way=way, rows=rows)
    name = f"train: {way}, {precision}, {rows} rows" + ("" if graphed else ", plain steps")
    return name, work, {"kind": f"training {way}" if way != "torch" else "", "about": {"rows": rows}}


def trainings(batches: Sequence[int]) -> Iterator[Made]:
    """Benchmarks of training in all ways."""
    for rows, way in product(batches, TRAINING_WAYS):
        yield trained(way, rows)


def samplings(ways: Sequence[str], streams: Sequence[int]) -> Iterator[Made]:
    """Benchmarks of sampling in all ways."""
    for n, way in product(streams, ways):
        name = f"sample: {way}, bf16, {n} stream" + "s" * (n > 1)
        yield name, partial(do.sampling, way=way, streams=n), {"kind": f"engine {way}", "about": {"streams": n}}


def goals(scene: Scene, ways: Sequence[str]) -> Iterator[Made]:
    """Benchmarks of what there are goals for."""
    yield from trainings((scene.rows,))
    yield from samplings(ways, (1, 64))


def others(scene: Scene, ways: Sequence[str]) -> Iterator[Made]:
    """Benchmarks that explain the ones before."""
    for way in (*ways, "auto") if scene.device == "cuda" else ways:
        work = partial(do.first_symbols, way=way)
        yield f"first symbols: {way}, bf16, 1 stream", work, {"kind": f"engine {way}", "fresh": True}
    yield trained("torch", scene.rows, graphed=False)
    yield trained("torch", scene.rows, precision="fp32")
    for shape in SHAPES:
        name = f"our LSTM layer, 50 rows, 680 units, bf16, {shape[0]} units and {shape[1]} rows a program"
        yield name, partial(do.own_layer, rows=50, units=680, shape=shape), {"kind": "our LSTM layer"}
    types = (torch.float16, torch.bfloat16, torch.float32)
    for (rows, units), dtype in product(((50, 680), (50, 768), (56, 768), (128, 768)), types):
        name = f"torch's LSTM layer, {rows} rows, {units} units, {str(dtype).removeprefix('torch.')}"
        yield name, partial(do.layer, rows=rows, units=units, dtype=dtype), {}
