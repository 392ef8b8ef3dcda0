"""Plots of the losses of runs, and of the waveform and the spectrogram of recordings; PNG, SVG or PDF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from bytecodec.errors import printable
from charrnn.viz import curves
from charrnn.viz.curves import Floats, Series
from charrnn.viz.sound import DISPLAY_RANGE, SoundPicture

DPI = 100
DASHES = (0, (5, 2))  # of validation losses
COLORMAP = "magma"  # of spectrograms
TICK_STEPS = (1, 2, 2.5, 5, 10)  # distances of ticks, times a power of ten
LINEAR_RATIO = 3  # a logarithmic axis whose ends have a smaller ratio has equally spaced ticks
FONT = "DejaVuSans.ttf"  # included in matplotlib, so that pictures are the same everywhere
CHARACTER_WIDTH = 12  # approximate maximum in pixels
MIN_CHARACTERS = 40  # of a text, in pictures of any size
FLAC_DIGITS = 2  # after the point; lines of FLAC at the same number are drawn once


@dataclass(frozen=True)
class Theme:
    """Colours of a picture; those of the curves are distinguishable for colour-blind people, too."""

    paper: str
    ink: str
    faint: str
    grid: str
    colors: tuple[str, ...]


THEMES = {
    "light": Theme(
        "#ffffff",
        "#1c2130",
        "#5b6375",
        "#e2e5ec",
        ("#1f5fd0", "#c8500a", "#0b8060", "#8a3ec8", "#b0245f", "#0b7285", "#7a6a00", "#5b6375"),
    ),
    "dark": Theme(
        "#12141c",
        "#eceef5",
        "#a3aabb",
        "#2b2f3c",
        ("#74a5ff", "#ff9d57", "#48cfa0", "#c99bff", "#ff86b3", "#54cfe3", "#dcc84a", "#a3aabb"),
    ),
}


@dataclass(frozen=True)
class PlotStyle:
    """Size, axes and colours of a picture.

    Attributes
    ----------
    width, height
        Size in pixels (SVG and PDF: hundredths of an inch).
    colors
        Colours of the curves in order; () for the theme's.
    average
        Kind of the line over the band: "mean", "median" or "none".
    window
        Rows that are averaged; 0 for a hundredth of them.
    """

    width: int = 1600
    height: int = 900
    log_x: bool = False
    log_y: bool = False
    colors: tuple[str, ...] = ()
    average: str = "mean"
    window: int = 0
    theme: str = "light"
    title: str = ""


def is_color(text: str) -> bool:
    """Return whether a text is a colour: a name or #rrggbb."""
    return bool(is_color_like(text))


def draw_curves(series: Sequence[Series], style: PlotStyle, x_label: str, y_label: str) -> Figure:
    """Draw training and validation losses: the spread as a band, the average as a line, validations as points.

    There is at least one series, and each training curve has at least one point that the axes can show.
    """
    theme = THEMES[style.theme]
    with matplotlib.rc_context(_rc_params(theme)):
        figure = _figure(style)
        axes = figure.add_subplot()
        _scales(axes, series, style)
        colors = list(islice(cycle(style.colors or theme.colors), len(series)))
        for one, color in zip(series, colors, strict=True):
            _draw_series(axes, one, style, color)
        _draw_flac(axes, series, theme)
        _label_axes(axes, style, x_label, y_label)
        _legend(axes, series, colors, style)
    return figure


def draw_sounds(sounds: Sequence[tuple[str, SoundPicture]], style: PlotStyle) -> Figure:
    """Draw the waveform of each recording above its spectrogram, with a line where a segment begins.

    All recordings have the same scales of amplitude and power, so that their levels can be compared.
    """
    theme = THEMES[style.theme]
    colors = cycle(style.colors or theme.colors)
    peak = max(max(float(np.abs(sound.low).max()), float(np.abs(sound.high).max())) for _, sound in sounds)
    loudest = max(float(sound.decibels.max()) for _, sound in sounds)
    with matplotlib.rc_context(_rc_params(theme)):
        figure = _figure(style)
        rows = figure.add_gridspec(len(sounds), 1, hspace=0.08)
        for number, ((name, sound), color) in enumerate(zip(sounds, colors, strict=False)):
            cells = rows[number].subgridspec(2, 1, height_ratios=(1, 1.6), hspace=0.02)
            wave = figure.add_subplot(cells[0])
            spectrum = figure.add_subplot(cells[1], sharex=wave)
            _draw_wave(wave, sound, color, peak)
            _draw_spectrogram(spectrum, sound, loudest)
            title = style.title if style.title and not number else name
            wave.set_title(_shorten(title, style.width), loc="left")
            for mark in sound.marks[sound.marks[:1] == (0.0,) :]:  # not at the beginning
                for axes, ink in ((wave, theme.ink), (spectrum, "white")):
                    axes.axvline(mark, color=ink, linewidth=1, linestyle=(0, (4, 3)), alpha=0.8)
        if any(sound.marks for _, sound in sounds):
            figure.text(0.995, 0.995, "dashed: start of a segment", ha="right", va="top", color=theme.faint)
    return figure


def save(figure: Figure, file: BinaryIO, kind: str) -> None:
    """Write a figure as png, svg or pdf; the same figure gives the same bytes."""
    for text in figure.findobj(Text):
        text.set_text(escape_missing_glyphs(text.get_text()))
    options: dict[str, dict[str, Any]] = {
        "svg": {"metadata": {"Date": None}},
        "pdf": {"metadata": {"CreationDate": None}},
        "png": {"pil_kwargs": {"compress_level": 4}},
    }
    with matplotlib.rc_context({"svg.hashsalt": "charrnn", "svg.fonttype": "none"}):
        figure.savefig(file, format=kind, **options[kind])


def escape_missing_glyphs(text: str) -> str:
    r"""Return text with an escape, such as ``\u4f60``, for each character that the font lacks.

    With a box for all such characters, different names would look the same.
    """
    text = printable(text)
    glyphs = _glyphs()
    return text if text.isascii() else "".join(c if ord(c) in glyphs else ascii(c)[1:-1] for c in text)


def _shorten(text: str, pixels: int) -> str:
    return printable(escape_missing_glyphs(text), max(MIN_CHARACTERS, pixels // CHARACTER_WIDTH))


def font_file(name: str) -> str:
    """Return the path of a font that is included in matplotlib."""
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name)


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(FT2Font(font_file(FONT)).get_charmap())


def _figure(style: PlotStyle) -> Figure:
    figure = Figure(figsize=(style.width / DPI, style.height / DPI), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _rc_params(theme: Theme) -> Any:  # matplotlib types the dictionary by its keys
    colors = {
        theme.paper: ("figure.facecolor", "savefig.facecolor", "axes.facecolor"),
        theme.ink: ("axes.labelcolor", "axes.titlecolor", "text.color"),
        theme.faint: ("axes.edgecolor", "xtick.color", "ytick.color"),
        theme.grid: ("grid.color",),
    }
    return {
        **{name: color for color, names in colors.items() for name in names},
        **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
        "legend.edgecolor": "none",
        "legend.framealpha": 0.85,  # of the paper's colour, above curves
        "font.size": 11,
        "font.family": "DejaVu Sans",  # the family of FONT
        "text.parse_math": False,  # a name with two $ is not a formula
        "axes.titlesize": 13,
        "axes.titleweight": "bold",
        "axes.axisbelow": True,
    }


def _scales(axes: Axes, series: Sequence[Series], style: PlotStyle) -> None:
    """Set the limits of x before anything is drawn, because the columns of pixels depend on them."""
    x = np.concatenate([points.x for one in series for points in (one.train, one.val) if points])
    x = x[x > 0] if style.log_x else x
    low, high = float(x.min()), float(x.max())
    if low == high:
        low, high = (low / 2, high * 2) if style.log_x else (low - 0.5, high + 0.5)
    if style.log_x:
        axes.set_xscale("log")
    axes.set_xlim(low, high)
    if style.log_y:
        axes.set_yscale("log")


def _edges(axes: Axes, columns: int) -> Floats:
    """Return the borders of columns, of which the first and the last are exactly the limits of x."""
    space = np.geomspace if axes.get_xscale() == "log" else np.linspace
    return space(*axes.get_xlim(), columns + 1)


def _draw_series(axes: Axes, one: Series, style: PlotStyle, color: str) -> None:
    train, edges = one.train, _edges(axes, style.width)
    middle, low, high = curves.spread(train, edges)
    if len(train) > 2 * len(middle):  # without anti-aliasing, which would fade peaks that are one pixel wide
        axes.fill_between(middle, low, high, color=color, alpha=0.3, linewidth=0, antialiased=False, zorder=2)
    elif style.average == "none":
        axes.plot(train.x, train.y, color=color, linewidth=1.2)
    else:
        axes.plot(train.x, train.y, color=color, alpha=0.35, linewidth=0.7)
    if style.average != "none":
        at = curves.thin_curve(train, edges, curves.MAX_POINTS if style.average == "median" else None)
        line = curves.rolling(train, at, style.window or max(1, len(train) // 100), style.average)
        axes.plot(train.x[at], line, color=color, linewidth=1.8, zorder=3)
    if one.val:
        markers = _markers(style) if len(one.val) <= style.width / 12 else {}
        axes.plot(one.val.x, one.val.y, color=color, zorder=4, linewidth=1.4, linestyle=DASHES, **markers)


def _markers(style: PlotStyle) -> dict[str, Any]:
    return {"marker": "o", "markersize": 5.5, "markeredgecolor": THEMES[style.theme].paper}


def _draw_flac(axes: Axes, series: Sequence[Series], theme: Theme) -> None:
    """Draw FLAC's bits per sample, unless the runs have different units, such as 8-bit symbols and 16-bit samples."""
    if len({one.unit for one in series}) > 1:
        return
    levels = {round(one.flac, FLAC_DIGITS): one.flac for one in series if one.flac is not None}
    for level in levels.values():
        axes.axhline(level, color=theme.ink, linewidth=1.1, linestyle=":", zorder=1.5)
        axes.annotate(
            f"FLAC {level:.2f}",
            (1, level),
            (-4, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=theme.ink,
        )


def _label_axes(axes: Axes, style: PlotStyle, x_label: str, y_label: str) -> None:
    axes.set_xlabel(_shorten(x_label, style.width))
    axes.set_ylabel(_shorten(y_label, style.height))
    axes.grid(True, linewidth=0.8)
    axes.tick_params(length=3, labelright=style.width > 4 * style.height)
    if style.title:
        axes.set_title(_shorten(style.title, style.width), loc="left")
    plain = FuncFormatter(_plain)
    axes.xaxis.set_major_formatter(plain)
    if not style.log_x:
        axes.xaxis.set_major_locator(MaxNLocator(max(4, style.width // 140), steps=TICK_STEPS))
    axes.margins(y=0.04)
    axes.yaxis.set_major_formatter(plain)
    if style.log_y:
        low, high = axes.get_ylim()
        near = high / low < 30
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7) if near else (1,), numticks=20))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if not style.log_y or high < LINEAR_RATIO * low:
        axes.yaxis.set_major_locator(MaxNLocator(max(3, style.height // 90), steps=TICK_STEPS))


def _plain(value: float, _position: object = None) -> str:
    """Return a number with thousands separators, and without an exponent unless it is very large or small."""
    if value == int(value) and abs(value) < 1e12:
        return f"{int(value):,}"
    return f"{value:,.6g}"


def _legend(axes: Axes, series: Sequence[Series], colors: Sequence[str], style: PlotStyle) -> None:
    """Name the runs by colour, then line and band, in grey if there are several runs."""
    theme = THEMES[style.theme]
    names = [_shorten(one.name, style.width // 2) for one in series]
    has_val = any(one.val for one in series)
    prefix = "training, " if has_val else ""
    handles: list[tuple[Any, str]] = []
    color, name = colors[0], f"{names[0]}: "
    if len(series) > 1:
        handles += [(Line2D([], [], color=c, linewidth=3), name) for c, name in zip(colors, names, strict=True)]
        color, name = theme.faint, ""
    if style.average != "none":
        handles.append((Line2D([], [], color=color, linewidth=1.8), f"{name}{prefix}{style.average}"))
    handles.append((Patch(facecolor=color, alpha=0.3), f"{prefix}spread"))
    if has_val:
        handles.append((Line2D([], [], color=color, linestyle=DASHES, **_markers(style)), "validation"))
    blanks = " " * len(handles)  # matplotlib omits labels that begin with _
    columns = 1 if len(handles) < 9 else 2
    legend = axes.legend([h for h, _ in handles], blanks, loc="upper right", labelcolor=theme.ink, ncols=columns)
    for text, (_, label) in zip(legend.get_texts(), handles, strict=True):
        text.set_text(label)


def _draw_wave(axes: Axes, sound: SoundPicture, color: str, peak: float) -> None:
    time = np.linspace(0, sound.seconds, len(sound.low))
    axes.fill_between(time, sound.low, sound.high, color=color, linewidth=0.6)
    limit = 1.05 * max(0.05, peak)
    axes.set_ylim(-limit, limit)
    axes.set_xlim(0, sound.seconds)
    axes.set_ylabel("amplitude")
    axes.tick_params(labelbottom=False)
    axes.grid(True, linewidth=0.8)


def _draw_spectrogram(axes: Axes, sound: SoundPicture, loudest: float) -> None:
    axes.imshow(
        sound.decibels,
        cmap=COLORMAP,
        vmin=max(loudest - DISPLAY_RANGE, -115.0),
        vmax=max(loudest, -110.0),
        origin="lower",
        aspect="auto",
        extent=(0, sound.seconds, 0, sound.rate / 2000),
        interpolation="nearest" if sound.decibels.shape[1] > 600 else "bilinear",
    )
    axes.set_ylabel("kHz")
    axes.set_xlabel("seconds")
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
