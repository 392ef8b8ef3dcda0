"""Prove that long training and sampling stay correct, constant in memory and as fast as at the start. About an hour.

    python tools/campaigns/endurance.py
    python tools/campaigns/endurance.py --only train --iterations 1000000 --minutes 40
    python tools/campaigns/endurance.py --only agree --network runs/choir --symbols 200000

Prints a row for each check; the exit code is 1 if one failed. Linux only.

train   charrnn-train of a tiny network: log.csv has each iteration once, in order and finite; memory in the last tenth
        is at most 5 % above the second tenth; the last tenth takes at most twice as long as the first.
sample  endless charrnn-sample through a pipe that is closed in the end: every character belongs to the alphabet, none
        is lost, memory as above, the exit code is 0, and the state is finite.
agree   the compiled engine and the eager one score the same symbols from first to last: their mean losses differ by at
        most --tolerance in each tenth, and by a tenth of that when the sound repeats.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

import bytecodec
from bytecodec.errors import InputError
from charrnn.storage import run_dir
from charrnn.storage.csv_log import LOG_COLUMNS

ROOT = Path(__file__).parents[2]
VOICE = ROOT / "data" / "voice.wav"
TINY = "--cell rnn --rnn-size 8 --layers 1 --wordvec-size 4 --batch-size 2 --seq-length 2"
SMALL = "--rnn-size 32 --layers 2 --wordvec-size 16 --batch-size 16 --seq-length 64 --learning-rate 0.005"
COMMON = "--precision fp32 --device cpu --threads 1 -q"
MEMORY_GROWTH = 0.05  # at most
SLOWDOWN = 2.0  # at most; a busy machine can cause some
INTERVAL = 0.02  # seconds between two measurements of a process
READ_SIZE = 1 << 20  # bytes
IN_TRANSIT = 1 << 17  # symbols that the pipe and its writer hold at most

Result = tuple[str, str, str]  # length, memory, other figures


class Monitor:
    """Measurements of the memory of a process, in bytes, with their times."""

    def __init__(self, process: int) -> None:
        self.process = process
        self.seconds, self.memory = array("d"), array("d")

    def measure(self) -> None:
        """Measure once, unless the process has ended."""
        status = Path(f"/proc/{self.process}/status").read_text(encoding="utf-8")
        if "VmRSS:" in status:
            self.seconds.append(time.monotonic())
            self.memory.append(1024 * int(status.partition("VmRSS:")[2].split()[0]))

    def growth(self, start: float, end: float) -> str:
        """Return the median memory in the second and in the last tenth of a period; fail if it grew."""
        medians = []
        for first, last in ((0.1, 0.2), (0.9, 1.0)):
            low, high = start + first * (end - start), start + last * (end - start)
            medians.append(median(m for s, m in zip(self.seconds, self.memory, strict=True) if low <= s <= high))
        second, last = (memory / 1e6 for memory in medians)
        assert last <= (1 + MEMORY_GROWTH) * second, f"memory grew from {second:.1f} to {last:.1f} MB"
        return f"{second:.1f} to {last:.1f} MB"


def start(
    module: str, argv: Sequence[str], messages: Path, stdout: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start a command whose messages go to a file."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with messages.open("wb") as file:
        command = [sys.executable, "-m", f"charrnn.commands.{module}", *argv]
        return subprocess.Popen(command, env=environment, stdout=stdout, stderr=file)


def train(args: argparse.Namespace, folder: Path) -> Result:
    """Train a tiny network for many iterations."""
    text, run, messages = folder / "letters.txt", run_dir.Run(folder / "train"), folder / "messages"
    letters = np.random.default_rng(1).choice(list("abcdefgh \n"), 4000)
    text.write_text("".join(letters), encoding="utf-8")
    flags = f"--max-iterations {args.iterations} --max-minutes {args.minutes} --checkpoint-every 10000 --keep 2"
    process = start("train", [str(text), "--run-dir", str(run.path), *f"{flags} {TINY} {COMMON}".split()], messages)
    monitor = Monitor(process.pid)
    while process.poll() is None:
        monitor.measure()
        time.sleep(INTERVAL)
    assert process.returncode == 0, messages.read_text(encoding="utf-8")
    elapsed = checked_log(run.log_file)
    tenth, end = len(elapsed) // 10, monitor.seconds[-1]
    first, last = elapsed[tenth] - elapsed[0], elapsed[-1] - elapsed[-1 - tenth]
    assert last <= SLOWDOWN * first, f"the first tenth took {first:.1f} s, the last one {last:.1f} s"
    speed = f"{tenth / first:.0f} iterations/s in the first tenth, {tenth / last:.0f} in the last"
    size = f"log.csv of {run.log_file.stat().st_size / 1e6:.0f} MB is complete and finite"
    return f"{len(elapsed):,} iterations", monitor.growth(end - elapsed[-1], end), f"{size}; {speed}"


def checked_log(path: Path) -> array[float]:
    """Return the elapsed seconds of a log; fail unless it has each iteration once, in order, with finite numbers."""
    elapsed = array("d")
    with path.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), 1):
            assert tuple(row) == LOG_COLUMNS, f"row {number} of {path} is {row}"
            assert row["iteration"] == str(number), f"row {number} of {path} has iteration {row['iteration']}"
            assert all(math.isfinite(float(value)) for value in row.values()), f"row {number} of {path}: {row}"
            elapsed.append(float(row["elapsed_seconds"]))
    return elapsed


def sample(args: argparse.Namespace, folder: Path) -> Result:
    """Sample many symbols through a pipe."""
    from charrnn.storage import checkpoint_format

    network, state, messages = network_of(args, folder), folder / "state", folder / "messages"
    config = checkpoint_format.load(network).config
    flags = ["--seconds", "0", "--precision", args.precision, "--threads", "1", "--state-out", str(state), "-q"]
    process = start("sample", [str(network), *flags], messages, stdout=subprocess.PIPE)
    assert process.stdout
    monitor, decoder, count = Monitor(process.pid), bytecodec.Decoder(), 0
    begin = measured = 0.0
    with process.stdout as pipe:
        while count < args.sampled and (data := os.read(pipe.fileno(), READ_SIZE)):
            now = time.monotonic()
            begin = begin or now
            if now - measured > INTERVAL:
                monitor.measure()
                measured = now
            symbols = np.frombuffer(decoder.feed(data), np.uint8)  # raises an error for other characters
            count += len(symbols)
    end = time.monotonic()
    code, printed = process.wait(), messages.read_text(encoding="utf-8")
    assert code == 0, printed
    assert count >= args.sampled, f"it ended after {count:,} symbols: {printed}"
    assert not printed, printed
    streams = checkpoint_format.load_streams(state, config)
    in_transit = streams.position - count
    assert 0 <= in_transit <= IN_TRANSIT, f"{streams.position:,} were sampled, {count:,} received"
    assert all(np.isfinite(part).all() for layer in streams.state for part in layer), "the state is not finite"
    assert len(np.unique(symbols)) > 1, "the last symbols are all the same"
    highest = max(float(np.abs(layer[0]).max()) for layer in streams.state)
    figures = f"{count / (end - begin):,.0f} symbols/s; {in_transit:,} in transit when the pipe was closed; "
    return f"{count:,} symbols", monitor.growth(begin, end), f"{figures}the state is finite, |h| at most {highest:.2f}"


def agree(args: argparse.Namespace, folder: Path) -> Result:
    """Score a long sound by both engines."""
    from charrnn.engines import engine
    from charrnn.storage import checkpoint_format

    network = checkpoint_format.load(network_of(args, folder))
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
    figures = f"mean loss {-eager.mean():.3f} nats per symbol; the compiled engine's differs by {shown} in the tenths, "
    figures += (
        f"by {repeated:+.6f} more when the sound repeats, by {np.abs(difference).max():.2f} at most in one symbol"
    )
    return f"{difference.size:,} symbols", "", figures


def network_of(args: argparse.Namespace, folder: Path) -> Path:
    """Return the checkpoint of --network, or train a small one on the sound."""
    if args.network:
        return run_dir.checkpoint_path(args.network)
    run = folder / "small"
    if not run.exists():
        flags = ["--run-dir", str(run), "--max-iterations", "1000", *SMALL.split(), *COMMON.split()]
        process = start("train", [args.sound, *flags], folder / "messages")
        assert process.wait() == 0, (folder / "messages").read_text(encoding="utf-8")
    return run_dir.checkpoint_path(run)


CHECKS: dict[str, Callable[[argparse.Namespace, Path], Result]] = {"train": train, "sample": sample, "agree": agree}


def main() -> int:
    """Run the checks; print a row for each and return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CHECKS), help="checks, separated by commas (default: all)")
    parser.add_argument("--iterations", type=int, default=1_000_000, help="iterations of train (default: a million)")
    parser.add_argument("--minutes", type=float, default=1440, help="time limit of train in minutes (default: a day)")
    parser.add_argument("--sampled", type=int, default=100_000_000, help="symbols of sample (default: 100 million)")
    parser.add_argument("--symbols", type=int, default=1_000_000, help="symbols of agree (default: a million)")
    parser.add_argument("--network", help="run or checkpoint for sample and agree (default: trains a small one)")
    parser.add_argument(
        "--sound", default=str(VOICE), help="recording for training and agree (default: data/voice.wav)"
    )
    parser.add_argument("--precision", default="int7", help="precision of the compiled engine (default: int7)")
    parser.add_argument("--tolerance", type=float, default=0.002, help="nats per symbol for agree (default: 0.002)")
    args = parser.parse_args()
    checks = args.only.split(",")
    if unknown := set(checks) - set(CHECKS):
        parser.error(f"unknown check {', '.join(sorted(unknown))}: choose from {', '.join(CHECKS)}.")
    code = 0
    with tempfile.TemporaryDirectory(prefix="endurance-") as name:
        for check in checks:
            begin = time.monotonic()
            try:
                length, memory, figures = CHECKS[check](args, Path(name))
            except (AssertionError, InputError, ValueError) as error:  # ValueError: too few measurements
                code, length, memory, figures = 1, "failed", "", str(error).strip()
            print(f"| {check} | {length} | {time.monotonic() - begin:.0f} | {memory} | {figures} |", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
