"""charrnn-eval: the loss of a trained network on any part or file, beside what others need for the same symbols."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytecodec.console import Parser, command, print_path, progress
from bytecodec.errors import InputError
from bytecodec.safe_text import printable
from charrnn import runlog, runtime
from charrnn.commands.flags import path, whole

if TYPE_CHECKING:
    from charrnn.checkpoint import Checkpoint
    from charrnn.data import Corpus

FRACTION = 0.1  # of a file for validation and for test, where there is no run that says otherwise
PARTS = ("test", "val", "all")
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
        "Print a trained network's loss and bits a symbol on a part of its run's data, or on another file, "
        "beside what FLAC (for text: bzip2) and the symbols' frequencies alone take.",
        EXAMPLES,
    )
    p.add_argument("network", type=path, metavar="CHECKPOINT or RUN", help="a checkpoint file, or a run")
    p.add_argument(
        "file", nargs="?", type=path, metavar="FILE", help="a recording, a text or a folder (default: the run's data)"
    )
    p.add_argument("--part", choices=PARTS, help="cut as training cuts (default: test of a run's data, all of a FILE)")
    p.add_argument("--checkpoint", default="newest", metavar="WHICH", help="of a run: newest, best or an iteration")
    p.add_argument("--json", action="store_true", help="print one JSON object, with all digits")
    p.add_argument("--device", choices=runtime.DEVICES, default="auto", help="where to compute")
    p.add_argument(
        "--precision", choices=runtime.PRECISIONS, default="fp32", help="of matrix products; auto: the fastest here"
    )
    p.add_argument(
        "--threads",
        type=whole(0, runtime.MOST_THREADS),
        default=None,
        metavar="N",
        help="on a CPU; 0: a core each (default: CHARRNN_THREADS, or 0)",
    )
    return p


@dataclass(frozen=True)
class Data:
    """Symbols, what they are called, and how they are cut into parts."""

    corpus: Corpus
    name: str
    val_frac: float
    test_frac: float


@command
def charrnn_eval(argv: Sequence[str] | None = None) -> int:
    """Run charrnn-eval; returns the exit code."""
    args = parser().parse_args(argv)
    runtime.before_torch()
    from charrnn.checkpoint import load

    checkpoint = load(runlog.checkpoint_path(args.network, args.checkpoint))
    run = _run_of(Path(checkpoint.path))
    part = args.part or ("all" if args.file else "test")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        data = _file_data(args, checkpoint, run, Path(folder)) if args.file else _run_data(args, checkpoint, run)
        results = _results(args, checkpoint, data, part)
    print_path(json.dumps(results) if args.json else _table(results))
    return 0


def _results(args: Namespace, checkpoint: Checkpoint, data: Data, part: str) -> dict[str, Any]:
    """All that there is to print, by name."""
    from charrnn import yardstick
    from charrnn.evaluate import BITS, evaluate

    device = runtime.choose_device(args.device)
    precision = runtime.choose_precision(args.precision, device)
    runtime.set_threads(runtime.default_threads() if args.threads is None else args.threads)
    parts = data.corpus.split(data.val_frac, data.test_frac)
    ids = data.corpus.ids if part == "all" else parts[part]
    train = None if part == "all" else parts["train"]
    if len(ids) < 2:
        what = data.name if part == "all" else f"the {part} part of {data.name}"
        raise InputError(f"{what} has {len(ids)} symbols, and a loss takes at least 2: choose another --part or FILE.")
    with progress(len(ids) - 1, " symbols", args.quiet, unit_scale=True) as bar:
        nats = evaluate(
            checkpoint.model.to(device), ids, precision, device, lambda done, _total: bar.update(done - bar.n)
        )
    with progress(yardstick.steps(ids, train), " symbols", args.quiet, unit_scale=True, desc="yardsticks") as bar:
        mulaw = checkpoint.encoding == "mulaw"
        others = yardstick.yardsticks(ids, train, checkpoint.vocab, checkpoint.rate, mulaw, bar.update)
    return {
        "checkpoint": checkpoint.path,
        "iteration": checkpoint.step,
        "data": data.name,
        "part": part,
        "symbols": len(ids),
        "precision": precision,
        "loss": nats,
        "bits": nats * BITS,
        **others,
    }


def _table(results: dict[str, Any]) -> str:
    """The results for a reader; bits are aligned, as they are there to be compared."""
    from charrnn import yardstick

    bits = results["bits"]
    network, data = (printable(results[name], keep_bytes=True) for name in ("checkpoint", "data"))
    lines = [
        ("network", f"{network}, iteration {results['iteration']:,}"),
        ("data", f"{data}, {results['part']}: {results['symbols']:,} symbols"),
        ("loss", f"{results['loss']:.4f} nats a symbol ({results['precision']})"),
        ("bits a symbol", f"{bits:.4f}"),
    ]
    for key, name in yardstick.NAMES.items():
        if key in results:
            lines.append((f"  {name}", f"{results[key]:.4f}{_fewer(bits, results[key])}"))
    return "\n".join(f"{name:<{WIDTH}}{value}" for name, value in lines)


def _fewer(bits: float, others: float) -> str:
    if not others:
        return ""
    percent = 100 * (1 - bits / others)
    return f"  the network takes {abs(percent):.1f} % {'fewer' if percent >= 0 else 'more'}"


def _run_of(checkpoint: Path) -> runlog.Run | None:
    """The run that a checkpoint file lies in, if it lies in one."""
    if checkpoint.parent.name != "checkpoints":  # "." is one, too, where somebody works in that folder
        checkpoint = Path(os.path.abspath(checkpoint))
    run = runlog.Run(checkpoint.parent.parent)
    return run if checkpoint.parent == run.checkpoints_folder and run.config_file.is_file() else None


def _run_data(args: Namespace, checkpoint: Checkpoint, run: runlog.Run | None) -> Data:
    """What the network's run was made with."""
    from charrnn import data

    if run is None:
        raise InputError(f"{args.network} lies in no run, so what it was trained on is not known: name a FILE.")
    if not run.corpus_file.is_file():
        raise InputError(f"there is no {run.corpus_file} any more: name a FILE.")
    config = run.config()
    try:
        corpus = data.open_corpus(run.corpus_file, checkpoint.vocab, tuple(config["inputs"]))
        if config["vocab"] != checkpoint.vocab.to_json():
            raise ValueError("its vocabulary is not the checkpoint's")
        if len(corpus.ids) != config["symbols"]:
            raise ValueError(f"it counts {config['symbols']!r} symbols, and there are {len(corpus.ids)}")
        more = f" and {len(corpus.names) - 1} more" if len(corpus.names) > 1 else ""
        return Data(corpus, corpus.names[0] + more, *_fractions(config))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _no_config(run, error) from None


def _file_data(args: Namespace, checkpoint: Checkpoint, run: runlog.Run | None, folder: Path) -> Data:
    """Another file, read as a recording at the network's rate and in its encoding, or as a text of its characters."""
    from charrnn import data

    fractions = (FRACTION, FRACTION)
    if run:
        try:
            fractions = _fractions(run.config())
        except (KeyError, TypeError, ValueError) as error:
            raise _no_config(run, error) from None
    options = data.SoundOptions(rate=checkpoint.rate or 11025, mulaw=checkpoint.encoding == "mulaw")
    corpus = data.prepare([args.file], folder / "corpus.bin", options, checkpoint.vocab, args.quiet)
    return Data(corpus, args.file, *fractions)


def _fractions(config: dict[str, Any]) -> tuple[float, float]:
    val, test = float(config["val_frac"]), float(config["test_frac"])
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise ValueError(f"val_frac is {val:g}, test_frac {test:g}")
    return val, test


def _no_config(run: runlog.Run, error: Exception) -> InputError:
    """What to say of a config.json that somebody has changed."""
    if isinstance(error, InputError):
        return error
    words = f"there is no {error}" if isinstance(error, KeyError) else str(error)
    return InputError(f"{run.config_file} is not as charrnn-train wrote it: {words}.")


if __name__ == "__main__":
    sys.exit(charrnn_eval())
