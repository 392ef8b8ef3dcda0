"""Event files for TensorBoard, which is imported only inside functions."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bytecodec.console import log
from bytecodec.errors import InputError, is_utf8
from charrnn.training.listener import Listener
from charrnn.training.trainer import Trainer
from charrnn.viz.sound import read_sound

FLUSH_SECONDS = 5  # maximum delay of the event files behind the training
EVENTS = "events.out.tfevents."  # prefix of a file's name
SCALARS = {  # tags by the columns of log.csv and val.csv
    "train_loss": "loss/train",
    "train_bits": "bits/train",
    "val_loss": "loss/val",
    "val_bits": "bits/val",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
}


class TensorBoard(Listener):
    """Writer of losses, bits, learning rate, gradient norm and sounds to RUN/tensorboard.

    Every iteration is written up to the 9,999th, then every tenth, and from the 100,000th on every hundredth. A run
    that is resumed at iteration N purges all events from N on, since they may be of iterations that were not saved, and
    writes those of N again.
    """

    def __init__(self, trainer: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._run, iteration = trainer.run, trainer.state.iteration
        renumber_event_files(self._run.tensorboard_folder)
        make_writer: Any = SummaryWriter
        self._opened = contextlib.ExitStack()
        folder = self._opened.enter_context(utf8_name(self._run.tensorboard_folder))
        self._writer = make_writer(folder, purge_step=iteration, flush_secs=FLUSH_SECONDS)
        self._hook, threading.excepthook = threading.excepthook, self._thread_failed
        for last in (trainer.log.file.last, trainer.val_log.last):
            if last and int(last["iteration"]) == iteration:
                self._add({name: float(value) for name, value in last.items()})

    def iterated(self, row: Mapping[str, float]) -> None:
        """Write the values of an iteration, if it is due."""
        if row["iteration"] % stride(int(row["iteration"])) == 0:
            self._add(row)

    def saving(self, iteration: int) -> None:
        """Flush all events, so that none is missing if the run is resumed from here."""
        self._writer.flush()

    def checkpointed(self, iteration: int, row: Mapping[str, float] | None) -> None:
        """Write the values of a validation."""
        if row:
            self._add(row)

    def sampled(self, iteration: int) -> None:
        """Write the sounds of a checkpoint."""
        for path in sorted(self._run.samples_folder.glob(f"{iteration:08d}_t*.wav")):
            try:
                sound, rate = read_sound(self._run.safe_join(f"samples/{path.name}"), log)
            except InputError as error:  # a file that the user put there
                log(f"{error} It is not written to the event files.")
                continue
            if len(sound) > 1:  # SummaryWriter fails with a single sample
                self._writer.add_audio(f"sound/{path.stem.partition('_')[2]}", sound, iteration, rate)

    def end(self) -> None:
        """Close the file."""
        try:
            self._writer.close()
        finally:
            self._opened.close()
            threading.excepthook = self._hook

    def _add(self, row: Mapping[str, float]) -> None:
        for column, tag in SCALARS.items():
            if column in row:
                self._writer.add_scalar(tag, row[column], int(row["iteration"]))

    def _thread_failed(self, args: threading.ExceptHookArgs) -> None:
        """Suppress the traceback if the writer's thread fails: its error is raised again at the next event."""
        if not isinstance(args.exc_value, OSError):
            self._hook(args)


@contextlib.contextmanager
def utf8_name(folder: Path) -> Iterator[str]:
    """Yield a name of a folder that is UTF-8, the only encoding of names that TensorBoard supports.

    Where the folder's own name is not, it is the name of a file descriptor of the folder.
    """
    folder.mkdir(exist_ok=True)
    if is_utf8(str(folder)):
        yield str(folder)
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)


def stride(iteration: int) -> int:
    """Return the distance of the iterations that are written: 1 up to 9,999, then 10 times as much per digit."""
    return int(10 ** max(0, len(str(iteration)) - 4))


def renumber_event_files(folder: Path) -> None:
    """Rename all event files, in their order, if one of them would sort after a file opened now.

    TensorBoard reads files in the order of their names, which begin with the time. The clock may have gone back, or may
    still show the second in which the last file was opened.
    """
    files = sorted(folder.glob(f"{EVENTS}*"))
    if files and files[-1].name >= f"{EVENTS}{int(time.time()):010d}":
        for number, file in enumerate(files):
            file.rename(folder / f"{EVENTS}{number:010d}")
