"""Prove that interrupted training resumes exactly, whatever stopped it. 200 kills take about ten minutes.

    python tools/campaigns/crash.py --kills 200 --others 20
    python tools/campaigns/crash.py --only full-disk,power

Training is stopped by signals, a full disk, missing permissions, a power cut or a second trainer, and resumed. In the
end its checkpoints and logs must equal those of an undisturbed run, bit for bit except for the columns of time, and no
temporary file may remain. Linux only. full-disk and read-only need root and are left out without it.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faults
import numpy as np

import bytecodec
from charrnn import runtime
from charrnn.storage.csv_log import TIME_COLUMNS
from charrnn.storage.run_dir import Run

FLAGS = (
    "--rnn-size 8 --layers 2 --wordvec-size 4 --batch-size 4 --seq-length 8 --dropout 0.2 --max-iterations 60 "
    "--checkpoint-every 3 --keep 3 --precision fp32 --device cpu --threads 1 -q"
).split()
DELAY = 0.004  # seconds before and after a step of a save, at most


class Campaign:
    """A folder for damaged runs, and the result of an undisturbed one."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.progress = faults.Progress()
        self.runs = 0
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
        self.runs += 1
        return Run((folder or self.folder) / f"run-{self.runs:03d}")

    def start(self, run: Run, *faults_to_apply: Callable[[], object]) -> int:
        """Start or resume training in a new process, after applying faults in it; return the process id."""
        argv = [str(self.folder / "sound.txt"), "--run-dir", str(run.path), *FLAGS]
        if run.config_file.exists():
            argv = ["--resume", str(run.path), "-q"]
        self.progress.clear()
        sys.stdout.flush()
        process = os.fork()
        if process:
            return process
        code = 70
        try:
            output = os.open(self.folder / "messages", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(output, 1)
            os.dup2(output, 2)
            for apply in faults_to_apply:
                apply()
            code = train(self.progress, argv)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def slow_saves(self, delay: float = DELAY, seed: int = 0) -> Callable[[], None]:
        """Return a fault: saves that take long enough to be interrupted."""
        return lambda: faults.slow_saves(self.progress, delay, seed)

    def finish(self, run: Run, *faults_to_apply: Callable[[], object]) -> int:
        """Train to the end; return the exit code."""
        return exit_code(self.start(run, *faults_to_apply))

    def check(self, run: Run, fault: str) -> None:
        """Finish a run without faults, compare it with the undisturbed one, and delete it."""
        assert self.finish(run) == 0, f"{fault}: {run.path} does not resume: {self.messages}"
        found = result(run)
        for name in self.expected.keys() | found.keys():
            assert self.expected.get(name) == found.get(name), f"{fault}: {name} of {run.path} differs"
        shutil.rmtree(run.path)

    def check_message(self, keyword: str) -> None:
        """Check that the last process printed one line with a keyword, and no traceback."""
        assert re.fullmatch(rf"charrnn-train: .*{keyword}.*\n", self.messages), self.messages

    def wait_for_events(self, process: int, events: int) -> bool:
        """Wait until so many steps of saves have begun; return False if the process ended before."""
        while self.progress.events < events:
            if has_ended(process):
                return False
            time.sleep(0.0002)
        return True


def train(progress: faults.Progress, argv: list[str]) -> int:
    """Run charrnn-train and record when training begins."""
    from charrnn.commands.train import charrnn_train
    from charrnn.training.trainer import Trainer

    original = Trainer.train

    def recorded(*args: Any, **kwargs: Any) -> None:
        progress.record(faults.TRAINING)
        original(*args, **kwargs)

    Trainer.train = recorded  # type: ignore[method-assign]
    return charrnn_train(argv)


def exit_code(process: int) -> int:
    """Wait for a process; return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def has_ended(process: int) -> bool:
    """Return whether a process has ended, without removing its exit status."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


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


# Each fault is a generator: it yields where or how a run was struck, and raises AssertionError if something was lost.


def signals(campaign: Campaign, number: signal.Signals, count: int) -> Iterator[str]:
    """Send a signal to a run again and again until it happens to reach its end; then begin a new run."""
    codes = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
    moments, struck, starts = faults.moments(campaign.seed), 0, campaign.seed
    run = campaign.new_run()
    while struck < count:
        events, delay = next(moments)
        process = campaign.start(run, campaign.slow_saves(seed=starts))
        starts += 1
        if not events:  # also before training begins
            deadline = time.monotonic() + delay
            while not campaign.progress.phase and time.monotonic() < deadline:
                time.sleep(0.0005)
        if campaign.wait_for_events(process, events):
            time.sleep(delay)
        if has_ended(process):
            exit_code(process)
            campaign.check(run, number.name)
            run = campaign.new_run()
            continue
        os.kill(process, number)
        phase = faults.PHASES[campaign.progress.phase]
        code = exit_code(process)
        assert code in (codes[number], 0), f"{number.name} ended it with {code}: {campaign.messages}"
        assert "Traceback" not in campaign.messages, campaign.messages
        struck += 1
        yield phase
    campaign.check(run, number.name)


def full_disk(campaign: Campaign, count: int) -> Iterator[str]:
    """Fill a small tmpfs at some moment of a run; free it, and resume."""
    rng = random.Random(campaign.seed)
    for _ in range(count):
        with faults.mounted(campaign.folder / "small", "size=1500k") as folder:
            run = campaign.new_run(folder)
            process = campaign.start(run, campaign.slow_saves())
            campaign.wait_for_events(process, rng.randint(1, 120))
            faults.fill(folder / "ballast")
            code = exit_code(process)
            assert code in (0, 1), f"a full disk ended it with {code}: {campaign.messages}"
            if code:
                campaign.check_message("No space left on device")
            if run.config_file.exists():
                assert can_sample(campaign, run) or not run.checkpoints()
            (folder / "ballast").unlink()
            campaign.check(run, "a full disk")
            yield "full" if code else "finished before"


def can_sample(campaign: Campaign, run: Run, which: str = "newest") -> bool:
    """Sample from a run in a new process; return whether that succeeds."""
    target = campaign.folder / "sampled.txt"
    process = os.fork()
    if not process:
        from charrnn.commands.sample import charrnn_sample

        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        argv = [str(run.path), "--checkpoint", which, "--length", "50", "--threads", "1", "-q", "-o", str(target)]
        os._exit(charrnn_sample(argv))
    return exit_code(process) == 0


def read_only(campaign: Campaign, count: int) -> Iterator[str]:
    """Make a run's folders read-only while it trains; make them writable again, and resume."""
    rng = random.Random(campaign.seed)
    for _ in range(count):
        run = campaign.new_run()
        process = campaign.start(run, faults.obey_permissions, campaign.slow_saves())
        campaign.wait_for_events(process, rng.randint(10, 150))
        assert run.path.is_dir(), campaign.messages
        folders = [run.path, *filter(Path.is_dir, [run.checkpoints_folder])]
        for folder in folders:
            folder.chmod(0o555)
        code = exit_code(process)
        assert code in (0, 1), f"a read-only folder ended it with {code}: {campaign.messages}"
        if code:
            campaign.check_message("Permission denied")
            assert campaign.finish(run, faults.obey_permissions) == 1, "it trained in a read-only folder"
            assert "Traceback" not in campaign.messages, campaign.messages
        assert can_sample(campaign, run) or not run.checkpoints()
        for folder in folders:
            folder.chmod(0o755)
        campaign.check(run, "a read-only folder")
        yield "rejected" if code else "finished before"


def two_trainers(campaign: Campaign, count: int) -> Iterator[str]:
    """Start a second trainer, which is rejected, and a sampler, which is not; kill the first: its lock is released."""
    for number in range(count):
        run = campaign.new_run()
        first = campaign.start(run, campaign.slow_saves(10 * DELAY))
        campaign.wait_for_events(first, 12 + 10 * number)
        progress, campaign.progress = campaign.progress, faults.Progress()
        assert campaign.finish(run) == 1, "a second trainer was not rejected"
        campaign.check_message("another process")
        campaign.progress = progress
        if len(run.checkpoints()) > 1:
            assert can_sample(campaign, run, str(int(run.checkpoints()[-2].stem))), "sampling failed"
        os.kill(first, signal.SIGKILL)
        assert exit_code(first) == -signal.SIGKILL
        campaign.check(run, "two trainers")
        yield "rejected"


def clock(campaign: Campaign, count: int) -> Iterator[str]:
    """Let the wall clock run backwards and give files times in the future."""
    for number in range(count):
        run = campaign.new_run()
        process = campaign.start(run, faults.backward_clock, campaign.slow_saves())
        campaign.wait_for_events(process, 5 + 11 * number)
        os.kill(process, signal.SIGKILL)
        exit_code(process)
        for file in run.path.rglob("*"):
            os.utime(file, (4e9, 4e9))
        assert campaign.finish(run, faults.backward_clock) == 0, campaign.messages
        campaign.check(run, "a clock that runs backwards")
        yield "backwards"


def power(campaign: Campaign, count: int) -> Iterator[str]:
    """Cut the power before some sync or rename: only synced data remain, with names written early or late."""
    for number in range(count):
        folder, remains = campaign.folder / f"power-{number}", campaign.folder / f"remains-{number}"
        event, names_early = 1 + number // 2, bool(number % 2)
        folder.mkdir()
        run = campaign.new_run(folder)
        arguments = (folder, event, remains, names_early, campaign.progress)
        code = campaign.finish(run, lambda arguments=arguments: faults.VolatileDisk(*arguments))  # type: ignore[misc]
        if code == 0:  # there are no more events
            return
        assert code == 99, f"it ended with {code}: {campaign.messages}"
        phase = faults.PHASES[campaign.progress.phase]
        found = Run(remains / run.path.name)
        if run.config_file.exists() and phase != "renaming" and not names_early:
            assert found.path.is_dir(), "the run itself is lost"
        campaign.check(found, f"a power cut {'with early names ' * names_early}before event {event}, {phase}")
        shutil.rmtree(folder)
        shutil.rmtree(remains)
        yield phase


def main() -> int:
    """Run the campaign; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="number of SIGKILLs (default: 200)")
    parser.add_argument("--others", type=int, default=20, help="number of each other fault (default: 20)")
    parser.add_argument("--cuts", type=int, default=200, help="number of power cuts (default: 200)")
    parser.add_argument("--only", help="names of faults, separated by commas (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    args = parser.parse_args()
    runtime.before_torch()
    runtime.set_threads(1)
    import torch

    # Imports what training imports later, so that each forked process starts at once.
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)
    others = args.others
    campaigns: dict[str, Callable[[Campaign], Iterator[str]]] = {
        "kill": lambda c: signals(c, signal.SIGKILL, args.kills),
        "terminate": lambda c: signals(c, signal.SIGTERM, others),
        "interrupt": lambda c: signals(c, signal.SIGINT, others),
        "two-trainers": lambda c: two_trainers(c, others),
        "clock": lambda c: clock(c, others),
        "power": lambda c: power(c, args.cuts),
    }
    if os.geteuid() == 0:
        campaigns |= {"full-disk": lambda c: full_disk(c, others), "read-only": lambda c: read_only(c, others)}
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # where a sync takes no time
    with tempfile.TemporaryDirectory(prefix="crash-", dir=memory) as name:
        campaign = Campaign(Path(name), args.seed)
        for fault in args.only.split(",") if args.only else campaigns:
            start = time.monotonic()
            struck = Counter(campaigns[fault](campaign))
            where = ", ".join(f"{n} {phase}" for phase, n in sorted(struck.items()))
            print(f"{fault:13}{struck.total():6} faults, all survived, {time.monotonic() - start:6.0f} s  ({where})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
