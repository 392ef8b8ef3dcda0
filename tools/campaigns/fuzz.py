"""Prove that damaged and hostile files are read or rejected, but never crash. 1000 inputs per target take two minutes.

    python tools/campaigns/fuzz.py --inputs 100000
    python tools/campaigns/fuzz.py --only checkpoint,csv --inputs 1000 --seed 7

An input is a valid file with bytes changed, removed, repeated or inserted, or with extreme numbers in its header; it
depends on the seed and its number alone. It must be read or rejected with one message line of at most 400 characters,
within ten seconds and a gigabyte. Inputs that fail are written to --keep. Linux only.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import signal
import struct
import sys
import time
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from common import Arguments, Result, parser, run_checks
from fuzz_targets import TARGETS, Target

from bytecodec.errors import InputError

TIME_LIMIT = 10  # seconds
MEMORY_LIMIT = 1 << 30  # bytes, beyond those at the start
MESSAGE_LIMIT = 400  # characters
fork = multiprocessing.get_context("fork")
EXTREMES = [0, 1, 2, 7, *(2**n + d for n in (7, 8, 15, 16, 24, 31, 32, 63, 64) for d in (-1, 0))]
VALUES = [*'null true -1 0 1e400 NaN -Infinity 1000000000 "x" [] {} [[]]'.split(), "1" + "0" * 30]


def mutate(rng: random.Random, target: Target) -> bytes:
    """Return a valid file with one to four changes, or one whose JSON has other values."""
    if target.suffix in (".json", ".safetensors") and rng.random() < 0.5:
        return mutate_json(rng, rng.choice(target.seeds), target.suffix)
    data = bytearray(rng.choice(target.seeds))
    for _ in range(rng.choice((1, 1, 2, 4))):
        end = min(target.header, len(data)) if target.header and rng.random() < 0.8 else len(data)
        at, size, other = rng.randrange(end + 1), rng.choice((1, 2, 4, 8)), rng.choice(target.seeds)
        start = rng.randrange(len(other) + 1)
        new = rng.choice(
            (
                b"",
                rng.randbytes(size),
                bytes(byte ^ 1 << rng.randrange(8) for byte in data[at : at + 1]),
                (rng.choice(EXTREMES) % 256**size).to_bytes(size, rng.choice(("little", "big"))),
                bytes(data[at : at + 8 * size]) * rng.choice((2, 50)),
                other[start : start + 16],
                rng.choice(VALUES).encode(),
            )
        )
        replaced = rng.choice((0, len(new), len(new), size, len(data)))  # number of old bytes
        data[at : at + replaced] = new
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


class TooSlowError(BaseException):
    """Raised at the time limit; like KeyboardInterrupt, ``except Exception`` does not catch it."""


def too_slow(*_: object) -> None:
    """Raise at the time limit."""
    raise TooSlowError(f"it took more than {TIME_LIMIT} seconds")


def fault_of(target: Target, path: Path) -> tuple[bool, str]:
    """Read an input; return whether it was read, and the description of a fault or an empty text."""
    signal.alarm(TIME_LIMIT)
    try:
        target.read(path)
    except InputError as error:
        is_long = "\n" in str(error) or len(str(error)) > MESSAGE_LIMIT
        return False, f"a long message: {error}" if is_long else ""
    except BaseException:
        return False, traceback.format_exc()
    finally:
        signal.alarm(0)
    return True, ""


def read_inputs(name: str, args: Arguments, folder: Path, send: Any) -> None:
    """Read mutated inputs in this process, keep those that fail, and send the counts of read and failed ones."""
    target = TARGETS[name](folder)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", ResourceWarning)  # of files that a rejection leaves to the garbage collector
    signal.signal(signal.SIGALRM, too_slow)
    path, read, faults, slowest = folder / f"input{target.suffix}", 0, 0, 0.0
    for number in range(args.inputs):
        data = mutate(random.Random(f"{name} {args.seed} {number}"), target)
        path.write_bytes(data)
        begin = time.monotonic()
        is_read, fault = fault_of(target, path)
        slowest = max(slowest, time.monotonic() - begin)
        read += is_read
        if fault:
            faults += 1
            keep = args.keep / f"{name}-{number}"
            keep.parent.mkdir(parents=True, exist_ok=True)
            keep.write_bytes(data)
            keep.with_name(f"{keep.name}.error").write_text(fault, encoding="utf-8", errors="backslashreplace")
            print(f"{keep.name}: {fault.strip().splitlines()[-1][:200]}", file=sys.stderr, flush=True)
    send.put((read, faults, slowest))


def read_in_child(name: str, args: Arguments, folder: Path) -> Result:
    """Read inputs in a child process, whose crash is a fault, too."""
    results = fork.SimpleQueue()
    process = fork.Process(target=read_inputs, args=(name, args, folder, results))
    process.start()
    process.join()
    assert process.exitcode == 0, f"the process ended with {process.exitcode}"
    read, faults, slowest = results.get()
    assert not faults, f"{faults} of {args.inputs:,} inputs, which {args.keep} contains"
    return f"{args.inputs:,} inputs: {read:,} read, {args.inputs - read:,} rejected, 0 faults; slowest {slowest:.2f} s"


def main() -> int:
    """Read inputs of all targets; print a table and return 1 if there was a fault."""
    flags = parser(__doc__)
    flags.add_argument("--inputs", type=int, default=1000, help="number of inputs per target (default: 1000)")
    flags.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="folder for inputs that fail")
    return run_checks(flags, {name: partial(read_in_child, name) for name in TARGETS})


if __name__ == "__main__":
    sys.exit(main())
