"""Evaluation of frame predictors with charrnn-eval."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from bytecodec.errors import InputError
from charrnn.commands.eval_task import EvaluationTask, choose_data
from charrnn.commands.flags import options_of
from charrnn.data import baselines
from charrnn.frames.data import Recordings, open_recordings, prepare
from charrnn.frames.model import load
from charrnn.storage.run_dir import Run, is_frames
from charrnn.viz.run_kind import FRAME_BITS, FRAME_LOSSES


def frame_task(args: Namespace, file: Path, run: Run | None, folder: Path) -> EvaluationTask:
    """Return the evaluation of a frame predictor on its run's data, or on a recording."""
    checkpoint = load(file)
    model = checkpoint.model
    context = model.config.context

    def read_file() -> Recordings:
        if args.table or args.encoding != "utf-8":
            flag = "--table" if args.table else "--encoding"
            raise InputError(f"{file} is a frame predictor, which is evaluated on recordings: {flag} is for texts.")
        options, path = options_of(checkpoint, args), folder / "corpus.bin"
        return prepare([args.file], path, options, args.quiet, args.skip_unreadable)

    def open_run(path: Path, config: dict[str, Any]) -> Recordings:
        if not is_frames(config) or config["rate"] != checkpoint.rate:
            raise ValueError("the checkpoint is of another run")
        return open_recordings(path, tuple(config["inputs"]))

    name, recordings, fractions = choose_data(args, run, read_file, open_run)
    parts = {**recordings.split(*fractions, context.max_lag), "all": recordings.ids}

    def measure(part: str, bar: Any) -> dict[str, float]:
        samples = parts[part][context.max_lag :]
        bar.reset(min(len(samples), baselines.MOST_SYMBOLS))
        return baselines.measure_frame_baselines(samples, checkpoint.rate, bar.update)

    units = (FRAME_LOSSES[model.config.loss], FRAME_BITS)
    return EvaluationTask(checkpoint, name, parts, context, "samples", context.max_lag, *units, model.bits, measure)
