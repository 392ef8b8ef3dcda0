"""Prove that damaged and hostile files are read or rejected, but never crash. 1000 inputs per target take two minutes.

    python tools/campaigns/fuzz.py --inputs 100000
    python tools/campaigns/fuzz.py --only checkpoint,t7 --inputs 1000 --seed 7

An input is a valid file with bytes changed, removed, repeated or inserted, or with extreme numbers in its header; it
depends on the seed and its number alone. It must be read or rejected with one message line of at most 400 characters,
within ten seconds and a gigabyte. Inputs that fail are written to --keep. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from fuzz_targets import TARGETS, Target

from bytecodec.errors import InputError

TIME_LIMIT = 10  # seconds
MEMORY_LIMIT = 1 << 30  # bytes, beyond those at the start
MESSAGE_LIMIT = 400  # characters
BLOCK = 1 << 15  # inputs that one process reads
EXTREMES = [0, 1, 2, 7, *(2**n + d for n in (7, 8, 15, 16, 24, 31, 32, 63, 64) for d in (-1, 0))]
VALUES = [*'null true -1 0 1e400 NaN -Infinity 1000000000 "x" [] {} [[]]'.split(), "1" + "0" * 30]


def mutate(rng: random.Random, target: Target) -> bytes:
    """Return a valid file with one to four changes, or one whose JSON has other values."""
    if target.suffix in (".json", ".safetensors") and rng.random() < 0.5:
        return mutate_json(rng, rng.choice(target.seeds), target.suffix)
    data = bytearray(rng.choice(target.seeds))
    for _ in range(rng.choice((1, 1, 2, 4))):
        end = min(target.header, len(data)) if target.header and rng.random() < 0.8 else len(data)
        at = rng.randrange(end + 1)
        kind = rng.randrange(8)
        if kind == 0:
            data[at : at + 1] = rng.randbytes(1)
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            size = rng.choice((1, 2, 4, 8))
            number = (rng.choice(EXTREMES) % 256**size).to_bytes(size, rng.choice(("little", "big")))
            data[at : at + size] = number
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + rng.choice((1, 2, 4, 30))]
        elif kind == 5:
            data[at:at] = data[at : at + rng.choice((1, 4, 8, 64))] * rng.choice((1, 2, 50))
        elif kind == 6:
            other = rng.choice(target.seeds)
            start = rng.randrange(len(other) + 1)
            data[at : at + 16] = other[start : start + 16]
        else:
            data[at:at] = rng.choice(VALUES).encode() if rng.random() < 0.5 else rng.randbytes(4)
    return bytes(data)


def mutate_json(rng: random.Random, data: bytes, suffix: str) -> bytes:
    """Return a file whose JSON has other values; in a safetensors file, the header's or its metadata's."""
    if suffix == ".json":
        return replace_value(rng, data.decode()).encode()
    size = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + size].decode()
    if rng.random() < 0.7:
        parsed = json.loads(header)
        for _ in range(rng.choice((1, 1, 2))):
            parsed["__metadata__"]["charrnn"] = replace_value(rng, parsed["__metadata__"]["charrnn"])
        header = json.dumps(parsed)
    else:
        header = replace_value(rng, header)
    return struct.pack("<Q", len(header.encode())) + header.encode() + data[8 + size :]


def replace_value(rng: random.Random, text: str) -> str:
    """Return a JSON text with one of its values replaced."""
    colons = [index for index, character in enumerate(text) if character == ":"]
    if not colons:
        return text
    begin = end = rng.choice(colons) + 1
    while end < len(text) and text[end] not in ",}":
        end += 1
    return text[:begin] + rng.choice(VALUES) + text[end:]


@dataclass
class Outcome:
    """Counts and maxima over some inputs."""

    read: int = 0
    rejected: int = 0
    faults: int = 0
    slowest: float = 0.0  # seconds
    memory: int = 0  # bytes

    def add(self, other: Outcome) -> None:
        """Add the outcome of other inputs."""
        for name in ("read", "rejected", "faults"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.slowest, self.memory = max(self.slowest, other.slowest), max(self.memory, other.memory)


class TooSlowError(BaseException):
    """Raised at the time limit; like KeyboardInterrupt, ``except Exception`` does not catch it."""


def too_slow(*_: object) -> None:
    """Raise at the time limit."""
    raise TooSlowError(f"it took more than {TIME_LIMIT} seconds")


def read_inputs(name: str, numbers: range, seed: int, keep: Path) -> Outcome:
    """Read inputs of a target in this process."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        target = TARGETS[name](Path(folder))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_LIMIT
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # of files that a rejection leaves to the garbage collector
        signal.signal(signal.SIGALRM, too_slow)
        path, before = Path(folder, f"input{target.suffix}"), peak_memory()
        for number in numbers:
            data = mutate(random.Random(f"{name} {seed} {number}"), target)
            path.write_bytes(data)
            start = time.monotonic()
            signal.alarm(TIME_LIMIT)
            fault = ""
            try:
                target.read(path)
                outcome.read += 1
            except InputError as error:
                outcome.rejected += 1
                if "\n" in str(error) or len(str(error)) > MESSAGE_LIMIT:
                    fault = f"a long message: {error}"
            except BaseException:
                fault = traceback.format_exc()
            signal.alarm(0)
            outcome.slowest = max(outcome.slowest, time.monotonic() - start)
            if fault:
                outcome.faults += 1
                keep_fault(keep / f"{name}-{number}", data, fault)
        outcome.memory = peak_memory() - before
    return outcome


def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def keep_fault(path: Path, data: bytes, description: str) -> None:
    """Write an input and a description of its fault."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.with_name(f"{path.name}.error").write_text(description, encoding="utf-8", errors="backslashreplace")
    print(f"{path.name}: {description.strip().splitlines()[-1][:200]}", file=sys.stderr, flush=True)


def read_in_child(name: str, numbers: range, seed: int, keep: Path) -> Outcome:
    """Read inputs in a child process, whose crash counts as a fault."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        code = 1
        try:
            os.write(writer, json.dumps(asdict(read_inputs(name, numbers, seed, keep))).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code:
        print(f"{name}: the process ended with {code} at one of {numbers}", file=sys.stderr)
    return Outcome(**json.loads(answer)) if answer else Outcome(faults=1)


def main() -> int:
    """Read inputs of all targets; print a table and return 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="number of inputs per target (default: 1000)")
    parser.add_argument("--only", default=",".join(TARGETS), help="targets, separated by commas (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs (default: 0)")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="folder for inputs that fail")
    args = parser.parse_args()
    faults = 0
    for name in args.only.split(","):
        start, total = time.monotonic(), Outcome()
        for first in range(0, args.inputs, BLOCK):
            total.add(read_in_child(name, range(first, min(first + BLOCK, args.inputs)), args.seed, args.keep))
        print(
            f"{name:11}{total.read + total.rejected:9,} inputs: {total.read:,} read, {total.rejected:,} rejected, "
            f"{total.faults} faults; {time.monotonic() - start:.0f} s, slowest {total.slowest:.2f} s, "
            f"{total.memory / 1e6:.0f} MB more",
            flush=True,
        )
        faults += total.faults
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
