"""Prove that training that was stopped at any moment resumes exactly. 200 kills take about three minutes.

    python tools/campaigns/crash.py --kills 200 --disks 20
    python tools/campaigns/crash.py --only full-disk,power

Training is stopped by SIGKILL, a full disk or a power cut, and resumed. In the end its checkpoints and logs must equal
those of an undisturbed run, bit for bit except for the columns of time, and no temporary file may remain. Linux only.
full-disk needs root and is skipped without it.
"""

from __future__ import annotations

import csv
import itertools
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import Arguments, Check, Result, parser, run_checks
from faults import POWER_CUT, Fault, VolatileDisk, after, at, fill

import bytecodec
from charrnn import runtime
from charrnn.storage.csv_log import TIME_COLUMNS
from charrnn.storage.run_dir import Run

FLAGS = (
    "--rnn-size 8 --layers 2 --wordvec-size 4 --batch-size 4 --seq-length 8 --dropout 0.2 --max-iterations 60 "
    "--checkpoint-every 3 --keep 3 --precision fp32 --device cpu --threads 1 -q"
).split()
LAST_EVENT = 150  # of a run, before which a fault occurs

fork = multiprocessing.get_context("fork")


class Campaign:
    """A folder for damaged runs, and the result of an undisturbed one."""

    def __init__(self, args: Arguments, folder: Path) -> None:
        self.folder, self.random, self.runs = folder, random.Random(args.seed), itertools.count()
        data = np.random.default_rng(1).integers(100, 130, 3000, dtype=np.uint8)
        (folder / "sound.txt").write_text(bytecodec.encode(data.tobytes()), encoding="utf-8")
        run = self.new_run()
        assert self.finish(run) == 0, self.messages
        self.expected = result(run)

    @property
    def messages(self) -> str:
        """All messages of the last process."""
        return (self.folder / "messages").read_text(encoding="utf-8")

    def new_run(self, folder: Path | None = None) -> Run:
        """Return a run that does not exist yet."""
        return Run((folder or self.folder) / f"run-{next(self.runs):03d}")

    def event(self) -> int:
        """Return a random event of a run."""
        return self.random.randint(1, LAST_EVENT)

    def finish(self, run: Run, *faults: Fault) -> int:
        """Train or resume to the end, after applying faults in the new process; return its exit code."""
        argv = [str(self.folder / "sound.txt"), "--run-dir", str(run.path), *FLAGS]
        if run.config_file.exists():
            argv = ["--resume", str(run.path), "-q"]
        return self.command("train", argv, *faults)

    def command(self, name: str, argv: list[str], *faults: Fault) -> int:
        """Run a command in a fork of this process, which has imported torch already.

        Return its exit code, or minus the signal that ended it.
        """

        def target() -> None:
            with (self.folder / "messages").open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            for fault in faults:
                fault()
            sys.exit(getattr(__import__(f"charrnn.commands.{name}", fromlist=["x"]), f"charrnn_{name}")(argv))

        process = fork.Process(target=target)
        process.start()
        process.join()
        return int(process.exitcode or 0)

    def can_sample(self, run: Run) -> bool:
        """Sample from a run in a new process; return whether that succeeds."""
        flags = ["--length", "50", "--threads", "1", "-q"]
        return not self.command("sample", [str(run.path), *flags, "-o", str(self.folder / "sampled.txt")])

    def check(self, run: Run) -> None:
        """Finish a run without faults, compare it with the undisturbed one, and delete it."""
        assert self.finish(run) == 0, f"{run.path} does not resume: {self.messages}"
        found = result(run)
        for name in self.expected.keys() | found.keys():
            assert self.expected.get(name) == found.get(name), f"{name} of {run.path} differs"
        shutil.rmtree(run.path)


def result(run: Run) -> dict[str, Any]:
    """Return what must be equal: logs without columns of time, checkpoints as bytes, the names of all files."""
    found: dict[str, Any] = {}
    for file in (run.log_file, run.val_file):
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in csv.DictReader(lines)]
        found[file.name] = rows
    for file in (*run.checkpoints(), run.best_file):
        found[file.name] = file.read_bytes()
    found["files"] = sorted(str(file.relative_to(run.path)) for file in run.path.rglob("*"))
    return found


def kill(args: Arguments, folder: Path) -> Result:
    """Kill a run again and again until it happens to reach its end; then begin a new run."""
    campaign, kills = Campaign(args, folder), 0
    rng, run = campaign.random, campaign.new_run()
    while kills < args.kills:
        if rng.random() < 0.75:
            fault = at(rng.randint(1, 40), lambda: os.kill(os.getpid(), signal.SIGKILL))
        else:
            fault = after(rng.uniform(0, 1), signal.SIGKILL)  # also before training begins
        code = campaign.finish(run, fault)
        assert code in (-signal.SIGKILL, 0), f"SIGKILL ended it with {code}: {campaign.messages}"
        kills += code != 0
        if code == 0:
            campaign.check(run)
            run = campaign.new_run()
    campaign.check(run)
    return f"{kills} kills, all survived"


def full_disk(args: Arguments, folder: Path) -> Result:
    """Fill a small tmpfs at some moment of a run; free it, and resume."""
    campaign, small, failures = Campaign(args, folder), folder / "small", 0
    small.mkdir()
    for _ in range(args.disks):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(small)], check=True)
        try:
            run = campaign.new_run(small)
            code = campaign.finish(run, at(campaign.event(), lambda: fill(small / "ballast")))
            assert code in (0, 1), f"a full disk ended it with {code}: {campaign.messages}"
            if code:
                assert re.fullmatch(r"charrnn-train: .*No space left on device.*\n", campaign.messages), (
                    campaign.messages
                )
            assert not run.checkpoints() or campaign.can_sample(run)
            (small / "ballast").unlink()
            campaign.check(run)
            failures += code
        finally:
            subprocess.run(["umount", str(small)], check=True)
    return f"{args.disks} full disks, {failures} before the end, all survived"


def power(args: Arguments, folder: Path) -> Result:
    """Cut the power before each sync or rename: only synced data remain, with names written early or late."""
    campaign, cuts = Campaign(args, folder), 0
    for number in range(args.cuts):
        event, early_names = 1 + number // 2, bool(number % 2)
        disk, remains = VolatileDisk(folder / "disk"), folder / "remains"
        disk.folder.mkdir()
        run = campaign.new_run(disk.folder)
        cut = at(event, partial(disk.cut_power, remains, early_names), writes=False)
        code = campaign.finish(run, disk.apply, cut)
        if code == 0:  # there are no more events
            break
        assert code == POWER_CUT, f"it ended with {code}: {campaign.messages}"
        found = Run(remains / run.path.name)
        assert len(found.checkpoints()) >= len(run.checkpoints()) - 1, f"checkpoints are lost at event {event}"
        campaign.check(found)
        shutil.rmtree(disk.folder)
        shutil.rmtree(remains)
        cuts += 1
    return f"{cuts} power cuts, all survived"


def main() -> int:
    """Run the campaign; print a table."""
    arguments = parser(__doc__)
    arguments.add_argument("--kills", type=int, default=200, help="number of SIGKILLs (default: 200)")
    arguments.add_argument("--disks", type=int, default=20, help="number of full disks (default: 20)")
    arguments.add_argument("--cuts", type=int, default=200, help="number of power cuts (default: 200)")
    runtime.before_torch()
    runtime.set_threads(1)
    import torch

    # Imports what training imports later, so that each forked process starts at once.
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)
    checks: dict[str, Check] = {"kill": kill, "power": power}
    if os.geteuid() == 0:
        checks["full-disk"] = full_disk
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # where a sync is free
    return run_checks(arguments, checks, memory)


if __name__ == "__main__":
    sys.exit(main())
