"""Which recipe learns more in the same time: bits a sample on the validation part, after the same minutes.

    python tools/bench/recipe.py voice.wav piano.wav --minutes 10 --sizes 2x256,3x680
    python tools/bench/recipe.py voice.wav --minutes 60 --picture curves.png

The recipes of a row train at the same time, each on its share of the cores, so that a machine whose speed drifts is
fair to both. The runs are kept in --runs, and a run that is there already is not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from charrnn.training.recipe import RECIPES


def main() -> None:
    """Train what is missing, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sizes", default="2x256,3x680", help="LAYERSxUNITS, with commas between them")
    parser.add_argument("--recipes", default="torch-rnn,modern", help="the first one is what the others are held to")
    parser.add_argument("--seeds", type=int, default=1, help="how many; the table has the mean and each one")
    parser.add_argument("--threads", type=int, help="of each training (default: a share of the cores)")
    parser.add_argument("--runs", type=Path, default=Path("runs/recipe"), help="where the runs are kept")
    parser.add_argument("--picture", type=Path, help="PNG of the validation losses over time")
    args = parser.parse_args()
    recipes = args.recipes.split(",")
    if unknown := set(recipes) - set(RECIPES):
        parser.error(f"there is no recipe {', '.join(unknown)}: there are {', '.join(RECIPES)}")
    threads = args.threads or max(1, (os.cpu_count() or 1) // len(recipes))
    rows = []
    for recording in args.recordings:
        for size in args.sizes.split(","):
            runs = {
                recipe: [
                    args.runs / f"{recording.stem}-{size}-{args.minutes:g}min-{recipe}-{seed}"
                    for seed in range(args.seeds)
                ]
                for recipe in recipes
            }
            for seed in range(args.seeds):
                train(recording, size, args.minutes, threads, {recipe: runs[recipe][seed] for recipe in recipes})
            rows.append((recording.stem, size, runs))
    print(table(rows, recipes, args.minutes, threads))
    if args.picture:
        draw(rows, args.picture)


def train(recording: Path, size: str, minutes: float, threads: int, runs: dict[str, Path]) -> None:
    """Train with every recipe at once; a run that is done is left as it is."""
    layers, units = size.split("x")
    running = []
    for recipe, run in runs.items():
        seed = run.name.rpartition("-")[2]
        if (run / "val.csv").exists():
            continue
        flags = f"--layers {layers} --rnn-size {units} --recipe {recipe} --seed {seed} --threads {threads}"
        every = f"--max-minutes {minutes} --checkpoint-every 500 --keep 1 -q"
        command = [sys.executable, "-m", "charrnn.commands.train", str(recording), "--run-dir", str(run)]
        print(f"{recording.stem}, {size}, {recipe}, seed {seed}", file=sys.stderr)
        running.append(subprocess.Popen([*command, *flags.split(), *every.split()], stdout=subprocess.DEVNULL))
    if any(process.wait() for process in running):
        raise SystemExit("a training failed: see above")


def validations(run: Path) -> list[dict[str, float]]:
    """The rows of a run's val.csv."""
    with (run / "val.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def table(rows: list[tuple[str, str, dict[str, list[Path]]]], recipes: list[str], minutes: float, threads: int) -> str:
    """The last validation of every run as Markdown."""
    head = ["recording", "network", "FLAC"]
    for recipe in recipes:
        head += [f"{recipe}: bits", "iterations"]
    head += [f"{recipe} against {recipes[0]}" for recipe in recipes[1:]] + ["against FLAC"]
    lines = [f"{minutes:g} minutes, {threads} thread(s) each:", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, size, runs in rows:
        flac = json.loads((runs[recipes[0]][0] / "config.json").read_text())["yardsticks"].get("flac", math.nan)
        cells, means = [name, size, f"{flac:.3f}"], []
        for recipe in recipes:
            last = [validations(run)[-1] for run in runs[recipe]]
            bits = [row["val_bits"] for row in last]
            means.append(sum(bits) / len(bits))
            each = f" ({', '.join(f'{b:.3f}' for b in bits)})" if len(bits) > 1 else ""
            cells += [f"{means[-1]:.3f}{each}", f"{last[0]['iteration']:,.0f}"]
        cells += [f"{100 * (mean / means[0] - 1):+.1f} %" for mean in means[1:]]
        cells.append(f"{100 * (means[-1] / flac - 1):+.1f} %")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: list[tuple[str, str, dict[str, list[Path]]]], picture: Path) -> None:
    """Validation bits over minutes: a row of panels for each network, a column for each recording."""
    import matplotlib.pyplot as plt

    columns = len(dict.fromkeys(name for name, *_ in rows))
    shape = (len(rows) // columns, columns)
    figure, panels = plt.subplots(*shape, figsize=(4.5 * columns, 3.2 * shape[0]), squeeze=False, layout="constrained")
    for (name, size, runs), panel in zip(rows, panels.T.flat, strict=True):
        for number, (recipe, seeds) in enumerate(runs.items()):
            for run in seeds:
                points = validations(run)
                style: dict[str, Any] = {
                    "marker": ".",
                    "color": f"C{number}",
                    "label": recipe if run == seeds[0] else None,
                }
                panel.plot([p["elapsed_seconds"] / 60 for p in points], [p["val_bits"] for p in points], **style)
        flac = json.loads((next(iter(runs.values()))[0] / "config.json").read_text())["yardsticks"].get("flac")
        if flac:
            panel.axhline(flac, color="gray", linestyle=":", label="FLAC")
        panel.set(title=f"{name}, {size}", xlabel="minutes", ylabel="bits a sample")
        panel.legend()
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
