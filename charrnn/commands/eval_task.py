"""What charrnn-eval evaluates: a network, the parts of its data, and the meaning of its loss."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bytecodec.errors import InputError
from bytecodec.formats import STANDARD_INPUT
from charrnn.storage.run_dir import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from charrnn.data.batches import ContextWindow
    from charrnn.data.corpus import Corpus
    from charrnn.frames.data import Recordings
    from charrnn.frames.model import FrameCheckpoint
    from charrnn.storage.checkpoint import Checkpoint

FRACTION = 0.1  # of a file for validation and for test, if there is no run
Data = TypeVar("Data", "Corpus", "Recordings")


@dataclass(frozen=True)
class EvaluationTask:
    """Evaluation of a network of any kind.

    Attributes
    ----------
    data
        Name of the data in the output.
    parts
        Symbols or samples (n,) by the name of the part, including "all".
    context
        Window of symbols or samples that a target is predicted from.
    unit
        "symbols" or "samples".
    uncounted
        Number of symbols or samples at the start of a part that its reported size does not include.
    loss_unit, bits_unit
        Units of the loss, and of the loss in bits.
    bits
        Function that converts a loss to bits.
    baselines
        ``baselines(part, bar)`` returns the bits of other coders for a part, by the keys of
        `charrnn.data.baselines.NAMES`, and updates a progress bar.
    """

    checkpoint: Checkpoint | FrameCheckpoint
    data: str
    parts: Mapping[str, NDArray[Any]]
    context: ContextWindow
    unit: str
    uncounted: int
    loss_unit: str
    bits_unit: str
    bits: Callable[[float], float]
    baselines: Callable[[str, Any], dict[str, float]]


def run_of(checkpoint: Path) -> Run | None:
    """Return the run that a checkpoint file is in, or None."""
    if checkpoint.parent.name != "checkpoints":  # such as a file in the working directory
        checkpoint = Path(os.path.abspath(checkpoint))
    run = Run(checkpoint.parent.parent)
    return run if checkpoint.parent == run.checkpoints_folder and run.config_file.is_file() else None


def choose_data(
    args: Namespace,
    run: Run | None,
    read_file: Callable[[], Data],
    open_run: Callable[[Path, dict[str, Any]], Data],
) -> tuple[str, Data, tuple[float, float]]:
    """Return the data of FILE or of the run: their name, the data, and the fractions for validation and test.

    Parameters
    ----------
    read_file
        Function that reads FILE.
    open_run
        Function that opens the data of a run, from the path of the file and the run's configuration. It raises
        ValueError if they are not those of the checkpoint.

    Raises
    ------
    InputError
        There is no run, its data are missing, or its configuration was changed.
    """
    if args.file:
        data = read_file()
        return STANDARD_INPUT if args.file == "-" else args.file, data, _file_fractions(run)
    if run is None:
        raise InputError(f"{args.network} is not in a run, so its training data are unknown: name a FILE.")
    if not run.corpus_file.is_file():
        raise InputError(f"{run.corpus_file} no longer exists: name a FILE.")
    config = run.config(complete=True)
    try:
        data = open_run(run.corpus_file, config)
        if len(data.ids) != config["symbols"]:
            raise ValueError(f"it counts {config['symbols']!r} symbols, and there are {len(data.ids)}")
        others = f" and {len(data.names) - 1} more" if len(data.names) > 1 else ""
        return data.names[0] + others, data, (config["val_frac"], config["test_frac"])
    except (IndexError, ValueError) as error:
        raise _changed_config(run, error) from None


def _file_fractions(run: Run | None) -> tuple[float, float]:
    if run is None:
        return FRACTION, FRACTION
    config = run.config(complete=True)
    return config["val_frac"], config["test_frac"]


def _changed_config(run: Run, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    return InputError(f"{run.config_file} is not as charrnn-train wrote it: {error}.")
