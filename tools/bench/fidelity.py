"""Lay this program's loss curves over those of the real torch-rnn, on the same bytes with the same settings.

    python tools/bench/fidelity.py ../shared/torch_rnn --picture fidelity.png

The folder holds speech.wav and losses.csv: a column of iterations and one of training losses for each run of torch-rnn.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.storage.csv_log import read_rows

SETTINGS = "--recipe torch-rnn --rnn-size 128 --layers 2 --wordvec-size 64 --batch-size 50 --seq-length 50"
LENGTH = "--max-iterations 2000 --checkpoint-every 1000 --keep 1 -q"
WINDOW = 50  # iterations that a point of the curves averages
SETTLED = 200  # iterations from which on the curves are compared


def main() -> None:
    """Train with each seed, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--runs", type=Path, default=Path("runs/fidelity"), help="where the runs are kept")
    parser.add_argument("--picture", type=Path, help="PNG of the curves")
    args = parser.parse_args()
    theirs = smooth(np.loadtxt(args.folder / "losses.csv", delimiter=",", skiprows=1)[:, 1:].T)
    runs = [args.runs / f"{args.precision}-{seed}" for seed in range(1, args.seeds + 1)]
    for seed, run in enumerate(runs, 1):
        if not (run / "val.csv").exists():
            command = [
                sys.executable,
                "-m",
                "charrnn.commands.train",
                str(args.folder / "speech.wav"),
                "--run-dir",
                str(run),
            ]
            flags = f"{SETTINGS} {LENGTH} --seed {seed} --precision {args.precision}"
            subprocess.run([*command, *flags.split()], check=True, stdout=subprocess.DEVNULL)
    ours = smooth(np.array([[float(row["train_loss"]) for row in read_rows(run / "log.csv")] for run in runs]))
    settled = slice(SETTLED // WINDOW, None)
    gap = ours.mean(0)[settled] - theirs.mean(0)[settled]
    spread = np.ptp(theirs, axis=0)[settled].max()
    print(f"training loss in means over {WINDOW} iterations, from {SETTLED} on; {len(runs)} seeds here against theirs:")
    print(
        f"  mean difference {gap.mean():+.4f} nats, largest {np.abs(gap).max():.4f}; "
        f"their own seeds differ by up to {spread:.4f}"
    )
    for at in (1000, 2000):
        losses = [
            float(row["val_loss"]) for run in runs for row in read_rows(run / "val.csv") if row["iteration"] == str(at)
        ]
        print(
            f"validation loss at {at:,}: "
            + ", ".join(f"{loss:.4f}" for loss in losses)
            + f", mean {np.mean(losses):.4f}"
        )
    if args.picture:
        draw(ours, theirs, args.picture)


def smooth(losses: NDArray[Any]) -> NDArray[Any]:
    """Means over windows of iterations: (runs, iterations) to (runs, points)."""
    means: NDArray[Any] = losses.reshape(len(losses), -1, WINDOW).mean(2)
    return means


def draw(ours: NDArray[Any], theirs: NDArray[Any], picture: Path) -> None:
    """Each curve thin, the range of torch-rnn's as a band; below, what lies between."""
    import matplotlib.pyplot as plt

    x = np.arange(1, ours.shape[1] + 1) * WINDOW
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, height_ratios=[2, 1], layout="constrained")
    for losses, color, name in ((theirs, "C1", "torch-rnn"), (ours, "C0", "charrnn-train --recipe torch-rnn")):
        above.fill_between(x, losses.min(0), losses.max(0), color=color, alpha=0.25, linewidth=0)
        for number, curve in enumerate(losses):
            above.plot(
                x, curve, color=color, linewidth=0.8, label=f"{name}, {len(losses)} seeds" if not number else None
            )
        below.fill_between(x, *(f(losses - theirs.mean(0), axis=0) for f in (np.min, np.max)), color=color, alpha=0.4)
    above.set(ylabel="training loss, nats a symbol", ylim=(1.5, 3.2))
    above.legend()
    below.set(xlabel="iteration", ylabel="minus torch-rnn's mean", ylim=(-0.1, 0.1))
    below.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
