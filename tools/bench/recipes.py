"""Compare recipes: bits per symbol of the validation part after equal time.

    python tools/bench/recipes.py voice.wav piano.wav --minutes 10 --sizes 2x256,3x680

The recipes train at the same time, each on its share of the cores, so that a drift of the machine's speed affects
all. The baselines are the first recipe and FLAC. The runs stay in --runs and are not repeated; charrnn-plot draws them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

from table import Figure, machine, print_table

from charrnn.storage.csv_log import read_rows
from charrnn.training.recipe import RECIPES


def main() -> None:
    """Train the runs that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of each training (default: 10)")
    parser.add_argument("--sizes", default="2x256,3x680", help="LAYERSxUNITS, separated by commas")
    parser.add_argument("--recipes", default="torch-rnn,modern", help="recipes, the baseline first, with commas")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds of each row (default: 1)")
    parser.add_argument("--threads", type=int, help="threads of each training (default: a share of the cores)")
    parser.add_argument("--runs", type=Path, default=Path("runs/recipes"), help="folder of the runs")
    args = parser.parse_args()
    recipes = args.recipes.split(",")
    if unknown := set(recipes) - set(RECIPES):
        parser.error(f"unknown recipe {', '.join(unknown)}: choose from {', '.join(RECIPES)}.")
    threads = args.threads or max(1, (os.cpu_count() or 1) // len(recipes))
    figures = []
    for recording, size in itertools.product(args.recordings, args.sizes.split(",")):
        stem = f"{recording.stem}-{size}-{args.minutes:g}min"
        runs = {name: [args.runs / f"{stem}-{name}-{seed}" for seed in range(args.seeds)] for name in recipes}
        for seed in range(args.seeds):
            train(recording, size, args.minutes, threads, {name: runs[name][seed] for name in recipes}, seed)
        figures += compared(f"{recording.stem}, {size}", runs)
    print(f"{machine()}; {args.minutes:g} minutes, {threads} threads each\n")
    print_table("recipes: bits per symbol", figures)


def train(recording: Path, size: str, minutes: float, threads: int, runs: dict[str, Path], seed: int) -> None:
    """Train with all recipes at the same time; a run that exists is kept."""
    layers, units = size.split("x")
    processes = []
    for recipe, run in runs.items():
        if (run / "val.csv").exists():
            continue
        flags = f"--layers {layers} --rnn-size {units} --recipe {recipe} --seed {seed} --threads {threads}"
        flags += f" --max-minutes {minutes} --checkpoint-every 500 --keep 1 -q"
        command = [sys.executable, "-m", "charrnn.commands.train", str(recording), "--run-dir", str(run)]
        print(f"{recording.stem}, {size}, {recipe}, seed {seed}", file=sys.stderr)
        processes.append(subprocess.Popen([*command, *flags.split()], stdout=subprocess.DEVNULL))
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit("a training failed: see above.")


def compared(label: str, runs: dict[str, list[Path]]) -> list[Figure]:
    """Return the last validation of each recipe, compared with the first recipe and with FLAC."""
    bits = {name: [float(read_rows(run / "val.csv")[-1]["val_bits"]) for run in runs[name]] for name in runs}
    first = next(iter(runs))
    baselines = json.loads((runs[first][0] / "config.json").read_text())["yardsticks"]
    found = [Figure(f"{label}, {first}", bits.pop(first), "FLAC", [baselines[k] for k in ("flac",) if k in baselines])]
    return found + [Figure(f"{label}, {name}", bits[name], first, found[0].values) for name in bits]


if __name__ == "__main__":
    main()
