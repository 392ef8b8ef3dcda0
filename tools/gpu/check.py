"""Check and measure everything that needs an NVIDIA GPU, in under five minutes.

    python tools/gpu/check.py                    a table on standard output
    python tools/gpu/check.py --json gpu.json    the same as JSON as well, to attach to a report

Run it while nothing else uses the GPU. An error in a check is reported in its row. The JSON file is rewritten after
each check, so that an interrupted run leaves the results so far. The exit code is 0 if no check failed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import time
import traceback
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from correctness import PREDICTIONS, as_on_the_cpu, commands, gradients, graph_as_steps, own_sound, predictions, symbols
from setups import GPU, NETWORKS, REHEARSAL, Check, Figures, Setup
from speed import plain_loop, sampling, training

from charrnn.training.recipe import GPU_LAYERS, RECIPES

SAMPLERS = ("persistent", "torch")
NO_GPU = "torch finds no NVIDIA GPU: run this on a machine with one, with a torch that is built for CUDA."


def main(argv: list[str] | None = None) -> int:
    """Run the checks and print the table; 0 if none failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="file to write the results to, as JSON")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only the checks whose names contain TEXT")
    parser.add_argument("--rehearse", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    chosen = {name: check for name, check in checks().items() if args.only in name}
    if not chosen:
        parser.error(f"no check has {args.only!r} in its name.")
    if not args.rehearse and not torch.cuda.is_available():
        parser.exit(1, f"check: {NO_GPU}\n")
    rows = []
    for name, check in chosen.items():
        rows.append(run(check, name, REHEARSAL if args.rehearse else GPU))
        print(text_of(rows[-1]), flush=True)
        if args.json:
            Path(args.json).write_text(json.dumps(rows, indent=1, default=lambda number: number.item()) + "\n")
    return int(any("error" in row or row["figures"].get("ok") is False for row in rows))


def checks() -> dict[str, Check]:
    """Return all checks by name, the most important first."""
    found: dict[str, Check] = {"machine": machine}
    for backend in GPU_LAYERS:
        found[f"gradients: {backend}"] = partial(gradients, backend)
    for recipe in RECIPES:
        found[f"CUDA graph as plain steps: {recipe}"] = partial(graph_as_steps, recipe)
    found["training in fp32 as on the CPU"] = as_on_the_cpu
    for name in PREDICTIONS:
        found[f"predictions as on the CPU: {name}"] = partial(predictions, name)
    found["own sound as on the CPU"] = own_sound
    kinds = (("fp32", 1, True), ("fp32", 3, False), ("bf16", 1, True), ("bf16", 64, True))
    for sampler, kind in itertools.product(SAMPLERS, kinds):
        found[f"symbols: {sampler}, {kind[0]}, {kind[1]}"] = partial(symbols, sampler, "3x680", *kind)
    for precision, streams in (("fp32", 3), ("bf16", 64)):
        name = f"symbols with prediction: 2x256, {precision}, {streams}"
        found[name] = partial(symbols, "torch", "2x256 with prediction", precision, streams, True)
    for network, rows in itertools.product(NETWORKS, (50, 100)):
        found[f"train: plain nn.LSTM loop, {network}, {rows} x 50"] = partial(plain_loop, network, rows)
        for backend in GPU_LAYERS:
            found[f"train: {backend}, {network}, {rows} x 50"] = partial(training, backend, network, rows)
    for streams, sampler in itertools.product((1, 8, 64, 512), ("eager", *SAMPLERS)):
        found[f"sample: {sampler}, 3x680, {streams}"] = partial(sampling, sampler, "3x680", streams)
    for streams in (1, 64, 512):
        name = f"sample: torch, with prediction, 2x256, {streams}"
        found[name] = partial(sampling, "torch", "2x256 with prediction", streams)
    found["commands"] = commands
    for rows in (512, 2048, 8192):
        found[f"train: plain nn.LSTM loop, 3x680, {rows} x 50"] = partial(plain_loop, "3x680", rows)
        found[f"train: torch, 3x680, {rows} x 50"] = partial(training, "torch", "3x680", rows)
    return found


def run(check: Check, name: str, setup: Setup) -> Figures:
    """Run a check; return its row."""
    start = time.monotonic()
    try:
        row: Figures = {"check": name, "figures": check(setup)}
        setup.wait()
    except Exception as error:
        traceback.print_exc()
        row = {"check": name, "error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
    return row | {"seconds": round(time.monotonic() - start, 2)}


def text_of(row: Figures) -> str:
    """Return a row as a line of text."""
    if "error" in row:
        return f"FAILED  {row['check']}: {row['error']}"
    figures = dict(row["figures"])
    verdict = {True: "passed", False: "FAILED", None: "      "}[figures.pop("ok", None)]
    texts = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )
    return f"{verdict}  {row['check']}: {', '.join(texts)}"


def machine(setup: Setup) -> Figures:
    """Return the device and the versions."""
    found: Figures = {"torch": torch.__version__, "CUDA": torch.version.cuda}
    with contextlib.suppress(metadata.PackageNotFoundError):
        found["Triton"] = metadata.version("triton")
    if not setup.on_gpu:
        return {"device": "rehearsal on a CPU: the figures are meaningless", **found}
    card = torch.cuda.get_device_properties(0)
    return {"device": card.name, "GB": card.total_memory / 1e9, **found}


if __name__ == "__main__":
    sys.exit(main())
