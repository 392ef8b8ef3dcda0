"""The run directory: its files and checkpoints, and the lookup of runs and checkpoints by name. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from bytecodec.arguments import check_path
from bytecodec.errors import InputError, printable
from bytecodec.files import is_special_file, open_output, shorten, sync_folder
from charrnn.storage import schema
from charrnn.storage.csv_log import read_rows

RUNS = Path("runs")
VOICES = Path(__file__).parents[1] / "voices"  # bundled runs, without resume files and data
MAX_SHOWN = 250  # characters of a path in a message
MAX_JSON = 1 << 26  # bytes of config.json, which holds the vocabulary and the names of all inputs
MAX_STEM = 100  # bytes of an input's name in a run's default name
LEFTOVER = re.compile(  # temporary names of bytecodec.files.open_output for the files that only a trainer writes
    r"\.((config|best)\.json|(log|val)\.csv|(resume|\d+)\.safetensors|\d+_t[\d.]+\.wav)\.\w+\.part"
)


class _Entry:
    """The path of a file or folder in a run, as an attribute that `Run.safe_join` checks whenever it is read."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: Run, owner: type[Run]) -> Path:
        return run.safe_join(self.name)


class Run:
    """A run directory; a validation has one row in val.csv, an iteration one in log.csv."""

    config_file = _Entry("config.json")  # settings, fixed when the run is started
    log_file = _Entry("log.csv")
    val_file = _Entry("val.csv")  # losses in nats per symbol
    best_file = _Entry("best.json")  # the name of the best checkpoint
    free_running_file = _Entry("free_running.json")  # measures of generated sound, which charrnn-eval writes
    resume_file = _Entry("resume.safetensors")  # the state from which training resumes, of the newest checkpoint only
    corpus_file = _Entry("corpus.bin")  # the ids of all parts of the data
    lock_file = _Entry("lock")  # held by the process that trains
    checkpoints_folder = _Entry("checkpoints")  # a network per checkpoint, such as 00001000.safetensors
    samples_folder = _Entry("samples")  # a sample per checkpoint and temperature, such as 00001000_t1.00.wav
    tensorboard_folder = _Entry("tensorboard")  # with --tensorboard

    def __init__(self, path: Path) -> None:
        self.path = path

    def safe_join(self, path: str | Path) -> Path:
        """Return the path of a file or folder in the run, which need not exist, or raise InputError if it is outside.

        A run may come from another person. A link in it, or a name in one of its files, could otherwise expose or
        overwrite a file outside it. The folder of the run itself may be a link.
        """
        found = self.path / path
        folder = os.path.realpath(self.path)
        try:
            is_inside = Path(os.path.realpath(found)).is_relative_to(folder)
        except ValueError:  # a name with a null byte in it
            is_inside = False
        if not is_inside:
            raise InputError(
                f"{printable(path, MAX_SHOWN)} of the run {printable(os.path.basename(folder), MAX_SHOWN)} leads out "
                "of the run, so it is not followed: replace it by a copy."
            )
        return found

    @property
    def is_voice(self) -> bool:
        """Whether this is a bundled voice, in which nothing may be written."""
        return self.path.resolve().parent == VOICES.resolve()

    def check_links(self) -> None:
        """Raise InputError if a file or folder leads out of the run, before any of them is written."""
        for entry in vars(Run).values():
            if isinstance(entry, _Entry):
                self.safe_join(entry.name)

    def checkpoint_file(self, step: int) -> Path:
        """Return the path of the checkpoint of an iteration."""
        return self.safe_join(f"checkpoints/{step:08d}.safetensors")

    def sample_file(self, step: int, temperature: float) -> Path:
        """Return the path of the sample of an iteration's checkpoint at a temperature."""
        return self.safe_join(f"samples/{step:08d}_t{temperature:.2f}.wav")

    def checkpoints(self) -> list[Path]:
        """Return the paths of the checkpoints, oldest first; pass one through `safe_join` before opening it."""
        files = self.checkpoints_folder.glob("[0-9]*.safetensors")
        return sorted((file for file in files if _is_number_of(file)), key=lambda file: int(file.stem))

    def config(self, complete: bool = False) -> dict[str, Any]:
        """Return config.json, validated, with the defaults of what older versions did not write.

        A missing setting is omitted, or is an error if the configuration must be ``complete``.
        """
        try:
            config = read_json(self.config_file)
        except FileNotFoundError:
            raise InputError(f"{self.path} is not a run: there is no config.json in it.") from None
        kind = schema.FRAMES_CONFIG if isinstance(config, dict) and is_frames(config) else schema.CONFIG
        config = schema.validate(config, kind, self.config_file, partial=not complete)
        if (fractions := config.get("val_frac", 0) + config.get("test_frac", 0)) >= 1:
            raise InputError(f"{self.config_file}: val_frac and test_frac add up to {fractions:g}, not less than 1.")
        return config

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.json."""
        write_json(self.config_file, config)

    def best(self) -> dict[str, Any] | None:
        """Return best.json: iteration, val_loss, checkpoint; None before the first validation or if it is damaged."""
        try:
            return schema.validate(read_json(self.best_file), schema.BEST, self.best_file)
        except (OSError, InputError):
            return None

    def free_running(self) -> dict[str, Any] | None:
        """Return free_running.json, validated, or None if there is none; raise InputError if it is damaged."""
        try:
            found = schema.validate(read_json(self.free_running_file), schema.FREE_RUNNING, self.free_running_file)
        except FileNotFoundError:
            return None
        if not found["seeds"]:
            raise InputError(f"{self.free_running_file}: seeds is empty.")
        return found

    def write_free_running(self, measures: Mapping[str, Any]) -> None:
        """Write free_running.json."""
        write_json(self.free_running_file, measures)

    def is_incomplete(self) -> bool:
        """Return whether the folder holds only files of a trainer that was killed before the run was complete."""
        logs = [file.read_bytes() for file in (self.log_file, self.val_file) if file.is_file()]
        own = {self.lock_file, self.corpus_file, self.log_file, self.val_file, self.resume_file}
        others = [path for path in self.path.iterdir() if path not in own and not _is_leftover(path)]
        return self.lock_file.is_file() and not others and all(log.count(b"\n") <= 1 for log in logs)

    def clear(self) -> None:
        """Empty a folder that `is_incomplete`, except for the lock, which the caller must hold."""
        for path in self.path.iterdir():
            if path != self.lock_file:
                path.unlink()

    def remove_temporary_files(self) -> None:
        """Remove the temporary files of a trainer that was killed; the caller must hold the lock."""
        for folder in filter(Path.is_dir, (self.path, self.checkpoints_folder, self.samples_folder)):
            for path in folder.iterdir():
                if _is_leftover(path):
                    path.unlink()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the run, which the system releases even if the process is killed."""
        with self.lock_file.open("w") as file:
            try:
                _lock(file)
            except (BlockingIOError, PermissionError):  # held; any other error is about the file system
                raise InputError(
                    f"another process is training in {self.path}: wait for it, or stop it first."
                ) from None
            yield


def is_frames(config: Mapping[str, Any]) -> bool:
    """Return whether a run's config.json is that of a frame predictor."""
    return config.get("kind") == "frames"


def _is_number_of(file: Path) -> bool:
    return file.stem.isascii() and file.stem.isdecimal() and file.is_file()


def _is_leftover(path: Path) -> bool:
    return bool(LEFTOVER.fullmatch(path.name)) and path.is_file()


def _lock(file: IO[str]) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, and write them to the disk."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(str(path.parent))


def new_run(folder: str | None, first_input: str) -> Path:
    """Return the folder for a new run, by default runs/STEM-001, counting up, without making it.

    A folder that holds a run or other files is an error, unless they are of a trainer that was killed before the run
    was complete.
    """
    if folder is None:
        plain = "".join(c if printable(c) == c else "?" for c in Path(first_input).stem)
        stem = shorten(plain, MAX_STEM) or "run"
        if first_input == "-" or is_special_file(first_input):
            stem = "stdin" if first_input == "-" else "pipe"
        number = 1
        while (RUNS / f"{stem}-{number:03d}").exists():
            number += 1
        return RUNS / f"{stem}-{number:03d}"
    path = Path(folder)
    if (path / "config.json").exists():
        name = shlex.quote(str(path))
        raise InputError(
            f"there is a run in {path} already: resume it with --resume {name}, or name another --run-dir."
        )
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not Run(path).is_incomplete())):
        raise InputError(f"{path} exists and is not an empty folder: name another --run-dir.")
    return path


def find_run(name: str) -> Run:
    """Return the run of a name: a path if there is one, else runs/NAME, else a bundled voice; or raise InputError."""
    for path in (Path(name), RUNS / name):
        if (path / "config.json").is_file():
            return Run(path)
    if name in voice_names():
        return Run(VOICES / name)
    if Path(name).is_file():
        raise InputError(f"{name} is a file, and a run is a folder with a config.json: name the folder of its run.")
    raise InputError(
        f"there is no run {name}{'' if Path(name).is_absolute() else f' or {RUNS / name}'}: a run is a folder with a "
        f"config.json. Name one, or a bundled voice ({', '.join(voice_names())})."
    )


def voice_names() -> list[str]:
    """Return the names of the bundled voices."""
    return sorted(file.parent.name for file in VOICES.glob("*/config.json"))


def find_voice(name: str) -> Run:
    """Return the run of a bundled voice, or raise InputError if there is none of that name."""
    if name not in voice_names():
        raise InputError(f"there is no bundled voice {name}: the voices are {', '.join(voice_names())}.")
    return Run(VOICES / name)


def newest_run() -> Run:
    """Return the run under ./runs that was written last, or raise InputError if there is none."""
    return all_runs()[0]


def all_runs(warn: Callable[[str], object] = lambda _: None) -> list[Run]:
    """Return the runs under ./runs, the last one written first and the others by name, or raise InputError.

    ``warn`` receives a message for each folder that is skipped because its config.json or log.csv leads out of it.
    """
    times: dict[Run, float] = {}
    for file in sorted(RUNS.glob("*/config.json")):
        run = Run(file.parent)
        try:
            files = [one for one in (run.config_file, run.log_file) if one.is_file()]
            if files and files[0] == file:
                times[run] = max(one.stat().st_mtime for one in files)
        except InputError as error:
            warn(f"{run.path} is skipped: {error}")
    if not times:
        raise InputError(
            "there is no trained network under ./runs: make one with `charrnn-train INPUT`, name one, or use a bundled "
            f"voice ({', '.join(voice_names())})."
        )
    newest = max(times, key=times.__getitem__)
    return [newest, *(run for run in times if run is not newest)]


def checkpoint_path(name: str | Path, which: str = "newest") -> Path:
    """Return the path of a checkpoint, or raise InputError if there is none.

    Parameters
    ----------
    name
        A checkpoint file, a run directory, or the name of a run under ./runs.
    which
        Checkpoint of a run: newest, best (by validation loss), or the number of an iteration.
    """
    path = Path(check_path("the checkpoint", name))
    if path.is_file():
        if which != "newest":
            raise InputError(
                f"{path} is a checkpoint, and --checkpoint chooses one of a run: omit it, or name the run."
            )
        return path
    if str(name) == "-":
        raise InputError("- is standard input, but networks are read from files only: name a checkpoint or a run.")
    if path.suffix == ".safetensors":
        raise InputError(f"there is no checkpoint {path}. Check the path, or name its run.")
    run = find_run(str(name))
    files = run.checkpoints()
    if not files:
        raise InputError(f"the run {run.path} has no checkpoint yet: let it train until its first one.")
    if which == "newest":
        return run.safe_join(files[-1].relative_to(run.path))
    if which == "best":
        best = run.best()
        if best is None and run.best_file.exists():
            raise InputError(f"{run.best_file} cannot be read: name an iteration instead of best.")
        if best is None:
            raise InputError(f"the run {run.path} has no validation yet, so none of its checkpoints is best.")
        file = run.safe_join(str(best["checkpoint"]))
        if not file.is_file():
            raise InputError(f"{run.best_file} names {printable(file, MAX_SHOWN)}, which does not exist.")
        return file
    if which.isdecimal() and len(which) < 20 and (file := run.checkpoint_file(int(which))).exists():
        return file
    steps = ", ".join(str(int(file.stem)) for file in files)
    raise InputError(f"the run {run.path} has no checkpoint {printable(which, 40)}. It has newest, best, {steps}.")


def write_best(run: Run) -> None:
    """Write best.json from val.csv, if there is a validation."""
    losses = _losses(run)
    if losses:
        step = min(losses, key=losses.__getitem__)
        name = run.checkpoint_file(step).relative_to(run.path).as_posix()
        write_json(run.best_file, {"iteration": step, "val_loss": losses[step], "checkpoint": name})


def validations_since_best(run: Run) -> int:
    """Return the number of validations after the best one."""
    losses = list(_losses(run).values())
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def delete_old(run: Run, keep: int) -> None:
    """Delete all checkpoints except the newest ``keep`` and the best one; 0 keeps all."""
    if keep:
        best = (run.best() or {}).get("iteration")
        for old in run.checkpoints()[:-keep]:
            if int(old.stem) != best:
                old.unlink()


def _losses(run: Run) -> dict[int, float]:
    """Return the validation losses in nats by iteration, in order."""
    rows = read_rows(run.val_file) if run.val_file.exists() else []
    return {int(row["iteration"]): float(row["val_loss"]) for row in rows}


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file of a run; one that is larger than any run writes is an error."""
    with path.open("rb") as file:
        data = file.read(MAX_JSON + 1)
    if len(data) > MAX_JSON:
        raise InputError(f"{path} has more than {MAX_JSON:,} bytes, which is more than any run writes.")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}).") from None


def write_json(path: Path, data: Any) -> None:
    r"""Write JSON to a file that appears whole or not at all.

    Bytes of a file name that are not UTF-8 are lone surrogates in Python; ``backslashreplace`` writes them as \udcff,
    which is how JSON escapes them.
    """
    with open_output(str(path)) as file:
        file.write((json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
