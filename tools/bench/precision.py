"""What fewer bits a weight cost the compiled engine: nats a symbol more than the eager engine takes in fp32.

    python tools/bench/precision.py runs/voice-001 runs/piano-001 --steps 1600

Each run's newest checkpoint reads 64 rows from all over its validation part, teacher-forced from the zero state.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from charrnn import engine
from charrnn.data.corpus import open_corpus
from charrnn.engines.cpu.pack import INTEGERS
from charrnn.storage import run_dir
from charrnn.storage.checkpoint_format import load

ROWS = 64


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path)
    parser.add_argument("--steps", type=int, default=1600, help="of each row (default: 1600, some 100,000 symbols)")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    names = [*reversed(INTEGERS), "bf16", "fp32"]
    print(f"| network | nats | {' | '.join(names)} |\n|---|---{'|---' * len(names)}|")
    for name in args.runs:
        run = run_dir.Run(name)
        config, checkpoint = run.config(), load(name)
        corpus = open_corpus(run.corpus_file, checkpoint.vocab, tuple(config["inputs"]))
        part = corpus.split(config["val_frac"], config["test_frac"])["val"]
        if len(part) <= ROWS * args.steps:
            sys.exit(
                f"the validation part of {name} has {len(part):,} symbols, too few for {ROWS} rows: lower --steps."
            )
        starts = np.linspace(0, len(part) - args.steps - 1, ROWS).astype(int)
        rows = np.stack([part[start : start + args.steps + 1] for start in starts])
        exact = engine(checkpoint, "eager", threads=args.threads).score(rows).mean()
        cells = []
        for precision in names:
            mean = engine(checkpoint, "cpu", precision=precision, threads=args.threads).score(rows).mean()
            cells.append(f"{exact - mean:+.5f}")
            print(f"\r{name}, {precision}   ", end="", file=sys.stderr, flush=True)
        print("\r", end="", file=sys.stderr)
        size = f"{checkpoint.config.layers}x{checkpoint.config.rnn_size}"
        print(f"| {run.path.name}, {size} | {-exact:.4f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
