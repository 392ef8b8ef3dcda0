"""Evaluation tasks of charrnn-eval: a network, the parts of its data, the unit of its loss, and its free running."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

import bytecodec
from bytecodec.console import log, progress
from bytecodec.errors import InputError
from bytecodec.formats import STANDARD_INPUT
from charrnn.commands import sample_flags, sample_task
from charrnn.commands.flags import flag_of, options_of
from charrnn.data import baselines
from charrnn.data.batches import NEXT_SYMBOL, ContextWindow
from charrnn.data.corpus import Corpus, open_corpus, prepare_corpus
from charrnn.engines.cpu.predictor import use_compiled
from charrnn.frames import data as frame_data
from charrnn.frames import model as frame_model
from charrnn.frames.data import Recordings
from charrnn.sampling import free_running
from charrnn.sampling.task import SamplingTask
from charrnn.storage.checkpoint import Checkpoint, load
from charrnn.storage.checkpoint_format import kind_of
from charrnn.storage.run_dir import Run, is_frames
from charrnn.training.evaluate import in_bits
from charrnn.viz.units import FRAME_BITS, FRAME_LOSSES

FRACTION = 0.1  # fraction of a file for each of validation and test, if there is no run
Data = TypeVar("Data", Corpus, Recordings)


@dataclass(frozen=True)
class EvaluationTask:
    """Evaluation of a network of any kind.

    ``baselines(part, bar)`` returns the bits of other coders for a part, by the keys of `charrnn.data.baselines.NAMES`,
    and updates a progress bar.
    """

    checkpoint: Checkpoint | frame_model.FrameCheckpoint
    run: Run | None  # that contains the checkpoint
    data: str  # name of the data in the output
    parts: Mapping[str, NDArray[Any]]  # symbols or samples (n,) by the name of the part, including "all"
    context: ContextWindow  # inputs from which a target is predicted
    unit: str  # "symbols" or "samples"
    uncounted: int  # leading symbols or samples of a part that its reported size excludes
    loss_unit: str
    bits_unit: str
    bits: Callable[[float], float]  # converts a loss to bits
    baselines: Callable[[str, Any], dict[str, float]]


def evaluation_task(args: Namespace, file: Path, folder: Path) -> EvaluationTask:
    """Return the evaluation of a checkpoint on FILE, which is converted into a folder, or on the data of its run."""
    corpus, run = folder / "corpus.bin", _run_of(file)
    return (_frame_task if kind_of(file) == frame_model.KIND else _symbol_task)(args, file, run, corpus)


def _symbol_task(args: Namespace, file: Path, run: Run | None, target: Path) -> EvaluationTask:
    checkpoint = load(file)
    use_compiled(checkpoint.model)
    vocab = checkpoint.vocab

    def read_file() -> Corpus:
        table = bytecodec.read_table(args.table) if args.table else None
        sound = options_of(checkpoint, args)
        return prepare_corpus([args.file], target, sound, vocab, args.quiet, table, args.encoding, args.skip_unreadable)

    def open_run(path: Path, config: dict[str, Any]) -> Corpus:
        if config["vocab"] != vocab.to_json():
            raise ValueError("its vocabulary differs from the checkpoint's")
        return open_corpus(path, vocab, tuple(config["inputs"]))

    name, corpus, fractions = _choose_data(args, run, read_file, open_run)
    parts = {**corpus.split(*fractions), "all": corpus.ids}

    def measure(part: str, bar: Any) -> dict[str, float]:
        ids, train = parts[part], parts["train"] if part in ("val", "test") else None
        bar.reset(baselines.total_symbols(ids, train))
        is_mulaw = checkpoint.encoding == "mulaw"
        return baselines.measure_baselines(ids, train, vocab, checkpoint.rate, is_mulaw, bar.update)

    units = ("nats per symbol", "bits per symbol")
    return EvaluationTask(checkpoint, run, name, parts, NEXT_SYMBOL, "symbols", 0, *units, in_bits, measure)


def _frame_task(args: Namespace, file: Path, run: Run | None, target: Path) -> EvaluationTask:
    checkpoint = frame_model.load(file)
    model = checkpoint.model
    context = model.config.context

    def read_file() -> Recordings:
        if args.table or args.encoding != "utf-8":
            flag = flag_of("table" if args.table else "encoding")
            raise InputError(f"{file} is a frame predictor, which is evaluated on recordings: {flag} is for texts.")
        return frame_data.prepare([args.file], target, options_of(checkpoint, args), args.quiet, args.skip_unreadable)

    def open_run(path: Path, config: dict[str, Any]) -> Recordings:
        if not is_frames(config) or config["rate"] != checkpoint.rate:
            raise ValueError("the checkpoint belongs to another run")
        return frame_data.open_recordings(path, tuple(config["inputs"]))

    name, recordings, fractions = _choose_data(args, run, read_file, open_run)
    parts = {**recordings.split(*fractions, context.max_lag), "all": recordings.ids}

    def measure(part: str, bar: Any) -> dict[str, float]:
        samples = parts[part][context.max_lag :]
        bar.reset(min(len(samples), baselines.MAX_SYMBOLS))
        return baselines.measure_frame_baselines(samples, checkpoint.rate, bar.update)

    units = (FRAME_LOSSES[model.config.loss], FRAME_BITS)
    uncounted = context.max_lag
    return EvaluationTask(checkpoint, run, name, parts, context, "samples", uncounted, *units, model.bits, measure)


class FreeRunning:
    """Free running of a network of sound, compared with the training part of its run's data, or with all of FILE."""

    def __init__(self, args: Namespace, task: EvaluationTask) -> None:
        checkpoint = task.checkpoint
        if checkpoint.rate is None:
            raise InputError(f"{checkpoint.path} was trained on text, and --free-running measures sound: omit it.")
        self._args, self._task = args, task
        self._part = "all" if args.file else "train"
        self._length = round(args.free_running * checkpoint.rate)
        is_mulaw = isinstance(checkpoint, Checkpoint) and checkpoint.encoding == "mulaw"
        try:
            self._reference = free_running.Reference(task.parts[self._part], checkpoint.rate, self._length, is_mulaw)
        except InputError as error:
            raise InputError(f"{task.data}, {self._part}: {str(error).rstrip('.')}: name a longer FILE.") from None

    def measure(self, device: str) -> dict[str, Any]:
        """Sample a sound per seed as charrnn-sample does, and return the contents of free_running.json."""
        args, checkpoint = self._args, self._task.checkpoint
        sampling, seeds = self._open(device), args.seeds
        if isinstance(checkpoint, frame_model.FrameCheckpoint) and checkpoint.model.config.loss == "mse":
            seeds, reason = 1, "was trained with --loss mse and uses no random numbers"
            log(f"{checkpoint.path} {reason}, so all seeds give one sound: it is sampled once.", args.quiet)
        found = []
        with progress(seeds * self._length, f" {sampling.unit}", args.quiet, unit_scale=True, desc="sampling") as bar:
            for seed in range(seeds):
                sound = free_running.sample(sampling, seed, self._length, bar.update)
                found.append({"seed": seed, **asdict(self._reference.measure(sound))})
        ranges = (self._reference.ranges or {}).items()
        return {
            "iteration": checkpoint.step,
            "data": self._task.data,
            "part": self._part,
            "seconds": args.free_running,
            "seeds": found,
            "stretches": self._reference.stretches,
            "recording": {name: {"least": a, "greatest": b} for name, (a, b) in ranges} or None,
        }

    def _open(self, device: str) -> SamplingTask:
        """Open the checkpoint as charrnn-sample does, with --engine cuda on a GPU if it reads symbols alone.

        One stream that predicts samples is faster on the CPU.
        """
        args, checkpoint = self._args, self._task.checkpoint
        file = Path(checkpoint.path)
        threads = [] if args.threads is None else ["--threads", str(args.threads)]
        options = sample_flags.parser().parse_args([*threads, *["--quiet"] * args.quiet])
        if isinstance(checkpoint, frame_model.FrameCheckpoint):
            return sample_task.open_frames(options, file, set())
        if device == "cuda" and not checkpoint.config.reads_samples:
            options.engine = "cuda"
        return sample_task.open_symbols(options, file)


def _run_of(checkpoint: Path) -> Run | None:
    """Return the run that contains a checkpoint file, or None."""
    if checkpoint.parent.name != "checkpoints":  # such as a file in the working directory
        checkpoint = Path(os.path.abspath(checkpoint))
    run = Run(checkpoint.parent.parent)
    return run if checkpoint.parent == run.checkpoints_folder and run.config_file.is_file() else None


def _choose_data(
    args: Namespace, run: Run | None, read_file: Callable[[], Data], open_run: Callable[[Path, dict[str, Any]], Data]
) -> tuple[str, Data, tuple[float, float]]:
    """Return the data of FILE or of the run: their name, the data, and the fractions for validation and test.

    ``read_file`` reads FILE. ``open_run`` opens the data of a run, from the path of the file and the run's
    configuration, and raises ValueError if they do not belong to the checkpoint.
    """
    config = run.config(complete=True) if run and (args.file or run.corpus_file.is_file()) else {}
    fractions = (config.get("val_frac", FRACTION), config.get("test_frac", FRACTION))
    if args.file:
        return STANDARD_INPUT if args.file == "-" else args.file, read_file(), fractions
    if run is None:
        raise InputError(f"{args.network} is not in a run, so its training data are unknown: name a FILE.")
    if not config:
        raise InputError(f"there is no {run.corpus_file}, which contains the data of the training: name a FILE.")
    try:
        data = open_run(run.corpus_file, config)
        if len(data.ids) != config["symbols"]:
            raise ValueError(f"it records {config['symbols']!r} symbols, but the data have {len(data.ids)}")
    except InputError:
        raise
    except (IndexError, ValueError) as error:
        raise InputError(f"{run.config_file} is damaged or was edited: {error}. Restore it, or name a FILE.") from None
    others = f" and {len(data.names) - 1} more" if len(data.names) > 1 else ""
    return data.names[0] + others, data, fractions
