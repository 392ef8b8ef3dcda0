"""charrnn-report: runs in one page, to read, to hear and to send on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bytecodec.console import Parser, command, log, print_path, progress
from bytecodec.files import open_output
from charrnn.commands.flags import needs, path
from charrnn.storage import run_dir

if TYPE_CHECKING:
    from charrnn.viz.run_summary import RunSummary

LARGE = 30_000_000  # bytes from which on a page is slow to send and to open
EXAMPLES = """
charrnn-report runs/voice-001
charrnn-report voice-001 voice-002 -o both.html
charrnn-report voice-001 -o short.html --checkpoints 1000,5000,best,newest
"""


def parser() -> Parser:
    """The command line of charrnn-report."""
    p = Parser(
        "charrnn-report",
        "Write a page about one or several runs: settings, curves that zoom, and the sound of every checkpoint and of "
        "the original. It is one HTML file, which opens from disk and loads nothing else.",
        EXAMPLES,
    )
    p.add_argument("run", nargs="+", type=path, metavar="RUN", help="folder of a run, or its name under ./runs")
    p.add_argument(
        "-o",
        "--output",
        type=path,
        default="report.html",
        metavar="OUT",
        help="HTML file to write, or - for standard output",
    )
    p.add_argument(
        "--checkpoints",
        type=path,
        metavar="LIST",
        help="checkpoints to include: iterations, first, best or newest (default: all)",
    )
    return p


@command
def charrnn_report(argv: Sequence[str] | None = None) -> int:
    """Run charrnn-report; returns the exit code."""
    args = parser().parse_args(argv)
    with needs("report"):
        from charrnn.viz import report, run_summary
    stories = read_stories(args.run, args.quiet)
    samples = [run_summary.chosen(s, args.checkpoints) if s.samples or args.checkpoints else [] for s in stories]
    for story in stories:
        if not story.samples:
            why = "--sample-seconds writes what each checkpoint sounds like" if story.is_sound else "it is of text"
            log(f"the run {story.run.path} has nothing to hear: {why}.", args.quiet)
    with progress(sum(map(len, samples)), " sounds", args.quiet) as bar:
        page = report.make(stories, samples, bar.update).encode("utf-8", "replace")
    with open_output(args.output, binary=False) as file:
        file.write(page)
    if len(page) > LARGE:
        log(f"the page has {len(page) / 1e6:.0f} MB: --checkpoints takes fewer sounds into it.", args.quiet)
    if args.output != "-":
        print_path(args.output)
    return 0


def read_stories(names: Sequence[str], quiet: bool) -> list[RunSummary]:
    """The runs of these names, with their logs."""
    from charrnn.viz.run_summary import RunSummary

    found = [run_dir.find_run(name) for name in names]
    size = sum(run.log_file.stat().st_size for run in found if run.log_file.is_file())
    with progress(size, "B", quiet, unit_scale=True, desc="reading") as bar:
        return [RunSummary(run, lambda words: log(words, quiet), bar.update) for run in found]


if __name__ == "__main__":
    sys.exit(charrnn_report())
