"""charrnn-video: a video of how runs learnt."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence

from bytecodec.console import Parser, command, print_path, progress, wrong_command_line
from bytecodec.files import open_output
from charrnn.commands.flags import needs, path, whole
from charrnn.commands.report import read_summaries

EXAMPLES = """
charrnn-video runs/voice-001
charrnn-video small large finale -o evolution.mp4 --title "Three networks"
charrnn-video voice-001 --checkpoints first,1000,5000,best,newest
"""


def parser() -> Parser:
    """Return the parser of the command line."""
    p = Parser(
        "charrnn-video",
        "Make a video of runs: the settings of each, then the sample of each checkpoint in order, with its waveform, "
        "its spectrum and the loss graph up to that iteration. Needs ffmpeg on the PATH.",
        EXAMPLES,
    )
    p.add_argument("run", nargs="+", type=path, metavar="RUN", help="folder of a run, or its name under ./runs")
    p.add_argument("-o", "--output", type=path, default="evolution.mp4", metavar="OUT", help=".mp4 file to write")
    p.add_argument(
        "--checkpoints",
        type=path,
        metavar="LIST",
        help="checkpoints to include: iterations, first, best or newest (default: all)",
    )
    p.add_argument(
        "--size", type=_size, default="1280x720", metavar="WxH", help="width and height in pixels, both even"
    )
    p.add_argument("--fps", type=whole(5, 120), default=30, metavar="N", help="frames per second")
    p.add_argument("--title", default="", metavar="TEXT", help="title on the first card (default: names of the inputs)")
    return p


@command
def charrnn_video(argv: Sequence[str] | None = None) -> int:
    """Run charrnn-video and return the exit code."""
    p = parser()
    args = p.parse_args(argv)
    if not args.output.lower().endswith(".mp4"):
        wrong_command_line(p, f"{args.output}: the name of a video ends in .mp4.")
    with needs("plots"):
        from charrnn.viz import film, run_summary, video
    video.ffmpeg()
    summaries = read_summaries(args.run, args.quiet)
    samples = [run_summary.select_samples(summary, args.checkpoints) for summary in summaries]
    layout = film.Layout(*args.size)
    with open_output(args.output) as file, progress(0, " frames", args.quiet) as bar:
        video.make(summaries, samples, file, layout, args.fps, args.title, bar.reset, bar.update)
    print_path(args.output)
    return 0


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    width, height = map(int, found.groups()) if found else (0, 0)
    if not (320 <= width <= 7680 and 180 <= height <= 4320) or width % 2 or height % 2:
        raise ArgumentTypeError(
            f"{text!r} is not a size: give two even numbers, such as 1280x720, from 320x180 to 7680x4320"
        )
    return width, height


if __name__ == "__main__":
    sys.exit(charrnn_video())
