"""Runs of a tiny network that train in less than a second, and all that they leave behind, for comparison."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from charrnn.data.batches import NEXT_SYMBOL
from charrnn.data.vocab import Vocab
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.storage import checkpoint as files
from charrnn.storage.checkpoint import Checkpoint
from charrnn.storage.csv_log import TIME_COLUMNS, read_rows
from charrnn.storage.run_dir import Run
from charrnn.training.evaluate import in_bits
from charrnn.training.listener import Listener
from charrnn.training.recipe import RECIPES, Settings
from charrnn.training.trainer import Trainer

VOCAB, BYTES = Vocab("abcde"), Vocab.of_alphabet("braille")
PER_EPOCH = 19  # (300 - 1) // (3 * 5): iterations of 3 rows x 5 steps
SETTINGS = Settings(batch_size=3, seq_length=5, learning_rate=0.01, max_epochs=2.2, checkpoint_every=7)
ITERATIONS = 42  # of 2.2 epochs, rounded up: 41.8


def changed(**changes):
    """Return `SETTINGS` with changes."""
    return replace(SETTINGS, **changes)


PLAIN: dict[str, object] = {}  # no further fields of a ModelConfig
VARIANTS = {  # settings, and fields of the ModelConfig
    "fp32": (SETTINGS, PLAIN),
    "dropout": (SETTINGS, {"dropout": 0.3}),
    "bf16": (changed(precision="bf16"), PLAIN),
    "modern": (
        changed(**RECIPES["modern"] | {"batch_size": 3, "weight_decay": 0.1, "ema_decay": 0.9}),
        {"dropout": 0.1},
    ),
    "keep": (changed(keep=1, lr_decay_every=1), PLAIN),
    "prediction": (SETTINGS, {"vocab_size": 256, "context": 3, "prediction": "lpc", "noise": 0.1}),
}


def text(n, seed=0):
    """Return symbols of 0 to 4 in an order that can be learnt: up by one, or sometimes by two."""
    return (np.cumsum(1 + (np.random.default_rng(seed).random(n) < 0.1)) % 5).astype(np.uint8)


PARTS = {"train": text(300), "val": text(120, 1), "test": text(60, 2)}


class Recorder(Listener):
    """A listener that keeps the events, and calls ``at(event, number)`` for each."""

    def __init__(self, at=lambda event, number: None):
        self.rows, self.validations, self.checkpoints, self.at = [], [], [], at

    def iterated(self, row):
        self.rows.append(row)
        self.at("iterated", row["iteration"])

    def validating(self, done, total):
        self.validations.append((done, total))
        self.at("validating", done)

    def checkpointed(self, iteration, row):
        self.checkpoints.append((iteration, row))
        self.at("checkpointed", iteration)


def tiny_model(network=PLAIN):
    fields = {"vocab_size": len(VOCAB), "wordvec_size": 4, "rnn_size": 6, "layers": 2}
    return build(ModelConfig(**fields | network), seed=1)


def tiny_task(model, parts=PARTS):
    """Return a task with what the trainer uses of one."""

    def checkpoint(step, epoch, train_loss):
        vocab = VOCAB if model.config.vocab_size == len(VOCAB) else BYTES
        return Checkpoint(model, vocab, step=step, epoch=epoch, train_loss=train_loss)

    return SimpleNamespace(model=model, parts=parts, context=NEXT_SYMBOL, bits=in_bits, checkpoint=checkpoint)


def trainer(folder, settings=SETTINGS, listener=None, network=PLAIN, parts=PARTS, **options):
    """Return a trainer of a tiny network: of a new run, or of the one in the folder."""
    folder.mkdir(exist_ok=True, parents=True)
    task = tiny_task(tiny_model(network), parts)
    return Trainer(task, settings, Run(folder), [listener or Recorder()], **options)


def finish(folder, settings=SETTINGS, **options):
    """Train to the end; return the trainer."""
    made = trainer(folder, settings, **options)
    made.train()
    assert made.finished
    return made


def without_times(path):
    return [{name: value for name, value in row.items() if name not in TIME_COLUMNS} for row in read_rows(path)]


def result(folder):
    """Return all that a run leaves behind except times: logs, best checkpoint, weights and resume file."""
    run = Run(folder)
    metadata, tensors = files.read_tensors(run.resume_file, "resume")
    last = files.load(run.checkpoints()[-1])
    return {
        "log": without_times(run.log_file),
        "val": without_times(run.val_file),
        "best": json.loads(run.best_file.read_text()) if run.best_file.exists() else None,
        "metadata": {name: value for name, value in metadata.items() if name != "seconds"},
        "tensors": {name: (tensor.dtype, tensor.tolist()) for name, tensor in tensors.items()},
        "last": (last.step, last.epoch, last.train_loss, last.val_loss),
        "weights": {name: tensor.tolist() for name, tensor in last.model.state_dict().items()},
    }
