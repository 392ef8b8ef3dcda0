"""Compare recipes: bits per symbol of the validation part after equal time, and what the networks generate.

    python tools/bench/recipes.py voice.wav piano.wav --minutes 10 --sizes 2x256,3x680

The networks train at the same time, each on its share of the cores, so that a drift of the machine's speed affects
all. Free running is that of charrnn-eval: three sounds of a minute each. The runs stay in --runs and are not repeated.
--pictures writes the curves of all runs, and for each recording and size the spectrograms of 20 seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import soundfile
from PIL import Image
from table import machine

from charrnn.commands.plot import charrnn_plot
from charrnn.commands.sample import charrnn_sample
from charrnn.storage.csv_log import read_rows
from charrnn.storage.run_dir import Run

KINDS = {  # flags of charrnn-train by the name of a kind
    "torch-rnn": "--recipe torch-rnn",
    "symbols": "--recipe modern --context 0 --prediction none",  # modern as it is for text
    "modern": "--recipe modern",
}
SECONDS = 20  # of a spectrogram
CURVES = "--unit bits --x elapsed_seconds --log-x --log-y --width 960 --height 540"  # options of charrnn-plot
MEASURES = ("level", "spectrum_distance", "peakiness", "silent", "clipped")


def main() -> None:
    """Train the runs that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of each run (default: 10)")
    parser.add_argument("--sizes", default="2x256,3x680", help="LAYERSxUNITS, separated by commas")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of networks, with commas (default: all)")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds of each row (default: 1)")
    parser.add_argument("--threads", type=int, help="threads of each run (default: a share of the cores)")
    parser.add_argument("--alone", action="store_true", help="train the kinds one after the other")
    parser.add_argument("--pictures", type=Path, help="folder for pictures (default: none)")
    parser.add_argument("--runs", type=Path, default=Path("runs/recipes"), help="folder of the runs")
    args = parser.parse_args()
    kinds = args.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"unknown kind {', '.join(unknown)}: choose from {', '.join(KINDS)}.")
    threads = args.threads or max(1, (os.cpu_count() or 1) // (1 if args.alone else len(kinds)))
    print(f"{machine()}; {args.minutes:g} minutes, {threads} threads each\n")
    print(f"| recording, network | kind | bits | {' | '.join(MEASURES)} |\n|{'---|' * (3 + len(MEASURES))}")
    for recording, size in itertools.product(args.recordings, args.sizes.split(",")):
        stem = f"{recording.stem}-{size}-{args.minutes:g}min"
        runs = {kind: [args.runs / stem / f"{kind}-{seed}" for seed in range(args.seeds)] for kind in kinds}
        for seed in range(args.seeds):
            each = {kind: runs[kind][seed] for kind in kinds}
            for together in [{kind: run} for kind, run in each.items()] if args.alone else [each]:
                train(recording, size, args.minutes, threads, together, seed)
        for kind in kinds:
            print(f"| {recording.stem}, {size} | {kind} | {figures(runs[kind])} |", flush=True)
        if args.pictures:
            draw(recording, {kind: runs[kind][0] for kind in kinds}, args.pictures / stem)


def train(recording: Path, size: str, minutes: float, threads: int, runs: Mapping[str, Path], seed: int) -> None:
    """Train networks of some kinds at the same time; a run that exists is kept."""
    layers, units = size.split("x")
    processes = []
    for kind, run in runs.items():
        if run.exists():
            continue
        shutil.rmtree(unfinished(run), ignore_errors=True)
        flags = f"--layers {layers} --rnn-size {units} {KINDS[kind]} --seed {seed} --threads {threads}"
        flags += f" --max-minutes {minutes} --checkpoint-every 2000 --keep 1 -q"
        command = [sys.executable, "-m", "charrnn.commands.train", str(recording), "--run-dir", str(unfinished(run))]
        print(f"{recording.stem}, {size}, {kind}, seed {seed}", file=sys.stderr)
        processes.append((run, subprocess.Popen([*command, *flags.split()], stdout=subprocess.DEVNULL)))
    codes = [process.wait() for _, process in processes]
    if any(codes):
        raise SystemExit("a run failed: see above.")
    for run, _ in processes:
        unfinished(run).rename(run)


def unfinished(run: Path) -> Path:
    """Return the folder of a run while it trains."""
    return run.with_name(f"{run.name}-unfinished")


def figures(runs: list[Path]) -> str:
    """Return the last validation, and the measures of free running with their range over the recording."""
    bits = [float(read_rows(run / "val.csv")[-1]["val_bits"]) for run in runs]
    found = [free_running(run) for run in runs]
    ranges = found[0]["recording"]  # none if the recording is shorter than a minute
    cells = [f"{statistics.median(bits):.3f}"]
    for name in MEASURES:
        digits = {"silent": 2, "clipped": 5}.get(name, 1)
        values = [seed[name] for one in found for seed in one["seeds"]]
        cells.append(f"{statistics.mean(values):.{digits}f}")
        if ranges:
            cells[-1] += f" ({ranges[name]['least']:.{digits}f} to {ranges[name]['greatest']:.{digits}f})"
    return " | ".join(cells)


def draw(recording: Path, runs: Mapping[str, Path], target: Path) -> None:
    """Draw the losses of runs, and the spectrograms of a recording and of what the networks generate."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = folder / recording.stem
        samples, rate = soundfile.read(recording, frames=SECONDS * soundfile.info(recording).samplerate)
        soundfile.write(original, samples, rate, format="WAV")
        for kind, run in runs.items():
            charrnn_sample(
                [str(run), "--seconds", str(SECONDS), "--seed", "1", "-q", "-o", str(folder / f"{kind}.wav")]
            )
        sounds = [str(original), *(str(folder / f"{kind}.wav") for kind in runs)]
        for suffix, options in (
            ("sound", [*sounds, "--width", "960", "--height", "1120"]),
            ("losses", [*map(str, runs.values()), *CURVES.split()]),
        ):
            picture = folder / f"{suffix}.png"
            with contextlib.redirect_stdout(None):  # which has the table
                charrnn_plot([*options, "-q", "-o", str(picture)])
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(picture).save(f"{target}-{suffix}.webp", quality=70)


def free_running(run: Path) -> dict[str, Any]:
    """Return the measures of a run, which are computed if it has none."""
    if not Run(run).free_running_file.exists():
        command = [sys.executable, "-m", "charrnn.commands.eval", str(run), "--part", "val", "--free-running", "-q"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    measures: dict[str, Any] = json.loads(Run(run).free_running_file.read_text())
    return measures


if __name__ == "__main__":
    main()
