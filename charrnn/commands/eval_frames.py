"""Evaluation of frame predictors with charrnn-eval."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from bytecodec.errors import InputError
from bytecodec.formats import STANDARD_INPUT
from charrnn.commands.eval import Task, file_fractions, named, not_as_written, own_run
from charrnn.commands.flags import options_of
from charrnn.data import baselines
from charrnn.frames import data as frame_data
from charrnn.frames import model as frame_model
from charrnn.frames.data import Recordings
from charrnn.frames.model import FrameCheckpoint
from charrnn.storage import run_dir
from charrnn.storage.run_dir import is_frames
from charrnn.viz.curves import FRAME_BITS, FRAME_LOSSES


def frame_task(args: Namespace, file: Path, run: run_dir.Run | None, folder: Path) -> Task:
    """Return the evaluation of a frame predictor on its run's data, or on a recording at its rate."""
    checkpoint = frame_model.load(file)
    model, max_lag = checkpoint.model, checkpoint.model.config.context.max_lag
    if args.file:
        if args.table or args.encoding != "utf-8":
            flag = "--table" if args.table else "--encoding"
            raise InputError(f"{file} is a frame predictor, which is evaluated on recordings: {flag} is for texts.")
        name = STANDARD_INPUT if args.file == "-" else args.file
        recordings = frame_data.prepare(
            [args.file], folder / "corpus.bin", options_of(checkpoint, args), args.quiet, args.skip_unreadable
        )
        val_frac, test_frac = file_fractions(run)
    else:
        name, recordings, (val_frac, test_frac) = _run_data(args, checkpoint, run)
    parts = {**recordings.split(val_frac, test_frac, max_lag), "all": recordings.ids}

    def of_others(part: str, bar: Any) -> dict[str, float]:
        samples = parts[part][max_lag:]
        bar.reset(min(len(samples), baselines.MOST_SYMBOLS))
        return baselines.measure_frame_baselines(samples, checkpoint.rate, bar.update)

    units = (FRAME_LOSSES[model.config.loss], FRAME_BITS)
    return Task(checkpoint, name, parts, model.config.context, "samples", *units, model.bits, of_others)


def _run_data(
    args: Namespace, checkpoint: FrameCheckpoint, run: run_dir.Run | None
) -> tuple[str, Recordings, tuple[float, float]]:
    """Return the data of the network's run."""
    run = own_run(args, run)
    config = run.config(complete=True)
    try:
        if not is_frames(config) or config["rate"] != checkpoint.rate:
            raise ValueError("the checkpoint is of another run")
        recordings = frame_data.open_recordings(run.corpus_file, tuple(config["inputs"]))
        if len(recordings.ids) != config["symbols"]:
            raise ValueError(f"it counts {config['symbols']!r} samples, and there are {len(recordings.ids)}")
        return named(recordings.names), recordings, (config["val_frac"], config["test_frac"])
    except (IndexError, ValueError) as error:
        raise not_as_written(run, error) from None
