"""Prove that long training and sampling stay correct, constant in memory and as fast as at the start. About an hour.

    python tools/campaigns/endurance.py
    python tools/campaigns/endurance.py --only train --iterations 1000000 --minutes 40
    python tools/campaigns/endurance.py --only agree --network runs/choir --symbols 200000

Prints a row for each check; the exit code is 1 if one failed. Linux only.

train   charrnn-train of a tiny network: log.csv has each iteration once, in order and finite; memory in the last tenth
        is at most 5 % above the second tenth; the last tenth takes at most twice as long as the first.
sample  endless charrnn-sample through a pipe that is finally closed: every character belongs to the alphabet, none
        is lost, memory as above, the exit code is 0, and the state is finite.
agree   the compiled engine and the eager one score the same symbols from first to last: their mean losses differ by at
        most --tolerance in each tenth, and by a tenth of that when the sound repeats.
"""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from common import VOICE, Arguments, Result, growth, parser, resident_bytes, run, run_checks, start

import bytecodec
from charrnn.storage import run_dir
from charrnn.storage.csv_log import LOG_COLUMNS

TINY = "--cell rnn --rnn-size 8 --layers 1 --wordvec-size 4 --batch-size 2 --seq-length 2"
SMALL = "--rnn-size 32 --layers 2 --wordvec-size 16 --batch-size 16 --seq-length 64 --learning-rate 0.005"
COMMON = "--precision fp32 --device cpu --threads 1 -q"
SLOWDOWN = 2.0  # at most; a busy machine can cause some
INTERVAL = 0.02  # seconds between two measurements of a process
IN_TRANSIT = 1 << 17  # symbols that the pipe and its writer hold at most


def train(args: Arguments, folder: Path) -> Result:
    """Train a tiny network for many iterations."""
    text, made, messages = folder / "letters.txt", run_dir.Run(folder / "train"), folder / "messages"
    text.write_text("".join(np.random.default_rng(args.seed).choice(list("abcdefgh \n"), 4000)), encoding="utf-8")
    flags = f"--max-iterations {args.iterations} --max-minutes {args.minutes} --checkpoint-every 10000 --keep 2"
    process = start("train", [str(text), "--run-dir", str(made.path), *f"{flags} {TINY} {COMMON}".split()], messages)
    memory: list[int] = []
    while process.poll() is None:
        if made.log_file.exists():
            memory.append(resident_bytes(process.pid))
        time.sleep(INTERVAL)
    assert process.returncode == 0, messages.read_text(encoding="utf-8")
    elapsed = check_log(made.log_file)
    tenth = len(elapsed) // 10
    first, last = elapsed[tenth] - elapsed[0], elapsed[-1] - elapsed[-1 - tenth]
    assert last <= SLOWDOWN * first, f"the first tenth took {first:.1f} s, the last one {last:.1f} s"
    speed = f"{tenth / first:.0f} iterations/s in the first tenth, {tenth / last:.0f} in the last"
    size = f"log.csv of {made.log_file.stat().st_size / 1e6:.0f} MB is complete and finite"
    return f"{len(elapsed):,} iterations; {growth(memory)}; {size}; {speed}"


def check_log(path: Path) -> list[float]:
    """Return the elapsed seconds of a log; fail unless it has each iteration once, in order, with finite numbers."""
    elapsed = []
    with path.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), 1):
            assert tuple(row) == LOG_COLUMNS, f"row {number}: {row}"
            assert row["iteration"] == str(number), f"row {number}: {row}"
            assert all(math.isfinite(float(value)) for value in row.values()), f"row {number}: {row}"
            elapsed.append(float(row["elapsed_seconds"]))
    return elapsed


def sample(args: Arguments, folder: Path) -> Result:
    """Sample many symbols through a pipe."""
    from charrnn.storage import checkpoint_format

    network, state, messages = checkpoint_of(args, folder), folder / "state", folder / "messages"
    flags = ["--seconds", "0", "--precision", args.precision, "--threads", "1", "--state-out", str(state), "-q"]
    process = start("sample", [str(network), *flags], messages, stdout=subprocess.PIPE)
    assert process.stdout
    decoder, count, begin = bytecodec.Decoder(), 0, time.monotonic()
    memory: list[int] = []
    with process.stdout as pipe:
        while count < args.sampled and (data := os.read(pipe.fileno(), 1 << 20)):
            memory.append(resident_bytes(process.pid))
            symbols = np.frombuffer(decoder.feed(data), np.uint8)  # raises an error for other characters
            count += len(symbols)
    speed = count / (time.monotonic() - begin)
    code, printed = process.wait(), messages.read_text(encoding="utf-8")
    assert (code, printed) == (0, ""), printed
    assert count >= args.sampled, f"it ended after {count:,} symbols"
    streams = checkpoint_format.load_streams(state, checkpoint_format.load(network).config)
    in_transit = streams.position - count
    assert 0 <= in_transit <= IN_TRANSIT, f"{streams.position:,} were sampled, {count:,} received"
    assert all(np.isfinite(part).all() for layer in streams.state for part in layer), "the state is not finite"
    assert len(np.unique(symbols)) > 1, "the last symbols are all the same"
    return f"{count:,} symbols; {growth(memory)}; {speed:,.0f} symbols/s; {in_transit:,} in transit at the end"


def agree(args: Arguments, folder: Path) -> Result:
    """Score a long sound by both engines."""
    from charrnn.engines import engine
    from charrnn.storage import checkpoint_format

    network = checkpoint_format.load(checkpoint_of(args, folder))
    assert network.rate, f"{network.path} was trained on text: name a network of sound"
    sound = np.concatenate(list(bytecodec.read_blocks(args.sound, network.rate, mulaw=network.encoding == "mulaw")))
    period = min(len(sound), args.symbols * 6 // 10)  # repeated, to compare the sound with itself
    ids = np.resize(sound[:period], (1, args.symbols // 10 * 10 + 1))
    compiled, eager = (
        engine(network, kind, precision=precision, threads=1).score(ids)[0]
        for kind, precision in (("cpu", args.precision), ("eager", "fp32"))
    )
    assert np.isfinite([compiled, eager]).all(), "a probability is not finite"
    difference = eager - compiled
    tenths = difference.reshape(10, -1).mean(axis=1)
    shown = ", ".join(f"{tenth:+.5f}" for tenth in tenths)
    assert np.abs(tenths).max() <= args.tolerance, f"the loss differs by {shown} nats per symbol in the tenths"
    repeated = float((difference[period:] - difference[:-period]).mean())
    assert abs(repeated) <= args.tolerance / 10, f"the loss differs by {repeated:+.6f} more when the sound repeats"
    loss = f"mean loss {-eager.mean():.3f} nats per symbol; the compiled engine's differs by {shown} in the tenths"
    return f"{difference.size:,} symbols; {loss}, by {repeated:+.6f} more when the sound repeats"


def checkpoint_of(args: Arguments, folder: Path) -> Path:
    """Return the checkpoint of --network, or train a small one on the sound."""
    if not args.network:
        flags = ["--run-dir", str(folder / "small"), "--max-iterations", "1000", *SMALL.split(), *COMMON.split()]
        run("train", [args.sound, *flags], folder / "messages")
    return run_dir.checkpoint_path(args.network or folder / "small")


def main() -> int:
    """Run the checks; print a row for each and return 1 if one failed."""
    made = parser(__doc__)
    made.add_argument("--iterations", type=int, default=1_000_000, help="iterations of train (default: a million)")
    made.add_argument("--minutes", type=float, default=1440, help="time limit of train in minutes (default: a day)")
    made.add_argument("--sampled", type=int, default=100_000_000, help="symbols of sample (default: 100 million)")
    made.add_argument("--symbols", type=int, default=1_000_000, help="symbols of agree (default: a million)")
    made.add_argument("--network", help="run or checkpoint for sample and agree (default: trains a small one)")
    made.add_argument("--sound", default=str(VOICE), help="recording for training and agree (default: data/voice.wav)")
    made.add_argument("--precision", default="int7", help="precision of the compiled engine (default: int7)")
    made.add_argument("--tolerance", type=float, default=0.002, help="nats per symbol for agree (default: 0.002)")
    return run_checks(made, {"train": train, "sample": sample, "agree": agree})


if __name__ == "__main__":
    sys.exit(main())
