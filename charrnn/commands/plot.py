"""charrnn-plot: plots of losses and of recordings."""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bytecodec.console import Parser, command, log, option, print_path, progress, whole
from bytecodec.errors import InputError
from bytecodec.files import is_special_file, open_output, refuse_same_file
from charrnn.commands.flags import needs, path
from charrnn.data.inputs import Input, prepare_input
from charrnn.storage import run_dir

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from charrnn.viz.curves import Series
    from charrnn.viz.plots import PlotStyle

MAX_PIXELS = 16383
FORMATS = ("png", "svg", "pdf")
LABELS = {"elapsed_seconds": "seconds trained", "epoch": "epochs"}
EXAMPLES = """
charrnn-plot runs/voice-001/log.csv
charrnn-plot runs/voice-001 runs/voice-002 -o both.svg --log-x --unit bits
charrnn-plot log.csv -o wall.png --width 16383 --height 1080 --average median
charrnn-plot results.csv --x step --y loss,accuracy -o results.pdf
charrnn-plot out.wav
"""


def parser() -> Parser:
    p = Parser(
        "charrnn-plot",
        "Draw the losses of runs, or columns of any CSV file with a header: a band from the lowest to the highest "
        "value in each column of pixels, and a line for the average. For recordings, draw the waveform, the "
        "spectrogram and the seams.",
        EXAMPLES,
    )
    file = "run, log.csv, another CSV file or recording to draw; - is standard input"
    p.add_argument("file", nargs="+", type=path, metavar="FILE", help=file)
    option(
        p,
        "-o --output OUT",
        path,
        ".png, .svg or .pdf file to write, or - (default: the name of the first FILE with .png, in the same folder)",
    )
    option(p, "--width PIXELS", whole(200, MAX_PIXELS), "width of the picture in pixels", 1600)
    option(p, "--height PIXELS", whole(150, MAX_PIXELS), "height of the picture in pixels", 900)
    p.add_argument("--log-x", action="store_true", help="use a logarithmic x axis")
    p.add_argument("--log-y", action="store_true", help="use a logarithmic y axis")
    option(p, "--x COLUMN", path, "column for the x axis (default: iteration, or the first column of a CSV file)")
    option(p, "--y LIST", _names, "columns to draw (default: the losses, or the second column of a CSV file)", [])
    unit = "unit of losses: nats (the trained loss), or bits per symbol or 16-bit sample"
    p.add_argument("--unit", choices=("nats", "bits"), default="nats", help=unit)
    average = "kind of average that the line shows"
    p.add_argument("--average", choices=("mean", "median", "none"), default="mean", help=average)
    option(p, "--window ROWS", whole(1), "number of rows to average over (default: a hundredth of all rows)", 0)
    option(p, "--colors LIST", _names, "colours of the curves, as names or #rrggbb", [])
    p.add_argument("--theme", choices=("light", "dark"), default="light", help="colour theme")
    option(p, "--title TEXT", str, "title above the picture", "")
    return p


@command
def charrnn_plot(argv: Sequence[str] | None = None) -> int:
    """Draw losses or a sound as the command line says, and return the exit code."""
    p = parser()
    args = p.parse_args(argv)
    output = args.output or _default_output(Path(args.file[0]))
    kind = "png" if output == "-" else output.rpartition(".")[2].lower()
    if kind not in FORMATS:
        p.error(f"{output}: the name of a picture ends in {', '.join(f'.{name}' for name in FORMATS)}.")
    with needs("plots"):
        from charrnn.viz import plots
    for color in args.colors:
        if not plots.is_color(color):
            p.error(f"--colors: {color!r} is not a colour. Give a name such as teal, or #rrggbb.")
    for name in args.file:
        if not Path(name).is_dir():
            refuse_same_file(name, output)
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(prepare_input(name)) for name in args.file if name == "-" or _is_file(name)}
        try:
            figure = _figure(args, _style(args), files)
        except InputError as error:
            raise InputError(_with_names(str(error), files)) from None
    with open_output(output) as file:
        plots.save(figure, file, kind)
    if output != "-":
        print_path(output)
    return 0


def _figure(args: Namespace, style: PlotStyle, files: dict[str, Input]) -> Figure:
    """Return the figure of recordings, or of curves."""
    from charrnn.viz import plots, sound

    are_sounds = [name in files and files[name].is_sound for name in args.file]
    if any(are_sounds) and not all(are_sounds):
        raise InputError(
            f"{args.file[are_sounds.index(True)]} is a recording and {args.file[are_sounds.index(False)]} is not: "
            "draw them in two pictures."
        )
    if all(are_sounds):
        pictures = []
        with progress(style.width * len(args.file), " columns", args.quiet) as bar:
            for name in args.file:
                picture = sound.picture_of_file(
                    files[name].path, style.width, bar.update, lambda text: log(_with_names(text, files), args.quiet)
                )
                pictures.append((Path(files[name].name).name, picture))
        return plots.draw_sounds(pictures, style)
    series, x_label, y_label = _series(args, files)
    for one in series:
        _check_drawable(one, args)
        if args.log_y and (hidden := sum(int((points.y <= 0).sum()) for points in (one.train, one.val) if points)):
            log(f"{one.name}: --log-y leaves out {hidden:,} values that are not above 0.", args.quiet)
    return plots.draw_curves(series, style, x_label, y_label)


def _style(args: Namespace) -> PlotStyle:
    from charrnn.viz.plots import PlotStyle

    names = ("width", "height", "log_x", "log_y", "average", "theme", "title")
    return PlotStyle(**{name: getattr(args, name) for name in names}, colors=tuple(args.colors), window=args.window)


def _series(args: Namespace, files: dict[str, Input]) -> tuple[list[Series], str, str]:
    """Return all curves, and the labels of the axes."""
    from charrnn.viz.curves import LOSSES, csv_series
    from charrnn.viz.units import BITS_COLUMNS, MEAN_SQUARE

    found: list[Series] = []
    x_names: set[str] = set()
    y_names: set[str] = set()
    paths = [files[name].path if name in files else _log_file(name) for name in args.file]
    named = [Path(files[name].name) if name in files else path for name, path in zip(args.file, paths, strict=True)]

    def on_message(message: str) -> None:
        log(_with_names(message, files), args.quiet)

    with progress(sum(f.stat().st_size for f in paths), "B", args.quiet, unit_scale=True, desc="reading") as bar:
        for file, name in zip(paths, _short_names(named), strict=True):
            series, x, ys = csv_series(file, name, args.x or "", args.y, on_message, bar.update, args.unit)
            found += series
            x_names.add(x)
            y_names.update(ys)
    y_label = ", ".join(sorted(y_names))
    if y_names <= set(LOSSES):
        units = sorted({one.unit for one in found})
        if len(units) > 1 and MEAN_SQUARE in units:
            names = [next(one.name for one in found if (one.unit == MEAN_SQUARE) is is_mse) for is_mse in (True, False)]
            raise InputError(
                f"the loss of {names[0]} is a {MEAN_SQUARE}, and that of {names[1]} is not: give --unit bits."
            )
        y_label = f"loss, {' or '.join(units)}"
    elif args.unit == "bits" and not y_names <= set(BITS_COLUMNS.values()):
        raise InputError(f"--unit bits converts losses in nats, and {y_label} is not a loss.")
    return found, ", ".join(LABELS.get(x, x) for x in sorted(x_names)), y_label


def _is_file(name: str) -> bool:
    return Path(name).is_file() or is_special_file(name)


def _with_names(message: str, files: dict[str, Input]) -> str:
    """Replace the paths of temporary copies of pipes in a message by the names of the pipes."""
    for file in files.values():
        message = message.replace(str(file.path), file.name)
    return message


def _log_file(name: str) -> Path:
    """Return the log of a run."""
    file = Path(name)
    try:
        return run_dir.find_run(name).log_file
    except InputError:
        if not file.suffix:
            raise
    return file  # opening it raises the error


def _default_output(file: Path) -> str:
    """Return the name of the picture if none is given."""
    if str(file) == "-":
        return "stdin.png"
    if is_special_file(str(file)):
        return "pipe.png"
    if file.is_file():
        return str(file.with_suffix(".png"))
    return str(file.parent / f"{Path(os.path.abspath(file)).name}.png")


def _check_drawable(one: Series, args: Namespace) -> None:
    """Raise InputError if the axes can show no point of a curve."""
    x, y = one.train.x, one.train.y
    if not len(x):
        raise InputError(f"{one.name} has no row with two numbers.")
    for scaled, values, flag in ((args.log_x, x, "--log-x"), (args.log_y, y, "--log-y")):
        if scaled and not (values > 0).any():
            raise InputError(f"{one.name} has no number above 0 to show with {flag}: omit the flag.")


def _short_names(files: Sequence[Path]) -> list[str]:
    """Return distinct names of files: for a log the run's folder, else the file's name or the whole path."""
    from charrnn.viz.run_summary import distinct_names

    names = [file.resolve().parent.name if file.name == "log.csv" else file.stem for file in files]
    return distinct_names(names, files)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ArgumentTypeError(f"{text!r} contains an empty name")
    return names


if __name__ == "__main__":
    sys.exit(charrnn_plot())
