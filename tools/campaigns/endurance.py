"""Leave training and sampling alone for long, and see that nothing grows, drifts or is lost.

    python tools/campaigns/endurance.py
    python tools/campaigns/endurance.py --only train --iterations 1000000 --minutes 40
    python tools/campaigns/endurance.py --only agree --network runs/choir --symbols 200000

Prints a row of the table in docs/explanation/guarantees.md for each check, and ends with 1 where one failed.

train   charrnn-train of a tiny network: log.csv has each iteration once, in order and finite; memory in the last tenth
        is within 5 % of that in the second; a tenth of the iterations takes at most twice what the first took.
sample  charrnn-sample without end, read through a pipe that is closed at last: each character is one of the alphabet,
        as many were made as came out, but for those on their way, memory as above, exit code 0, the state finite.
agree   the compiled engine against the eager one, teacher-forced from the first symbol to the last without a break:
        what it loses stays within 0.002 nats a symbol in each tenth (--apart), and is the same within a tenth of that
        when the sound that it began with comes again.

Linux only, as it reads /proc.
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
from dataclasses import dataclass, field
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
OFTEN = "--checkpoint-every 10000 --keep 2"
COMMON = "--precision fp32 --device cpu --threads 1 -q"
GROWTH = 0.05  # of memory, which is allowed
SLOWER = 2.0  # times, which a busy machine may be the reason of
EVERY = 0.02  # seconds between looks at a process
READ = 1 << 20  # bytes
ON_THE_WAY = 1 << 17  # symbols that a pipe and what writes to it hold at most
LONG = f"{TINY} {OFTEN} {COMMON}".split()
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Watch:
    """What was seen of a process: when, its memory in bytes, and the seconds of a processor that it had."""

    process: int
    seconds: array[float] = field(default_factory=lambda: array("d"))
    memory: array[float] = field(default_factory=lambda: array("d"))
    worked: array[float] = field(default_factory=lambda: array("d"))

    def look(self) -> None:
        """Look once; a process that has ended has no memory, and is not looked at."""
        status = Path(f"/proc/{self.process}/status").read_text(encoding="utf-8")
        if "VmRSS:" in status:
            times = Path(f"/proc/{self.process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            self.seconds.append(time.monotonic())
            self.memory.append(1024 * int(status.partition("VmRSS:")[2].split()[0]))
            self.worked.append((int(times[11]) + int(times[12])) / TICKS)

    def grown(self, begin: float, end: float) -> tuple[float, float]:
        """Memory in the second and in the last tenth of a time, in bytes."""
        parts = ((begin + a * (end - begin), begin + b * (end - begin)) for a, b in ((0.1, 0.2), (0.9, 1)))
        second, last = (
            median([m for s, m in zip(self.seconds, self.memory, strict=True) if low <= s <= high])
            for low, high in parts
        )
        return second, last


def flat(second: float, last: float) -> str:
    """Memory in words, where it did not grow."""
    assert last <= (1 + GROWTH) * second, f"memory grew from {second / 1e6:.1f} to {last / 1e6:.1f} MB"
    return f"{second / 1e6:.1f} to {last / 1e6:.1f} MB"


def start(module: str, argv: Sequence[str], said: Path, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """A command in a process of its own, which says what it says to a file."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with said.open("wb") as file:
        command = [sys.executable, "-m", f"charrnn.commands.{module}", *argv]
        return subprocess.Popen(command, env=environment, stdout=stdout, stderr=file)


# Each check returns how far it went, memory and what else was seen, and raises an AssertionError where it failed.

Seen = tuple[str, str, str]


def train(args: argparse.Namespace, folder: Path) -> Seen:
    """A million iterations, or as many as there are minutes for."""
    text, run, said = folder / "letters.txt", run_dir.Run(folder / "train"), folder / "said"
    letters = np.random.default_rng(1).choice(list("abcdefgh \n"), 4000)
    text.write_text("".join(letters), encoding="utf-8")
    length = ["--max-iterations", str(args.iterations), "--max-minutes", str(args.minutes)]
    process = start("train", [str(text), "--run-dir", str(run.path), *length, *LONG], said)
    watch = Watch(process.pid)
    while process.poll() is None:
        watch.look()
        time.sleep(EVERY)
    end = watch.seconds[-1]
    assert process.returncode == 0, said.read_text(encoding="utf-8")
    elapsed = whole_log(run.log_file)
    count, begin = len(elapsed), end - elapsed[-1]
    borders = [elapsed[0], elapsed[count // 10], elapsed[count - 1 - count // 10], elapsed[-1]]
    worked = np.interp([begin + border for border in borders], watch.seconds, watch.worked)
    first, last = borders[1] - borders[0], borders[3] - borders[2]
    assert last <= SLOWER * first, f"the first tenth took {first:.1f} s, the last one {last:.1f} s"
    speeds = [count // 10 / seconds for seconds in (first, last, worked[1] - worked[0], worked[3] - worked[2])]
    speed = "{:.0f} iterations a second in the first tenth, {:.0f} in the last; {:.0f} and {:.0f} a processor's second"
    left = f"{run.log_file.stat().st_size / 1e6:.0f} MB of log.csv, whole and finite"
    return f"{count:,} iterations", flat(*watch.grown(begin, end)), f"{left}; {speed.format(*speeds)}"


def whole_log(path: Path) -> array[float]:
    """The elapsed seconds of a log, where each iteration is in it once, in order, with finite numbers."""
    elapsed = array("d")
    with path.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), 1):
            assert tuple(row) == LOG_COLUMNS, f"row {number} of {path} is {row}"
            assert row["iteration"] == str(number), f"row {number} of {path} is of iteration {row['iteration']}"
            assert all(math.isfinite(float(value)) for value in row.values()), f"row {number} of {path}: {row}"
            elapsed.append(float(row["elapsed_seconds"]))
    return elapsed


def sample(args: argparse.Namespace, folder: Path) -> Seen:
    """A hundred million symbols through a pipe."""
    from charrnn.storage import checkpoint_format

    network, state, said = taught(args, folder), folder / "state", folder / "said"
    config = checkpoint_format.load(network).config
    flags = ["--seconds", "0", "--precision", args.precision, "--threads", "1", "--state-out", str(state), "-q"]
    process = start("sample", [str(network), *flags], said, stdout=subprocess.PIPE)
    assert process.stdout
    watch, decoder, count = Watch(process.pid), bytecodec.Decoder(), 0
    kinds = np.zeros(256, bool)
    begin = looked = 0.0
    with process.stdout as pipe:
        while count < args.sampled and (data := os.read(pipe.fileno(), READ)):
            now = time.monotonic()
            begin = begin or now
            if now - looked > EVERY:
                watch.look()
                looked = now
                kinds[:] = False
            symbols = np.frombuffer(decoder.feed(data), np.uint8)  # refuses what is no character of the alphabet
            kinds[symbols] = True
            count += len(symbols)
    end = time.monotonic()
    assert process.wait() == 0, said.read_text(encoding="utf-8")
    assert count >= args.sampled, f"it ended after {count:,} symbols: {said.read_text(encoding='utf-8')}"
    assert not said.read_text(encoding="utf-8"), said.read_text(encoding="utf-8")
    streams = checkpoint_format.load_streams(state, config)
    waiting = streams.position - count
    assert 0 <= waiting <= ON_THE_WAY, f"{streams.position:,} were made, and {count:,} came out"
    assert all(np.isfinite(part).all() for layer in streams.state for part in layer), "the state is not finite"
    assert kinds.sum() > 1, "it has come to say one symbol only"
    highest = max(float(np.abs(layer[0]).max()) for layer in streams.state)
    seen = f"{count / (end - begin):,.0f} symbols a second; {waiting:,} on their way as the pipe closed, exit code 0; "
    seen += f"the state finite, h up to {highest:.2f}; {kinds.sum()} different symbols in the last {EVERY:g} s"
    return f"{count:,} symbols", flat(*watch.grown(begin, end)), seen


def agree(args: argparse.Namespace, folder: Path) -> Seen:
    """A million symbols of sound, scored by both engines in one go."""
    from charrnn.engines import engine
    from charrnn.storage import checkpoint_format

    network = checkpoint_format.load(taught(args, folder))
    assert network.rate, f"{network.path} was trained on text: name a network of sound"
    sound = np.concatenate(list(bytecodec.read_blocks(args.sound, network.rate, mulaw=network.encoding == "mulaw")))
    heard = min(len(sound), args.symbols * 6 // 10)  # and then once more, to hold the same sound against itself
    ids = np.resize(sound[:heard], (1, args.symbols // 10 * 10 + 1))
    compiled, eager = (
        engine(network, kind, precision=precision, threads=1).score(ids)[0]
        for kind, precision in (("cpu", args.precision), ("eager", "fp32"))
    )
    assert np.isfinite(compiled).all(), "a probability is not finite"
    assert np.isfinite(eager).all(), "a probability is not finite"
    lost = (eager - compiled).reshape(10, -1)
    tenths = lost.mean(axis=1)
    shown = ", ".join(f"{tenth:+.5f}" for tenth in tenths)
    assert np.abs(tenths).max() <= args.apart, f"it loses {shown} nats a symbol in the tenths"
    again = float((lost.ravel()[heard:] - lost.ravel()[:-heard]).mean())
    assert abs(again) <= args.apart / 10, f"it loses {again:+.6f} nats a symbol more when it hears the same again"
    seen = f"mean loss {-eager.mean():.3f} nats; the compiled engine's is more by {shown} in the tenths, and by "
    seen += f"{again:+.6f} more where the sound is heard again; one symbol's by {np.abs(lost).max():.2f} at most"
    return f"{lost.size:,} symbols", "", seen


def taught(args: argparse.Namespace, folder: Path) -> Path:
    """The network that was named, or a small one that has heard a little of the sound."""
    if args.network:
        return run_dir.checkpoint_path(args.network)
    run = folder / "taught"
    if not run.exists():
        flags = ["--run-dir", str(run), "--max-iterations", str(args.taught), *SMALL.split(), *COMMON.split()]
        process = start("train", [args.sound, *flags], folder / "said")
        assert process.wait() == 0, (folder / "said").read_text(encoding="utf-8")
    return run_dir.checkpoint_path(run)


CHECKS: dict[str, Callable[[argparse.Namespace, Path], Seen]] = {"train": train, "sample": sample, "agree": agree}


def main() -> int:
    """Run the checks; prints a row each and returns 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CHECKS), help="names, with commas")
    parser.add_argument("--iterations", type=int, default=1_000_000, help="to train (default: a million)")
    parser.add_argument("--minutes", type=float, default=1440, help="to train for at most (default: a day)")
    parser.add_argument("--sampled", type=int, default=100_000_000, help="symbols to sample (default: 100 million)")
    parser.add_argument("--symbols", type=int, default=1_000_000, help="to compare engines by (default: a million)")
    parser.add_argument("--network", help="run or checkpoint to sample and to compare by, in place of a small one")
    parser.add_argument("--sound", default=str(VOICE), help="that the small one learns, and engines are compared by")
    parser.add_argument("--taught", type=int, default=1000, help="iterations of the small one (default: 1000)")
    parser.add_argument("--precision", default="int7", help="of the compiled engine (default: int7)")
    parser.add_argument("--apart", type=float, default=0.002, help="nats that it may lose (default: 0.002)")
    args = parser.parse_args()
    chosen = args.only.split(",")
    if foreign := set(chosen) - set(CHECKS):
        parser.error(f"there is no check {', '.join(sorted(foreign))}: there are {', '.join(CHECKS)}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="endurance-") as name:
        for check in chosen:
            begin = time.monotonic()
            try:
                done, memory, seen = CHECKS[check](args, Path(name))
            except (AssertionError, InputError, ValueError) as error:  # the last where there is too little to tell
                failed, done, memory, seen = 1, "failed", "", str(error).strip()
            print(f"| {check} | {done} | {time.monotonic() - begin:.0f} | {memory} | {seen} |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
