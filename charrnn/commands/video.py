"""charrnn-video: a video of the progress of runs."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence

from bytecodec.console import Parser, command, option, print_path, progress, whole
from bytecodec.files import open_output
from charrnn.commands import flags
from charrnn.commands.flags import needs, path
from charrnn.commands.report import read_summaries

EXAMPLES = """
charrnn-video runs/voice-001
charrnn-video small large finale -o evolution.mp4 --title "Three networks"
charrnn-video voice-001 --checkpoints first,1000,5000,best,newest
"""


def parser() -> Parser:
    p = Parser(
        "charrnn-video",
        "Make a video of runs: the settings of each, then the sample of each checkpoint in order, with its waveform, "
        "spectrum and the losses so far. Needs ffmpeg on the PATH.",
        EXAMPLES,
    )
    p.add_argument("run", nargs="+", type=path, metavar="RUN", help=flags.RUN)
    option(p, "-o --output OUT", path, ".mp4 file to write", "evolution.mp4")
    option(p, "--checkpoints LIST", path, flags.CHECKPOINTS)
    option(p, "--size WxH", _size, "width and height in pixels, both even", "1280x720")
    option(p, "--fps N", whole(5, 120), "frames per second", 30)
    option(p, "--title TEXT", str, "title on the first card (default: names of the inputs)", "")
    return p


@command
def charrnn_video(argv: Sequence[str] | None = None) -> int:
    """Write a video of runs as the command line says, and return the exit code."""
    p = parser()
    args = p.parse_args(argv)
    if not args.output.lower().endswith(".mp4"):
        p.error(f"{args.output}: the name of a video ends in .mp4.")
    with needs("plots"):
        from charrnn.viz import run_summary, video, video_frames
    summaries = read_summaries(args.run, args.quiet)
    samples = [run_summary.select_samples(summary, args.checkpoints) for summary in summaries]
    video.ffmpeg()
    layout = video_frames.Layout(*args.size)
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
