"""charrnn-report: one HTML page about runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bytecodec.console import Parser, command, log, option, print_path, progress
from bytecodec.files import is_special_file, open_output
from charrnn.commands import flags
from charrnn.commands.flags import needs, path
from charrnn.storage import run_dir

if TYPE_CHECKING:
    from charrnn.viz.run_summary import RunSummary

LARGE = 30_000_000  # bytes; a larger page is slow to send and to open
EXAMPLES = """
charrnn-report runs/voice-001
charrnn-report voice-001 voice-002 -o both.html
charrnn-report voice-001 -o short.html --checkpoints 1000,5000,best,newest
"""


def parser() -> Parser:
    p = Parser(
        "charrnn-report",
        "Write one self-contained HTML page about runs: settings, zoomable curves, and players for the "
        "sample of every checkpoint and for the original.",
        EXAMPLES,
    )
    p.add_argument("run", nargs="+", type=path, metavar="RUN", help=flags.RUN)
    option(p, "-o --output OUT", path, ".html file to write, or - for standard output", "report.html")
    option(p, "--checkpoints LIST", path, flags.CHECKPOINTS)
    return p


@command
def charrnn_report(argv: Sequence[str] | None = None) -> int:
    """Write a report of runs as the command line says, and return the exit code."""
    p = parser()
    args = p.parse_args(argv)
    if not (args.output == "-" or is_special_file(args.output) or args.output.lower().endswith((".html", ".htm"))):
        p.error(f"{args.output}: the name of a report ends in .html.")
    with needs("report"):
        from charrnn.viz import report, run_summary
    summaries = read_summaries(args.run, args.quiet)
    samples = [
        run_summary.select_samples(s, args.checkpoints) if s.samples or args.checkpoints else [] for s in summaries
    ]
    for summary in summaries:
        if not summary.samples:
            why = "train with --sample-seconds to write them" if summary.is_sound else "it was trained on text"
            if summary.run.is_voice:
                why = "it is a bundled voice"
            elif summary.config.get("samples", {}).get("seconds"):
                why = "none was written so far, and charrnn-train --resume continues the run"
            log(f"the run {summary.run.path} has no sound samples: {why}.", args.quiet)
    with progress(sum(map(len, samples)), " sounds", args.quiet) as bar:
        page = report.make(summaries, samples, bar.update, lambda message: log(message, args.quiet)).encode(
            "utf-8", "replace"
        )
    with open_output(args.output, binary=False) as file:
        file.write(page)
    if len(page) > LARGE:
        log(f"the page is {len(page) / 1e6:.0f} MB long: select fewer samples with --checkpoints.", args.quiet)
    if args.output != "-":
        print_path(args.output)
    return 0


def read_summaries(names: Sequence[str], quiet: bool) -> list[RunSummary]:
    """Return the summaries of runs, given their names."""
    from charrnn.viz.run_summary import RunSummary

    found = [run_dir.find_run(name) for name in names]
    size = sum(run.log_file.stat().st_size for run in found if run.log_file.is_file())
    with progress(size, "B", quiet, unit_scale=True, desc="reading") as bar:
        return [RunSummary(run, lambda message: log(message, quiet), bar.update) for run in found]


if __name__ == "__main__":
    sys.exit(charrnn_report())
