"""Break training in every way that one can think of, let it go on, and hold it against a run that nothing happened to.

    python tools/campaigns/crash.py --kills 200 --others 20
    python tools/campaigns/crash.py --only full-disk,power

At the end of each run checkpoints, log.csv and val.csv have to be those of the undisturbed run, bit for bit but for the
columns of time, and nothing temporary may be left. Linux only; the full disk and the folder that cannot be written to
need root, and are left out without it.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
SLOW = 0.004  # seconds that a step of a save takes at most, on either side
KILLED = -signal.SIGKILL
Fault = Callable[[], object]


@dataclass
class Campaign:
    """A folder to break things in, what an undisturbed run comes to, and what was seen."""

    folder: Path
    seed: int
    board: faults.Board = field(default_factory=faults.Board)
    struck: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    whole: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        data = np.random.default_rng(1).integers(100, 130, 3000, dtype=np.uint8)
        (self.folder / "sound.txt").write_text(bytecodec.encode(data.tobytes()), encoding="utf-8")
        run = self.new()
        assert self.finish(run) == 0, self.said
        self.whole = result(run)

    @property
    def said(self) -> str:
        """What the last process said."""
        return (self.folder / "said").read_text(encoding="utf-8")

    def new(self, folder: Path | None = None) -> Run:
        """A run that is yet to be made."""
        self.runs += 1
        return Run((folder or self.folder) / f"run-{self.runs:03d}")

    def start(self, run: Run, *prepare: Fault) -> int:
        """Train, or go on where there is something to go on from, in another process; returns its number."""
        again = run.config_file.exists()
        what = ["--resume", str(run.path), "-q"] if again else [*self.inputs, "--run-dir", str(run.path), *FLAGS]
        self.board.clear()
        sys.stdout.flush()
        process = os.fork()
        if process:
            return process
        code = 70
        try:
            said = os.open(self.folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(said, 1)
            os.dup2(said, 2)
            for fault in prepare:
                fault()
            code = train(self.board, what)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    @property
    def inputs(self) -> list[str]:
        """What to train on."""
        return [str(self.folder / "sound.txt")]

    def finish(self, run: Run, *prepare: Fault) -> int:
        """Train to the end; returns the exit code."""
        return ended(self.start(run, *prepare))

    def check(self, run: Run, what: str) -> None:
        """Finish a run and hold it against the undisturbed one."""
        assert self.finish(run) == 0, f"{what}: {run.path} does not go on: {self.said}"
        found = result(run)
        for name in self.whole.keys() | found.keys():
            assert self.whole.get(name) == found.get(name), f"{what}: {name} of {run.path} is not the undisturbed one's"
        shutil.rmtree(run.path)


def train(board: faults.Board, argv: list[str]) -> int:
    """charrnn-train, with a note on the board when it has begun."""
    from charrnn.commands.train import charrnn_train
    from charrnn.training.trainer import Trainer

    learn = Trainer.train

    def noted(*args: Any, **kwargs: Any) -> None:
        board.note(faults.TRAINING)
        learn(*args, **kwargs)

    Trainer.train = noted  # type: ignore[method-assign]
    return charrnn_train(argv)


def ended(process: int) -> int:
    """Wait for a process; returns its exit code, or the signal with a minus."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def result(run: Run) -> dict[str, Any]:
    """All that has to be alike: logs without their columns of time, checkpoints as bytes, the names of all files."""
    found: dict[str, Any] = {}
    for file in (run.log_file, run.val_file):
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in csv.DictReader(lines)]
        found[file.name] = rows
    for file in (*run.checkpoints(), run.best_file):
        found[file.name] = file.read_bytes()
    found["files"] = sorted(str(file.relative_to(run.path)) for file in run.path.rglob("*"))
    return found


# Each campaign yields a word on what was struck, and raises an AssertionError where something was lost.


def signals(campaign: Campaign, number: signal.Signals, count: int) -> Iterator[str]:
    """A run is struck by a signal again and again, until it happens to come to its end; then the next one is."""
    codes = {signal.SIGKILL: KILLED, signal.SIGTERM: 143, signal.SIGINT: 130}
    moments, struck, slow = faults.moments(campaign.seed), 0, itertools.count(campaign.seed)
    run = campaign.new()
    while struck < count:
        events, more = next(moments)
        process = campaign.start(run, lambda: faults.slow_saves(campaign.board, SLOW, next(slow)))
        if not strike(campaign.board, process, number, events, more):
            campaign.check(run, number.name)
            run = campaign.new()
            continue
        phase = faults.PHASES[campaign.board.phase]  # where a SIGKILL found it; the others are heard in their own time
        code = ended(process)
        assert code in (codes[number], 0), f"{number.name} ended it with {code}: {campaign.said}"
        assert "Traceback" not in campaign.said, campaign.said
        struck += 1
        yield phase
    campaign.check(run, number.name)


def strike(board: faults.Board, process: int, number: int, events: int, more: float) -> bool:
    """Send a signal at a moment; False where the process came to its end before, which is then waited for."""
    begin = time.monotonic()
    while not board.phase and not events and time.monotonic() - begin < more:
        time.sleep(0.0005)  # also before it trains
    while events and board.events < events:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            break
        time.sleep(0.0002)
    time.sleep(more)
    if os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        ended(process)
        return False
    os.kill(process, number)
    return True


def full_disk(campaign: Campaign, count: int) -> Iterator[str]:
    """A small tmpfs is full at some moment; when it is emptied again, the run goes on."""
    rng = random.Random(campaign.seed)
    for _ in range(count):
        with mounted(campaign.folder / "small", "size=1500k") as folder:
            run, process = campaign.new(folder), 0
            process = campaign.start(run, lambda: faults.slow_saves(campaign.board, SLOW, 0))
            wait_for(campaign.board, process, rng.randint(1, 120))
            fill(folder / "ballast")
            code = ended(process)
            assert code in (0, 1), f"a full disk ended it with {code}: {campaign.said}"
            if code:
                assert re.fullmatch(r"charrnn-train: .*No space left on device.*\n", campaign.said), campaign.said
            if run.config_file.exists():
                sampled = sample(campaign, run)  # readers are not hindered
                assert sampled or not run.checkpoints()
            (folder / "ballast").unlink()
            campaign.check(run, "a full disk")
            yield "full" if code else "done before"


def fill(path: Path) -> None:
    """Leave no room beside a file."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


@dataclass
class mounted:  # noqa: N801  # a context manager reads as a verb
    """A tmpfs of a size, for as long as the block lasts."""

    folder: Path
    options: str

    def __enter__(self) -> Path:
        self.folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", self.options, "tmpfs", str(self.folder)], check=True)
        return self.folder

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)


def wait_for(board: faults.Board, process: int, events: int) -> None:
    """Until so many events of saves have been, or the process is no more."""
    while board.events < events:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            return
        time.sleep(0.001)


def sample(campaign: Campaign, run: Run, which: str = "newest") -> str:
    """Text that is sampled from a run in a process of its own, "" where there is nothing to sample from."""
    target = campaign.folder / "sampled.txt"
    target.unlink(missing_ok=True)
    process = os.fork()
    if not process:
        from charrnn.commands.sample import charrnn_sample

        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        argv = [str(run.path), "--checkpoint", which, "--length", "50", "--threads", "1", "-q", "-o", str(target)]
        os._exit(charrnn_sample(argv))
    ended(process)
    return target.read_text(encoding="utf-8") if target.exists() else ""


def read_only(campaign: Campaign, count: int) -> Iterator[str]:
    """A folder may no longer be written to, and later may again; the trainer has no right to write all the same."""
    rng = random.Random(campaign.seed)
    for _ in range(count):
        run = campaign.new()
        process = campaign.start(run, faults.obey_permissions, lambda: faults.slow_saves(campaign.board, SLOW, 0))
        wait_for(campaign.board, process, rng.randint(10, 150))
        assert run.path.is_dir(), campaign.said
        places = [run.path, *filter(Path.is_dir, [run.checkpoints_folder])]
        for place in places:
            place.chmod(0o555)
        code = ended(process)
        assert code in (0, 1), f"a read-only folder ended it with {code}: {campaign.said}"
        if code:
            assert re.fullmatch(r"charrnn-train: .*Permission denied.*\n", campaign.said), campaign.said
        again = campaign.finish(run, faults.obey_permissions)
        assert again == (1 if code else again), f"it trained in a read-only folder: {campaign.said}"
        assert "Traceback" not in campaign.said, campaign.said
        assert sample(campaign, run) or not run.checkpoints()
        for place in places:
            place.chmod(0o755)
        campaign.check(run, "a read-only folder")
        yield "refused" if code else "done before"


def two_trainers(campaign: Campaign, count: int) -> Iterator[str]:
    """A second trainer on a run is refused, a sampler is not, and a trainer that was killed leaves no lock."""
    for number in range(count):
        run = campaign.new()
        first = campaign.start(run, lambda: faults.slow_saves(campaign.board, 10 * SLOW, 0))
        wait_for(campaign.board, first, 12 + 10 * number)
        board, campaign.board = campaign.board, faults.Board()
        assert campaign.finish(run) == 1, "a second trainer was let in"
        assert re.fullmatch(r"charrnn-train: another process is training in .*\n", campaign.said), campaign.said
        campaign.board = board
        if len(run.checkpoints()) > 1:
            assert sample(campaign, run, str(int(run.checkpoints()[-2].stem))), "a sampler was hindered"
        os.kill(first, signal.SIGKILL)
        assert ended(first) == KILLED
        campaign.check(run, "two trainers")
        yield "refused"


def clock(campaign: Campaign, count: int) -> Iterator[str]:
    """The wall clock goes back between looks at it, and files are from the future."""
    for number in range(count):
        run = campaign.new()
        process = campaign.start(run, faults.backward_clock, lambda: faults.slow_saves(campaign.board, SLOW, 0))
        wait_for(campaign.board, process, 5 + 11 * number)
        os.kill(process, signal.SIGKILL)
        ended(process)
        for file in run.path.rglob("*"):
            os.utime(file, (4e9, 4e9))
        assert campaign.finish(run, faults.backward_clock) == 0, campaign.said
        campaign.check(run, "a clock that goes backwards")
        yield "backwards"


def power(campaign: Campaign, count: int) -> Iterator[str]:
    """The power goes before some sync or rename, and only what was synced is left, with names early or late."""
    for number in range(count):
        folder, early = campaign.folder / f"power-{number}", bool(number % 2)
        folder.mkdir()
        run, left = campaign.new(folder), campaign.folder / f"left-{number}"
        code = campaign.finish(
            run,
            lambda f=folder, n=number, to=left, e=early: faults.ForgetfulDisk(f, 1 + n // 2, to, e, campaign.board),  # type: ignore[misc]
        )
        if code == 0:  # it came to its end before
            return
        assert code == 99, f"it ended with {code}: {campaign.said}"
        phase = faults.PHASES[campaign.board.phase]
        was_ready = run.config_file.exists()
        found = Run(left / run.path.name)
        if was_ready and phase != "renaming" and not early:
            assert found.path.is_dir(), "the run itself is lost"
        campaign.check(found, f"a power cut {'with names early ' * early}before event {1 + number // 2}, {phase}")
        shutil.rmtree(folder)
        shutil.rmtree(left)
        yield phase


def import_all() -> None:
    """Import what training imports on the way, before the processes part, so that each begins at once."""
    import torch

    torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)


def main() -> int:
    """Run the campaigns; prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="by SIGKILL (default: 200)")
    parser.add_argument("--others", type=int, default=20, help="of each other fault (default: 20)")
    parser.add_argument("--cuts", type=int, default=200, help="of the power (default: 200)")
    parser.add_argument("--only", help="names of faults, with commas")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    runtime.before_torch()
    runtime.set_threads(1)
    import_all()
    others, is_root = args.others, os.geteuid() == 0
    campaigns: dict[str, Callable[[Campaign], Iterator[str]]] = {
        "kill": lambda c: signals(c, signal.SIGKILL, args.kills),
        "terminate": lambda c: signals(c, signal.SIGTERM, others),
        "interrupt": lambda c: signals(c, signal.SIGINT, others),
        "two-trainers": lambda c: two_trainers(c, others),
        "clock": lambda c: clock(c, others),
        "power": lambda c: power(c, args.cuts),
    }
    if is_root:
        campaigns |= {"full-disk": lambda c: full_disk(c, others), "read-only": lambda c: read_only(c, others)}
    chosen = args.only.split(",") if args.only else list(campaigns)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # where a sync takes no time
    with tempfile.TemporaryDirectory(prefix="crash-", dir=memory) as name:
        campaign = Campaign(Path(name), args.seed)
        for fault in chosen:
            begin = time.monotonic()
            struck = Counter(campaigns[fault](campaign))
            where = ", ".join(f"{n} {phase}" for phase, n in sorted(struck.items()))
            print(f"{fault:13}{struck.total():6} faults, all survived, {time.monotonic() - begin:6.0f} s  ({where})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
