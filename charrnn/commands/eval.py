"""charrnn-eval: the loss of a trained network on any part or file, baselines, and measures of what it generates."""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytecodec.console import Parser, command, explain, log, number, option, print_path, progress, whole
from bytecodec.errors import InputError, printable
from charrnn import runtime
from charrnn.commands import flags
from charrnn.commands.flags import path, threads_of
from charrnn.storage import run_dir

if TYPE_CHECKING:
    from charrnn.commands.eval_task import EvaluationTask

PARTS = ("test", "val", "train", "all")
NAME_WIDTH = 19  # characters in the first column of the table, or more
SECONDS, MAX_SECONDS = 60.0, 3600.0  # of free running
SEEDS, MAX_SEEDS = 3, 1000
EXAMPLES = """
charrnn-eval runs/voice-001
charrnn-eval runs/voice-001 --checkpoint best --part val
charrnn-eval runs/voice-001 another-speaker.wav
charrnn-eval runs/voice-001 --free-running --seeds 5
charrnn-eval 00074000.safetensors poems.txt --json
"""


@command
def charrnn_eval(argv: Sequence[str] | None = None) -> int:
    """Evaluate a network as the command line says, and return the exit code."""
    p = parser()
    args, named = p.parse_args(argv), flags.explicit_flags(p, argv)
    unused = sorted(named & {"channel", "table", "encoding", "skip_unreadable"})
    if unused and not args.file:
        p.error(f"{flags.flag_of(unused[0])} has no effect without a FILE: name one.")
    if "seeds" in named and args.free_running is None:
        p.error("--seeds has no effect without --free-running: give both.")
    runtime.before_torch()
    from charrnn.commands.eval_task import FreeRunning, evaluation_task

    file = run_dir.checkpoint_path(args.network, args.checkpoint)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        task = evaluation_task(args, file, Path(folder))
        device = runtime.choose_device(args.device)
        free_running = FreeRunning(args, task) if args.free_running else None
        results = _evaluate(args, task, args.part or ("all" if args.file else "test"), device)
        if free_running:
            results["free_running"] = free_running.measure(device)
    if free_running and task.run and not args.file:
        _write_free_running(task.run, results["free_running"])
    print_path(json.dumps(results) if args.json else _table(results, task))
    return 0


def parser() -> Parser:
    p = Parser(
        "charrnn-eval",
        "Evaluate a trained network on a part of its run's data or on another file. Print its loss and its bits per "
        "symbol or 16-bit sample, and for comparison the bits of FLAC (for text: bzip2) and, for symbols, of order-0 "
        "coding by their frequencies.",
        EXAMPLES,
    )
    p.add_argument("network", type=path, metavar="CHECKPOINT or RUN", help="checkpoint file or run to evaluate")
    file = "recording, text or folder to evaluate on; - is standard input (default: the run's data)"
    p.add_argument("file", nargs="?", type=path, metavar="FILE", help=file)
    flags.add_encoding(p, "a text")
    p.add_argument("--skip-unreadable", action="store_true", help=flags.SKIP_UNREADABLE)
    part = "part of the data (default: test of a run's data, all of a FILE)"
    p.add_argument("--part", choices=PARTS, help=part)
    flags.add_checkpoint(p)
    flags.add_channel(p, "FILE")
    option(p, "--table TABLE", path, "table of a FILE that BinToUTF8 wrote")
    p.add_argument(
        "--free-running",
        nargs="?",
        type=number(2, MAX_SECONDS),
        const=SECONDS,
        metavar="S",
        help="also generate S seconds of sound per seed, measure it, and compare it with the training part or FILE "
        f"(S is {SECONDS:g} by default)",
    )
    seeds = "number of seeds of --free-running, which count from 0"
    option(p, "--seeds N", whole(1, MAX_SEEDS), seeds, SEEDS)
    p.add_argument("--json", action="store_true", help="print one JSON object with all digits")
    p.add_argument("--device", choices=runtime.DEVICES, default="auto", help="device to compute on")
    precision = "precision of matrix products; auto is bf16 if the hardware supports it"
    p.add_argument("--precision", choices=runtime.PRECISIONS, default="fp32", help=precision)
    flags.add_threads(p)
    return p


def _evaluate(args: Namespace, task: EvaluationTask, part: str, device: str) -> dict[str, Any]:
    """Return all results by name."""
    from charrnn.cuda.backends import use_prediction_kernel
    from charrnn.training.evaluate import evaluate

    precision = runtime.choose_precision(args.precision, device)
    runtime.set_threads(threads_of(args))
    ids, max_lag = task.parts[part], task.context.max_lag
    if len(ids) <= max_lag:
        what = task.data if part == "all" else f"the {part} part of {task.data}"
        raise InputError(
            f"{what} has {len(ids):,} {task.unit}, and a loss needs at least {max_lag + 1:,}: "
            "choose another --part or FILE."
        )
    with progress(len(ids) - max_lag, f" {task.unit}", args.quiet, unit_scale=True) as bar:

        def on_progress(done: int, _total: int) -> None:
            bar.update(done - bar.n)

        model = task.checkpoint.model.to(device)
        use_prediction_kernel(model)
        loss = evaluate(model, ids, precision, device, on_progress, context=task.context)
    with progress(0, f" {task.unit}", args.quiet, unit_scale=True, desc="baselines") as bar:
        baselines = task.baselines(part, bar)
    return {
        "checkpoint": task.checkpoint.path,
        "iteration": task.checkpoint.step,
        "data": task.data,
        "part": part,
        task.unit: len(ids) - task.uncounted,
        "precision": precision,
        "loss": loss,
        "bits": task.bits(loss),
        **baselines,
    }


def _write_free_running(run: run_dir.Run, measures: dict[str, Any]) -> None:
    """Write free_running.json, or report that it cannot be written."""
    try:
        run.write_free_running(measures)
    except (InputError, OSError) as error:
        log(f"the run's free_running.json is not written: {explain(error) if isinstance(error, OSError) else error}")


def _table(results: dict[str, Any], task: EvaluationTask) -> str:
    """Return the results as a table whose bits are aligned."""
    from charrnn.data import baselines

    bits = results["bits"]
    network, data = (printable(results[name], keep_bytes=True) for name in ("checkpoint", "data"))
    lines = [
        ("network", f"{network}, iteration {results['iteration']:,}"),
        ("data", f"{data}, {results['part']}: {results[task.unit]:,} {task.unit}"),
        ("loss", f"{results['loss']:#.5g} {task.loss_unit} ({results['precision']})"),
        (task.bits_unit, f"{bits:.4f}"),
    ]
    for key, name in baselines.NAMES.items():
        if key in results:
            lines.append((f"  {name}", f"{results[key]:.4f}{_comparison(bits, results[key])}"))
    if "free_running" in results:
        lines += _free_running_lines(results["free_running"])
    width = max(NAME_WIDTH, 2 + max(len(name) for name, _ in lines))
    return "\n".join(f"{name:<{width}}{value}" for name, value in lines)


def _free_running_lines(measures: dict[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of the lines of the table on free running."""
    from charrnn.viz import free_running

    rows = [free_running.HEADER, *free_running.rows(measures)]
    widths = [2 + max(len(row[column]) for row in rows) for column in (1, 2)]
    return [
        ("free running", free_running.description(measures)),
        *((f"  {name}", f"{mean:<{widths[0]}}{seeds:<{widths[1]}}{last}") for name, mean, seeds, last in rows),
    ]


def _comparison(bits: float, baseline: float) -> str:
    if not baseline:
        return ""
    percent = 100 * (1 - bits / baseline)
    return f"  the network needs {abs(percent):.1f} % {'less' if percent >= 0 else 'more'}"


if __name__ == "__main__":
    sys.exit(charrnn_eval())
