"""The run directory: its files, names and logs. Imports no torch, so that whatever reads runs starts at once."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import IO, Any

from bytecodec.arguments import check_path
from bytecodec.console import is_special_file, open_output, sync_folder
from bytecodec.errors import InputError

RUNS = Path("runs")
LEFTOVER = re.compile(  # the names under which bytecodec.console.open_output writes what only a trainer writes
    r"\.((config|best)\.json|(log|val)\.csv|(resume|\d+)\.safetensors|\d+_t[\d.]+\.wav)\.\w+\.part"
)
VAL_COLUMNS = ("iteration", "epoch", "val_loss", "val_bits", "elapsed_seconds")
LOG_COLUMNS = (
    "iteration",
    "epoch",
    "train_loss",
    "train_bits",
    "learning_rate",
    "grad_norm",
    "symbols_per_second",
    "elapsed_seconds",
)
TIME_COLUMNS = ("symbols_per_second", "elapsed_seconds")  # all that differs between two runs of the same


class Run:
    """A run directory.

    ========================  ==============================================================
    config.json               what was decided when it was started
    log.csv, val.csv          a row an iteration, a row a validation; losses in nats a symbol
    checkpoints/00001000.…    the network at an iteration; best.json names the best
    resume.safetensors        all that going on needs; the newest only
    corpus.bin                the ids that it trains on
    samples/00001000_t1.00.…  what a checkpoint sounds like, at a temperature
    tensorboard/              event files for TensorBoard, where --tensorboard asked for them
    ========================  ==============================================================
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.log_file = path / "log.csv"
        self.val_file = path / "val.csv"
        self.best_file = path / "best.json"
        self.resume_file = path / "resume.safetensors"
        self.corpus_file = path / "corpus.bin"
        self.lock_file = path / "lock"
        self.checkpoints_folder = path / "checkpoints"
        self.samples_folder = path / "samples"
        self.tensorboard_folder = path / "tensorboard"

    def checkpoint_file(self, step: int) -> Path:
        """Where the checkpoint of an iteration is."""
        return self.checkpoints_folder / f"{step:08d}.safetensors"

    def sample_file(self, step: int, temperature: float) -> Path:
        """Where the sound of an iteration's checkpoint at a temperature is."""
        return self.samples_folder / f"{step:08d}_t{temperature:.2f}.wav"

    def checkpoints(self) -> list[Path]:
        """The checkpoints that there are, oldest first."""
        files = self.checkpoints_folder.glob("[0-9]*.safetensors")
        return sorted((file for file in files if file.stem.isdecimal()), key=lambda file: int(file.stem))

    def config(self) -> dict[str, Any]:
        """What config.json holds; an InputError where it is not a run's."""
        try:
            config = json.loads(self.config_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{self.path} is not a run: there is no config.json in it.") from None
        except ValueError as error:
            raise InputError(f"{self.config_file} cannot be read ({error}).") from None
        if not isinstance(config, dict):
            raise InputError(f"{self.config_file} is not a run's settings.")
        return config

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.json."""
        write_json(self.config_file, config)

    def best(self) -> dict[str, Any] | None:
        """What best.json says: iteration, val_loss, checkpoint; None before the first validation."""
        try:
            best = json.loads(self.best_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        named = isinstance(best, dict) and isinstance(best.get("iteration"), int)
        return best if named and isinstance(best.get("checkpoint"), str) else None

    def is_half_made(self) -> bool:
        """Whether the folder holds nothing but what a trainer leaves that was killed before the run was made."""
        logs = [file.read_bytes() for file in (self.log_file, self.val_file) if file.is_file()]
        own = {self.lock_file, self.corpus_file, self.log_file, self.val_file, self.resume_file}
        others = [path for path in self.path.iterdir() if path not in own and not _is_leftover(path)]
        return self.lock_file.is_file() and not others and all(log.count(b"\n") <= 1 for log in logs)

    def clear(self) -> None:
        """Empty a folder that `is_half_made`; the lock has to be held, and stays."""
        for path in self.path.iterdir():
            if path != self.lock_file:
                path.unlink()

    def sweep(self) -> None:
        """Take away what a killed trainer was writing when it was killed; the lock has to be held."""
        for folder in filter(Path.is_dir, (self.path, self.checkpoints_folder, self.samples_folder)):
            for path in folder.iterdir():
                if _is_leftover(path):
                    path.unlink()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one that writes here. The system lets go of the lock when the process ends, however it ends.

        Raises
        ------
        InputError
            Another process trains in this directory.
        """
        with self.lock_file.open("w") as file:
            try:
                _lock(file)
            except (BlockingIOError, PermissionError):  # held; any other error is about the file system
                raise InputError(
                    f"another process is training in {self.path}: wait for it, or stop it first."
                ) from None
            yield


def is_frames(config: Mapping[str, Any]) -> bool:
    """Whether a run's config.json is that of a frame predictor."""
    return config.get("kind") == "frames"


def _is_leftover(path: Path) -> bool:
    return bool(LEFTOVER.fullmatch(path.name)) and path.is_file()


def _lock(file: IO[str]) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class CsvLog:
    """A CSV file that grows by rows, and goes on after a resume without a gap or a repeated row.

    Rows after ``iteration``, which a stopped run had written but not saved, are cut away on opening. Rows
    reach the system at `flush` and the disk at `sync`.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], iteration: int) -> None:
        self.path, self.columns = path, columns
        self.last: dict[str, str] | None = None
        if path.exists() and (header := _header(path)) not in ("", ",".join(columns)):
            raise InputError(f"{path} begins with {header[:80]!r}, and not with the columns that charrnn-train writes.")
        kept = takewhile(lambda row: _is_until(row, iteration), _rows(path)) if path.exists() else ()
        with open_output(str(path)) as file:  # beside the old one, which may be larger than memory
            file.write((",".join(columns) + "\n").encode())
            for row in kept:
                file.write((",".join(row[column] for column in columns) + "\n").encode())
                self.last = row
        self._file = path.open("a", encoding="utf-8", newline="")

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row; numbers are written with nine digits, enough to tell any two float32 apart."""
        self.last = {column: f"{row[column]:.9g}" for column in self.columns}
        self._file.write(",".join(self.last.values()) + "\n")

    def flush(self) -> None:
        """Let readers see the rows so far."""
        try:
            self._file.flush()
        except OSError as error:
            error.filename = str(self.path)
            raise

    def sync(self) -> None:
        """Have the rows so far on the disk."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more rows."""
        self._file.close()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a log; one that is being written, or was cut off, is left out."""
    return list(_rows(path))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        whole = (line.removesuffix("\n").replace("\r", "") for line in file if line.endswith("\n"))
        whole = (line for line in whole if len(line) < csv.field_size_limit())  # no row of ours, but damage
        yield from (row for row in csv.DictReader(whole) if None not in row and None not in row.values())


def _header(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        return file.readline(1000).rstrip("\r\n")


def _is_until(row: Mapping[str, str], iteration: int) -> bool:
    number = row["iteration"]  # after a power cut, anything may stand where the system had not written yet
    return number.isdecimal() and len(number) < 20 and int(number) <= iteration and all(map(_is_number, row.values()))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_json(path: Path, data: Any) -> None:
    r"""Write JSON to a file that appears whole or not at all.

    A file name may hold bytes that are no UTF-8, which Python keeps as lone surrogates: ``backslashreplace``
    writes these as \udcff, which is how JSON escapes them.
    """
    with open_output(str(path)) as file:
        file.write((json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, and have them on the disk."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(str(path.parent))


def new_run(folder: str | None, first_input: str) -> Path:
    """The folder for a new run, by default runs/STEM-001, counting up; it is not made yet.

    Raises
    ------
    InputError
        There is a run in it already, or another thing is in its way (what a trainer left there that was killed
        before the run was made is not), or its name is no UTF-8, and safetensors could write checkpoints there and
        never read them.
    """
    if folder is None:
        stem = Path(first_input).stem.encode(errors="replace").decode() or "run"
        if first_input == "-" or is_special_file(first_input):
            stem = "stdin" if first_input == "-" else "pipe"
        number = 1
        while (RUNS / f"{stem}-{number:03d}").exists():
            number += 1
        return RUNS / f"{stem}-{number:03d}"
    path = Path(folder)
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name {folder!r} is not UTF-8: name another --run-dir.") from None
    if (path / "config.json").exists():
        raise InputError(f"there is a run in {path} already: go on with --resume {path}, or name another --run-dir.")
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not Run(path).is_half_made())):
        raise InputError(f"{path} is there already and is no empty folder: name another --run-dir.")
    return path


def find_run(name: str) -> Run:
    """The run called NAME: a path if there is one, else runs/NAME. An InputError where there is none."""
    for path in (Path(name), RUNS / name):
        if (path / "config.json").is_file():
            return Run(path)
    raise InputError(f"there is no run {name}, nor runs/{name}.")


def newest_run() -> Run:
    """The run under ./runs that was written to last.

    Raises
    ------
    InputError
        There is none; the message says how to make one.
    """
    runs = [Run(file.parent) for file in RUNS.glob("*/config.json")]
    if not runs:
        raise InputError("there is no trained network under ./runs: make one with `charrnn-train INPUT`, or name one.")
    return max(
        runs, key=lambda run: max(file.stat().st_mtime for file in (run.config_file, run.log_file) if file.exists())
    )


def checkpoint_kind(path: Path) -> str:
    """What a checkpoint file says that it holds, read without torch; "" where it says nothing that can be read."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, path.stat().st_size)))
        return str(json.loads(header["__metadata__"]["charrnn"])["kind"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def checkpoint_path(name: str | Path, which: str = "newest") -> Path:
    """The checkpoint file that a path or a run's name stands for.

    Parameters
    ----------
    name
        A checkpoint file, a run directory, or the name of a run under ./runs.
    which
        Of a run: newest, best (by validation loss), or the number of an iteration.

    Raises
    ------
    InputError
        There is no such thing.
    """
    path = Path(check_path("the checkpoint", name))
    if path.is_file():
        return path
    if str(name) == "-":
        raise InputError("- is standard input, and a network is read from a file: name a checkpoint or a run.")
    if path.suffix == ".safetensors":
        raise InputError(f"there is no checkpoint {path}. Check the path, or name its run.")
    run = find_run(str(name))
    files = run.checkpoints()
    if not files:
        raise InputError(f"the run {run.path} has no checkpoint yet: let it train until its first one.")
    if which == "newest":
        return files[-1]
    if which == "best":
        best = run.best()
        if best is None:
            raise InputError(f"the run {run.path} has no validation yet, so none of its checkpoints is best.")
        return run.path / str(best["checkpoint"])
    if which.isdecimal() and (file := run.checkpoint_file(int(which))).exists():
        return file
    steps = ", ".join(str(int(file.stem)) for file in files)
    raise InputError(f"the run {run.path} has no checkpoint {which}. It has newest, best, {steps}.")
