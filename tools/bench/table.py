"""The table that all benchmarks print: what was measured, its figure, its baseline and their ratio.

Each figure is the median of several measurements. Each measurement runs in a process of its own, and the rows take
turns, so that a drift of the machine's speed affects all of them. Run benchmarks with nothing else running.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

SECONDS = 6.0  # of a measurement, after a warm-up


@dataclass(frozen=True)
class Row:
    """A measurement, and the name of the row to compare it with; a baseline has none."""

    name: str
    measure: Callable[[], float]
    baseline: str = ""


@dataclass(frozen=True)
class Figure:
    """A line of the table, with all measurements of the row and of its baseline."""

    name: str
    values: Sequence[float]
    baseline: str = ""
    baseline_values: Sequence[float] = ()


def main(description: str, title: str, rows: Sequence[Row], argv: Sequence[str] | None = None) -> None:
    """Measure the rows of a benchmark and print their table, whose title names the unit."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="number of measurements of each row (default: 3)")
    parser.add_argument("--only", default="", metavar="TEXT", help="measure only rows with TEXT in their name")
    parser.add_argument("--busy-core", action="store_true", help="keep one CPU core busy with another process")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # measure one row in this process
    args = parser.parse_args(argv)
    by_name = {row.name: row for row in rows}
    if args.row:
        print(by_name[args.row].measure())
        return
    chosen = [row for row in rows if args.only in row.name]
    if not chosen:
        parser.error(f"no row has {args.only!r} in its name.")
    names = {name for row in chosen for name in (row.name, row.baseline)}
    found: dict[str, list[float]] = {row.name: [] for row in rows if row.name in names}
    with busy_core() if args.busy_core else contextlib.nullcontext():
        for name in tqdm(list(found) * args.repeat, desc="measurements", leave=False):
            command = [sys.executable, sys.argv[0], "--row", name]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[name].append(float(printed.split()[-1]))
    print(f"{machine()}{', one core busy' * args.busy_core}\n")
    baselines = {name: by_name[name].baseline for name in found}
    print_table(title, [Figure(n, v, baselines[n], found.get(baselines[n], ())) for n, v in found.items()])


def print_table(title: str, figures: Sequence[Figure]) -> None:
    """Print a Markdown table with medians, ranges, and ratios to the baselines."""
    print(f"| {title} | median (range) | baseline | ratio |\n|---|---|---|---|")
    for figure in figures:
        median, ratio = statistics.median(figure.values), ""
        if figure.baseline_values:
            ratio = f"{median / statistics.median(figure.baseline_values):.2f}"
        span = f" ({number(min(figure.values))} to {number(max(figure.values))})" if len(figure.values) > 1 else ""
        print(f"| {figure.name} | {number(median)}{span} | {figure.baseline} | {ratio} |")


def number(value: float) -> str:
    """Return a number as text, with four digits if it is small."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def per_second(work: Callable[[], Any], seconds: float = SECONDS) -> float:
    """Return how many times per second a function can be called, after a warm-up."""
    for _ in range(3):
        work()
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        work()
        count += 1
    return count / elapsed


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Run another process that computes all the time."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def command_path(name: str) -> str:
    """Return the path of a command in the environment of this process."""
    return str(Path(sys.executable).with_name(name))


def machine() -> str:
    """Return the date, the processor and the versions as one line."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        cpu = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    versions = f"Python {platform.python_version()}, torch {metadata.version('torch')}"
    return f"{datetime.date.today()}, {cpu}, {os.cpu_count()} cores, {platform.system()}, {versions}"
