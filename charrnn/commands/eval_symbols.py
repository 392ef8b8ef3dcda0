"""Evaluation of networks of symbols with charrnn-eval."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import bytecodec
from charrnn.commands.eval_task import EvaluationTask, choose_data
from charrnn.commands.flags import options_of
from charrnn.data import baselines
from charrnn.data.batches import NEXT_SYMBOL
from charrnn.data.corpus import Corpus, open_corpus, prepare_corpus
from charrnn.storage.checkpoint import load
from charrnn.storage.run_dir import Run
from charrnn.training.evaluate import in_bits


def symbol_task(args: Namespace, file: Path, run: Run | None, folder: Path) -> EvaluationTask:
    """Return the evaluation of a network of symbols on its run's data, or on a recording or text."""
    checkpoint = load(file)
    vocab = checkpoint.vocab

    def read_file() -> Corpus:
        options, path = options_of(checkpoint, args), folder / "corpus.bin"
        table = bytecodec.read_table(args.table) if args.table else None
        return prepare_corpus([args.file], path, options, vocab, args.quiet, table, args.encoding, args.skip_unreadable)

    def open_run(path: Path, config: dict[str, Any]) -> Corpus:
        if config["vocab"] != vocab.to_json():
            raise ValueError("its vocabulary is not the checkpoint's")
        return open_corpus(path, vocab, tuple(config["inputs"]))

    name, corpus, fractions = choose_data(args, run, read_file, open_run)
    parts = {**corpus.split(*fractions), "all": corpus.ids}

    def measure(part: str, bar: Any) -> dict[str, float]:
        ids, train = parts[part], parts["train"] if part in ("val", "test") else None
        bar.reset(baselines.total_symbols(ids, train))
        is_mulaw = checkpoint.encoding == "mulaw"
        return baselines.measure_baselines(ids, train, vocab, checkpoint.rate, is_mulaw, bar.update)

    units = ("nats per symbol", "bits per symbol")
    return EvaluationTask(checkpoint, name, parts, NEXT_SYMBOL, "symbols", 0, *units, in_bits, measure)
