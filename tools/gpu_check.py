"""Every test and benchmark that needs a GPU, in one command of under eight minutes.

    python tools/gpu_check.py                     a table and JSON on standard output
    python tools/gpu_check.py --json results.json

A check that is wrong, breaks, dies or hangs is a row that says so, and the others go on; a Ctrl-C ends it with what was
found so far. Run it with nothing else on the GPU. Its columns of the floor say what part of a row's time the work would
have needed at least, by the GPU's data sheet and by what the GPU did at best in the same run; of the goal, 1 is there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gpu_floor
import torch
from gpu_workers import Check, Row, Workshop, load

NO_GPU = "torch finds no NVIDIA GPU here: run this on a machine with one, where torch is built for CUDA."
MINUTES = 7.25  # what began before may end after (see `gpu_workers.GRACE`), and torch takes a while to import
INTERRUPTED = 130
UNKNOWN = "an unknown device"


def results(rows: list[Row]) -> dict[str, Any]:
    """What the JSON has: the rows with their parts of floor and goal, and what these were reckoned by."""
    machine: Row = next((row["figures"] for row in rows if row["check"] == "the machine" and "figures" in row), {})
    sheet, card = gpu_floor.SHEETS.get(machine.get("device", "")), gpu_floor.measured(rows)
    for row in rows:
        row |= {
            "of the floor by the data sheet": gpu_floor.of_the_floor(row, sheet),
            "of the floor as measured": gpu_floor.of_the_floor(row, card),
            "of the goal": gpu_floor.of_the_goal(row),
        }
    floors = {"by the data sheet": sheet, "as measured": card}
    return {
        "device": machine.get("device", UNKNOWN),
        "machine": machine,
        "floors": {name: gpu_floor.floors(its) for name, its in floors.items() if its},
        "rows": rows,
    }


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = [", ".join(f"{name} {value}" for name, value in found["machine"].items()) or found["device"]]
    for name, floors in found["floors"].items():
        lines.append(f"floor {name}: " + ", ".join(f"{value:g} {what}" for what, value in floors.items()))
    lines += ["", "| check | result | of the floor: data sheet | measured | of the goal | right |", "|" + 6 * "---|"]
    for row in found["rows"]:
        parts = (row[f"of the {what}"] for what in ("floor by the data sheet", "floor as measured", "goal"))
        cells = [
            row["check"],
            " ".join(row["result"].replace("|", "/").split()),
            *("" if p is None else f"{p:.3g}" for p in parts),
        ]
        cells.append("" if "ok" not in row else "yes" if row["ok"] else "NO")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run(checks: Sequence[Check], workshop: Workshop) -> tuple[list[Row], bool]:
    """Rows of all that was done, and whether that was interrupted."""
    rows: list[Row] = []
    with contextlib.closing(workshop.run(checks)) as found:
        try:
            for row in found:
                rows.append(row)
        except KeyboardInterrupt:
            return rows, True
    return rows, False


def main(argv: list[str] | None = None) -> int:
    """Run all, print all; 0 if every test was right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the JSON there instead of standard output")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"begin nothing after these ({MINUTES:g})")
    parser.add_argument("--rehearse", action="store_true", help=argparse.SUPPRESS)  # tiny, on the CPU, for the tests
    parser.add_argument("--checks", default="gpu_plan:checks", help=argparse.SUPPRESS)  # others, likewise
    args = parser.parse_args(argv)
    if args.rehearse:
        os.environ.setdefault("TRITON_INTERPRET", "1")
    elif not torch.cuda.is_available():  # which makes no context: all else that is asked of the GPU the workers ask
        print(f"gpu_check: {NO_GPU}", file=sys.stderr)
        return 1
    rows, interrupted = run(load(args.checks, args.rehearse), Workshop(args.checks, args.rehearse, args.minutes))
    found = results(rows)
    print(table(found))
    text = json.dumps(found, indent=1)
    if args.json:
        Path(args.json).write_text(text + "\n")
    else:
        print("\n" + text)
    return INTERRUPTED if interrupted else int(any(row.get("ok") is False for row in rows))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends it wants to see what there is
    sys.exit(main())
