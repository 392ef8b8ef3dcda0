"""Messages of charrnn-train before and after training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bytecodec.console import duration, log
from charrnn.storage.run_dir import is_frames

if TYPE_CHECKING:
    from charrnn.training.trainer import Trainer


def say_the_plan(trainer: Trainer, config: dict[str, Any], quiet: bool) -> None:
    """Print the network, the data, the length of training and the run's folder."""
    from charrnn.data import baselines

    settings, model = trainer.settings, trainer.model.config
    if is_frames(config):
        from charrnn.commands.train_frames import describe

        what, unit, kinds, early = describe(model, config["rate"]), "samples", "", trainer.context.max_lag
    else:
        what, unit, kinds = f"embeddings of {model.wordvec_size}", "symbols", f", {model.vocab_size} different ones"
        early = 0
    counts = {name: max(0, len(ids) - early * (name != "train")) for name, ids in trainer.parts.items()}
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    length = f", {duration(config['symbols'] / config['rate'])} of sound" if config["rate"] else ""
    per_epoch = trainer.batches.row_length // settings.seq_length
    many = f" in each of {trainer.world.size} processes" if trainer.world.size > 1 else ""
    until = f"until {settings.max_minutes:g} minutes have passed" if settings.max_minutes else ""
    if trainer.iterations is not None:
        until = f"{trainer.iterations:,} iterations" + (f" or {until}" if until else "")
    bits = config["yardsticks"]
    how = f" projected to {model.proj_size}" if model.proj_size else ""
    how += ", normalised" if model.layer_norm else ""
    lines = [
        f"network   {model.cell}, {_count(model.layers, 'layer')} of {model.rnn_size}{how}, "
        f"{what}: {trainer.model.number_of_parameters():,} parameters",
        f"data      {', '.join(config['inputs'])}: {config['symbols']:,} {unit}{length}{kinds}; {parts}",
        f"training  {settings.batch_size} rows x {settings.seq_length} steps, {per_epoch:,} iterations an epoch, "
        f"{until}; {settings.precision} on {settings.device} with {_count(config['threads'], 'thread')}{many}",
        f"run       {trainer.run.path}",
    ]
    if bits:
        lines.insert(2, f"yardstick the validation part takes {baselines.summary(bits)}")
    for line in lines:
        log(line, quiet)
    if not len(trainer.parts["val"]) > trainer.context.max_lag:
        log("there is no validation part: the losses of val.csv are left out.", quiet)


def say_how_it_ended(trainer: Trainer, interrupted: bool, quiet: bool) -> None:
    """Print why training ended, and what to do next."""
    path, place = trainer.run.path, trainer.place
    if trainer.stopped_early:
        log(
            f"ended early after iteration {place.iteration:,}: {trainer.stale} validations brought no new best. "
            f"Sample from the best with: charrnn-sample {path} --checkpoint best",
            quiet,
        )
    elif interrupted:
        log(
            f"stopped after iteration {place.iteration:,}; all is saved. Go on with: charrnn-train --resume {path}",
            quiet,
        )
    else:
        log(f"done after iteration {place.iteration:,}. Sample from it with: charrnn-sample {path}", quiet)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
