"""charrnn-eval: the loss of a trained network on any part or file, beside what others need for the same symbols."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bytecodec
from bytecodec.console import Parser, command, print_path, progress, wrong_command_line
from bytecodec.errors import InputError
from bytecodec.formats import STANDARD_INPUT
from bytecodec.safe_text import printable
from charrnn import runtime
from charrnn.commands.flags import add_channel, encoding, given, options_of, path, whole
from charrnn.storage import run_dir

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from charrnn.data.batches import ContextWindow
    from charrnn.data.corpus import Corpus
    from charrnn.frames.model import FrameCheckpoint
    from charrnn.storage.checkpoint import Checkpoint

FRACTION = 0.1  # of a file for validation and for test, where there is no run that says otherwise
PARTS = ("test", "val", "train", "all")
WIDTH = 19  # of the names in the table
EXAMPLES = """
charrnn-eval runs/voice-001
charrnn-eval runs/voice-001 --checkpoint best --part val
charrnn-eval runs/voice-001 another-speaker.wav
charrnn-eval 00074000.safetensors poems.txt --json
"""


def parser() -> Parser:
    """The command line of charrnn-eval."""
    p = Parser(
        "charrnn-eval",
        "Print the loss and the bits per symbol of a trained network on a part of its run's data or on another file, "
        "together with those of FLAC (for text: bzip2) and of the symbol frequencies alone. For a frame predictor, "
        "print bits per 16-bit sample and those of FLAC.",
        EXAMPLES,
    )
    p.add_argument("network", type=path, metavar="CHECKPOINT or RUN", help="checkpoint file or run to evaluate")
    p.add_argument(
        "file",
        nargs="?",
        type=path,
        metavar="FILE",
        help="recording, text or folder to evaluate on; - is standard input (default: the run's data)",
    )
    p.add_argument(
        "--encoding",
        type=encoding,
        default="utf-8",
        metavar="NAME",
        help="encoding of a text without a byte order mark",
    )
    p.add_argument("--skip-unreadable", action="store_true", help="skip files that cannot be read, and list them")
    p.add_argument(
        "--part",
        choices=PARTS,
        help="part of the data, divided as in training (default: test of a run's data, all of a FILE)",
    )
    p.add_argument(
        "--checkpoint", default="newest", metavar="WHICH", help="checkpoint of a run: newest, best or an iteration"
    )
    add_channel(p, "of FILE")
    p.add_argument("--table", type=path, metavar="TABLE", help="table of FILE, if it is a text that BinToUTF8 wrote")
    p.add_argument("--json", action="store_true", help="print one JSON object with all digits")
    p.add_argument("--device", choices=runtime.DEVICES, default="auto", help="device to compute on")
    p.add_argument(
        "--precision",
        choices=runtime.PRECISIONS,
        default="fp32",
        help="precision of matrix products; auto is the fastest on this machine",
    )
    p.add_argument(
        "--threads",
        type=whole(0, runtime.MOST_THREADS),
        default=None,
        metavar="N",
        help="number of CPU threads; 0 for one per core (default: CHARRNN_THREADS, or 0)",
    )
    return p


@dataclass(frozen=True)
class Task:
    """Evaluation of a network: its data and the meaning of its loss. `eval_frames` has the one of frame predictors.

    Attributes
    ----------
    data
        Name of the data in the output.
    parts
        Symbols or samples (n,) by the name of the part, including "all".
    reach
        Window of symbols that the network reads before the first target.
    counted
        "symbols" or "samples".
    count
        Number of symbols in a part; of a frame predictor, number of its targets.
    loss_unit, bits_unit
        Units, such as "nats a symbol" and "bits a symbol".
    bits
        Function that converts a loss to bits.
    baselines
        ``baselines(part, bar)`` returns the bits of other coders for a part, by the keys of `baselines.NAMES`; the
        progress bar counts symbols.
    """

    checkpoint: Checkpoint | FrameCheckpoint
    data: str
    parts: Mapping[str, NDArray[Any]]
    context: ContextWindow
    counted: str
    loss_unit: str
    bits_unit: str
    bits: Callable[[float], float]
    baselines: Callable[[str, Any], dict[str, float]]

    def count(self, part: str) -> int:
        """Return the number of symbols in a part; of a frame predictor, the number of samples to predict."""
        early = self.context.max_lag if self.counted == "samples" else 0
        return max(0, len(self.parts[part]) - early)


@command
def charrnn_eval(argv: Sequence[str] | None = None) -> int:
    """Run charrnn-eval; returns the exit code."""
    p = parser()
    args = p.parse_args(argv)
    unused = sorted(given(p, argv) & {"channel", "table", "encoding", "skip_unreadable"})
    if unused and not args.file:
        wrong_command_line(p, f"--{unused[0].replace('_', '-')} says how to read a FILE: name one.")
    runtime.before_torch()
    from charrnn.storage.checkpoint_format import kind_of

    file = run_dir.checkpoint_path(args.network, args.checkpoint)
    run = _run_of(file)
    part = args.part or ("all" if args.file else "test")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if kind_of(file) == "frames":
            from charrnn.commands.eval_frames import frame_task

            task = frame_task(args, file, run, Path(folder))
        else:
            task = _symbol_task(args, file, run, Path(folder))
        results = _results(args, task, part)
    print_path(json.dumps(results) if args.json else _table(results, task))
    return 0


def _symbol_task(args: Namespace, file: Path, run: run_dir.Run | None, folder: Path) -> Task:
    """Return the evaluation of a network of symbols."""
    from charrnn.data import baselines
    from charrnn.data.batches import NEXT_SYMBOL
    from charrnn.storage.checkpoint import load
    from charrnn.training.evaluate import in_bits

    checkpoint = load(file)
    name, corpus, fractions = (
        _file_data(args, checkpoint, run, folder) if args.file else _run_data(args, checkpoint, run)
    )
    parts = {**corpus.split(*fractions), "all": corpus.ids}

    def of_others(part: str, bar: Any) -> dict[str, float]:
        ids, train = parts[part], parts["train"] if part in ("val", "test") else None
        bar.reset(baselines.total_symbols(ids, train))
        is_mulaw = checkpoint.encoding == "mulaw"
        return baselines.measure_baselines(ids, train, checkpoint.vocab, checkpoint.rate, is_mulaw, bar.update)

    units = ("nats a symbol", "bits a symbol")
    return Task(checkpoint, name, parts, NEXT_SYMBOL, "symbols", *units, in_bits, of_others)


def _results(args: Namespace, task: Task, part: str) -> dict[str, Any]:
    """Return all results by name."""
    from charrnn.training.evaluate import evaluate

    device = runtime.choose_device(args.device)
    precision = runtime.choose_precision(args.precision, device)
    runtime.set_threads(runtime.default_threads() if args.threads is None else args.threads)
    ids, max_lag = task.parts[part], task.context.max_lag
    if len(ids) <= max_lag:
        what = task.data if part == "all" else f"the {part} part of {task.data}"
        raise InputError(
            f"{what} has {len(ids):,} {task.counted}, and a loss needs at least {max_lag + 1:,}: "
            "choose another --part or FILE."
        )
    unit = f" {task.counted}"
    with progress(len(ids) - max_lag, unit, args.quiet, unit_scale=True) as bar:

        def tell(done: int, _total: int) -> None:
            bar.update(done - bar.n)

        model = task.checkpoint.model.to(device)
        loss = evaluate(model, ids, precision, device, tell, context=task.context)
    with progress(0, unit, args.quiet, unit_scale=True, desc="yardsticks") as bar:
        others = task.baselines(part, bar)
    return {
        "checkpoint": task.checkpoint.path,
        "iteration": task.checkpoint.step,
        "data": task.data,
        "part": part,
        task.counted: task.count(part),
        "precision": precision,
        "loss": loss,
        "bits": task.bits(loss),
        **others,
    }


def _table(results: dict[str, Any], task: Task) -> str:
    """The results for a reader; bits are aligned, as they are there to be compared."""
    from charrnn.data import baselines

    bits = results["bits"]
    network, data = (printable(results[name], keep_bytes=True) for name in ("checkpoint", "data"))
    lines = [
        ("network", f"{network}, iteration {results['iteration']:,}"),
        ("data", f"{data}, {results['part']}: {results[task.counted]:,} {task.counted}"),
        ("loss", f"{results['loss']:#.5g} {task.loss_unit} ({results['precision']})"),
        (task.bits_unit, f"{bits:.4f}"),
    ]
    for key, name in baselines.NAMES.items():
        if key in results:
            lines.append((f"  {name}", f"{results[key]:.4f}{_fewer(bits, results[key])}"))
    width = max(WIDTH, len(task.bits_unit) + 2)
    return "\n".join(f"{name:<{width}}{value}" for name, value in lines)


def _fewer(bits: float, others: float) -> str:
    if not others:
        return ""
    percent = 100 * (1 - bits / others)
    return f"  the network takes {abs(percent):.1f} % {'fewer' if percent >= 0 else 'more'}"


def _run_of(checkpoint: Path) -> run_dir.Run | None:
    """The run that a checkpoint file lies in, if it lies in one."""
    if checkpoint.parent.name != "checkpoints":  # "." is one, too, where somebody works in that folder
        checkpoint = Path(os.path.abspath(checkpoint))
    run = run_dir.Run(checkpoint.parent.parent)
    return run if checkpoint.parent == run.checkpoints_folder and run.config_file.is_file() else None


def own_run(args: Namespace, run: run_dir.Run | None) -> run_dir.Run:
    """Return the run whose data are to be scored; raise InputError if there is none, or its data are gone."""
    if run is None:
        raise InputError(f"{args.network} lies in no run, so what it was trained on is not known: name a FILE.")
    if not run.corpus_file.is_file():
        raise InputError(f"there is no {run.corpus_file} any more: name a FILE.")
    return run


def named(inputs: Sequence[str]) -> str:
    """Return the name of a run's data: their first file, and the number of the others."""
    return inputs[0] + (f" and {len(inputs) - 1} more" if len(inputs) > 1 else "")


def _run_data(
    args: Namespace, checkpoint: Checkpoint, run: run_dir.Run | None
) -> tuple[str, Corpus, tuple[float, float]]:
    """Return the data of the network's run."""
    from charrnn.data.corpus import open_corpus

    run = own_run(args, run)
    config = run.config(complete=True)
    try:
        corpus = open_corpus(run.corpus_file, checkpoint.vocab, tuple(config["inputs"]))
        if config["vocab"] != checkpoint.vocab.to_json():
            raise ValueError("its vocabulary is not the checkpoint's")
        if len(corpus.ids) != config["symbols"]:
            raise ValueError(f"it counts {config['symbols']!r} symbols, and there are {len(corpus.ids)}")
        return named(corpus.names), corpus, (config["val_frac"], config["test_frac"])
    except (IndexError, ValueError) as error:
        raise not_as_written(run, error) from None


def _file_data(
    args: Namespace, checkpoint: Checkpoint, run: run_dir.Run | None, folder: Path
) -> tuple[str, Corpus, tuple[float, float]]:
    """Another file, read as a recording at the network's rate and in its encoding, or as a text of its characters."""
    from charrnn.data.corpus import prepare_corpus

    table = bytecodec.read_table(args.table) if args.table else None
    corpus = prepare_corpus(
        [args.file],
        folder / "corpus.bin",
        options_of(checkpoint, args),
        checkpoint.vocab,
        args.quiet,
        table,
        args.encoding,
        args.skip_unreadable,
    )
    return STANDARD_INPUT if args.file == "-" else args.file, corpus, file_fractions(run)


def file_fractions(run: run_dir.Run | None) -> tuple[float, float]:
    """Return the fractions of a FILE for validation and test: those of the checkpoint's run."""
    if run is None:
        return FRACTION, FRACTION
    config = run.config(complete=True)
    return config["val_frac"], config["test_frac"]


def not_as_written(run: run_dir.Run, error: Exception) -> InputError:
    """What to say of a config.json that somebody has changed."""
    if isinstance(error, InputError):
        return error
    return InputError(f"{run.config_file} is not as charrnn-train wrote it: {error}.")


if __name__ == "__main__":
    sys.exit(charrnn_eval())
