"""Messages of charrnn-train before and after training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bytecodec.console import duration, log

if TYPE_CHECKING:
    from charrnn.training.trainer import Trainer


def log_plan(trainer: Trainer, config: dict[str, Any], quiet: bool) -> None:
    """Print the network, the data, the length of training and the run's folder."""
    from charrnn.data import baselines

    task = trainer.task
    parts = ", ".join(f"{name} {count:,}" for name, count in task.counts().items())
    length = f", {duration(config['symbols'] / task.rate)} of sound" if task.rate else ""
    log(f"network   {_network(trainer)}", quiet)
    log(f"data      {', '.join(config['inputs'])}: {config['symbols']:,} {task.units}{length}; {parts}", quiet)
    if bits := config.get("yardsticks"):  # missing in runs of older versions
        log(f"baseline  validation part: {baselines.summary(bits)}", quiet)
    log(f"training  {_training(trainer, config['threads'])}", quiet)
    log(f"run       {trainer.run.path}", quiet)
    if len(task.parts["val"]) <= task.context.max_lag:
        log("there is no validation part, so val.csv stays empty.", quiet)


def log_end(trainer: Trainer, interrupted: bool, quiet: bool) -> None:
    """Print why training ended, and what to do next."""
    path, iteration = trainer.run.path, trainer.state.iteration
    if trainer.stopped_early:
        log(
            f"ended early after iteration {iteration:,}: {trainer.stale} validations without a new best loss. "
            f"Sample from the best checkpoint with: charrnn-sample {path} --checkpoint best",
            quiet,
        )
    elif interrupted:
        log(
            f"stopped after iteration {iteration:,}; everything is saved. Resume with: charrnn-train --resume {path}",
            quiet,
        )
    else:
        log(f"done after iteration {iteration:,}. Sample from it with: charrnn-sample {path}", quiet)


def _network(trainer: Trainer) -> str:
    config = trainer.model.config
    projection = f" projected to {config.proj_size}" if config.proj_size else ""
    normalised = ", normalised" if config.layer_norm else ""
    return (
        f"{config.cell}, {_count(config.layers, 'layer')} of {config.rnn_size}{projection}{normalised}, "
        f"{trainer.task.description()}: {trainer.model.number_of_parameters():,} parameters"
    )


def _training(trainer: Trainer, threads: int) -> str:
    settings, size = trainer.settings, trainer.world.size
    per_epoch = trainer.batches.row_length // settings.seq_length
    limits = [] if trainer.iterations is None else [f"{trainer.iterations:,} iterations"]
    limits += [f"until {settings.max_minutes:g} minutes have passed"] if settings.max_minutes else []
    processes = f" in each of {size} processes" if size > 1 else ""
    return (
        f"{settings.batch_size} rows x {settings.seq_length} steps, {per_epoch:,} iterations per epoch, "
        f"{' or '.join(limits)}; {settings.precision} on {settings.device} with {_count(threads, 'thread')}{processes}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
