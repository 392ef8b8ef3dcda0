"""Functions that all campaigns share: flags, starting commands, and the table of results."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
VOICE = ROOT / "data" / "voice.wav"
MEMORY_GROWTH = 0.05  # at most

Arguments = argparse.Namespace
Result = str  # description of the result of a check
Check = Callable[[Arguments, Path], Result]  # called with a new folder; raises an error if it fails


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags of all campaigns."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", help="names of checks, separated by commas (default: all)")
    made.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: 0)")
    return made


def run_checks(arguments: argparse.ArgumentParser, checks: Mapping[str, Check], memory: str | None = None) -> int:
    """Run the checks in temporary folders; print a row for each and return 1 if one failed."""
    args = arguments.parse_args()
    names = args.only.split(",") if args.only else list(checks)
    if unknown := set(names) - set(checks):
        arguments.error(f"unknown check {', '.join(sorted(unknown))}: choose from {', '.join(checks)}.")
    code = 0
    for name in names:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="campaign-", dir=memory) as folder:
            try:
                result = checks[name](args, Path(folder))
            except Exception as error:
                code, result = 1, f"failed: {str(error).strip()}"
                if not isinstance(error, AssertionError):
                    traceback.print_exc()
        print(f"| {name} | {time.monotonic() - begin:.0f} s | {result} |", flush=True)
    return code


def start(module: str, argv: list[str], messages: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command whose messages go to a file."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"charrnn.commands.{module}", *argv]
    with messages.open("wb") as file:
        return subprocess.Popen(
            command, **{"env": environment, "stdout": subprocess.DEVNULL, "stderr": file, **options}
        )


def run(module: str, argv: list[str], messages: Path) -> None:
    """Run a command to its end; fail with its messages if it fails."""
    assert start(module, argv, messages).wait() == 0, messages.read_text(encoding="utf-8")


def resident_bytes(process: int) -> int:
    """Return the memory of a process in bytes; 0 if it has ended."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def growth(memory: Sequence[int]) -> str:
    """Return the median memory in the second and in the last tenth of some measurements; fail if it grew."""
    tenth = len(memory) // 10
    second, last = (statistics.median(part) / 1e6 for part in (memory[tenth : 2 * tenth], memory[-tenth:]))
    assert last <= (1 + MEMORY_GROWTH) * second, f"memory grew from {second:.1f} to {last:.1f} MB"
    return f"{second:.1f} to {last:.1f} MB"
