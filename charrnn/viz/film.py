"""Frames of the video: title cards, and graphs that scroll while a sound plays.

Frames are (height, width, 3) bytes. Positions in the drawing functions are pixels of a video of 1280 x 720.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bytecodec.console import duration
from bytecodec.errors import printable
from charrnn.viz.curves import rolling, spread, thinned
from charrnn.viz.plots import COLORMAP, LINEAR_RATIO, THEMES, TICK_STEPS, drawable
from charrnn.viz.run_summary import RunSummary, TrainPoint
from charrnn.viz.sound import Floats, spectra, window_length

Frame = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom

THEME = THEMES["dark"]
STEP = 8  # pixels per frame by which the sound moves; a whole number, so that the motion is smooth
NOW = 1 / 3  # position of the current sample, as a fraction of the panel's width
HERE = 0.72  # position of the current iteration, as a fraction of the loss panel's width
CLIP_PIXELS = 240  # width of the loss graph per clip, within `MAX_PIXELS`
MAX_PIXELS = 16000  # width of the loss graph
LOUD, QUIET = -15.0, -85.0  # dB at the top and bottom of the spectra
BANDS = 40  # of the current spectrum
MIN_TEXT_SCALE = 0.6  # of its size, to which text shrinks before it is shortened
MAX_TEXT = 400  # characters of a text that are measured
DECAY = 0.07  # of the height, by which a band falls per frame at most
SUBDIVISIONS = (1, 1.5, 2, 3, 4, 6, 8)  # multiples of a decade at which the loss graph has ticks


def rgb(color: str) -> NDArray[np.uint8]:
    """Return the three bytes of a colour."""
    return np.array([round(255 * part) for part in to_rgb(color)], np.uint8)


@dataclass(frozen=True)
class Layout:
    """Positions of the panels in a frame of a size."""

    width: int
    height: int

    @property
    def unit(self) -> float:
        """Size of a pixel of a video that is 720 high."""
        return self.height / 720

    def box(self, left: float, top: float, right: float, bottom: float) -> Box:
        """Return a box of a video of 1280 x 720 in pixels of this one."""
        x, y = self.width / 1280, self.height / 720
        return round(left * x), round(top * y), round(right * x), round(bottom * y)

    @property
    def loss(self) -> Box:
        """Box of the loss graph."""
        return self.box(84, 128, 1240, 372)

    @property
    def wave(self) -> Box:
        """Box of the waveform."""
        return self.box(40, 408, 880, 536)

    @property
    def spectrogram(self) -> Box:
        """Box of the spectrogram, under the waveform."""
        return self.box(40, 544, 880, 676)

    @property
    def spectrum(self) -> Box:
        """Box of the current spectrum."""
        return self.box(912, 408, 1240, 676)

    @property
    def progress(self) -> Box:
        """Box of the progress bar."""
        return self.box(0, 712, 1280, 720)


class Pen:
    """Drawing functions on an image."""

    def __init__(self, layout: Layout, image: Frame | None = None) -> None:
        size = (layout.width, layout.height)
        self.image = Image.new("RGB", size, THEME.paper) if image is None else Image.fromarray(image)
        self.draw = ImageDraw.Draw(self.image)
        self._layout = layout

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        color: str = THEME.ink,
        bold: bool = False,
        anchor: str = "ls",
        room: float = 1280,
    ) -> None:
        """Write text at a position; reduce or shorten it if it does not fit."""
        text = drawable(printable(text, MAX_TEXT))
        left, top, most, _ = self._layout.box(x, y, room, 0)
        width = self._layout.width
        most = min(most, round(0.97 * {"l": width - left, "r": left, "m": 2 * min(left, width - left)}[anchor[0]]))
        size *= self._layout.unit
        font = _font(size, bold)
        if (length := font.getlength(text)) > most:
            font = _font(size * max(MIN_TEXT_SCALE, most / length), bold)
        while len(text) > 1 and font.getlength(text) > most:
            text = text[:-2] + "…"
        self.draw.text((left, top), text, fill=color, font=font, anchor=anchor)

    def frame(self) -> Frame:
        """Return the image as a frame."""
        return np.array(self.image)


def _font(size: float, bold: bool) -> ImageFont.FreeTypeFont:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"DejaVuSans{'-Bold' if bold else ''}.ttf"), max(6.0, size))


def title_card(layout: Layout, title: str, lines: Sequence[str]) -> Frame:
    """Return the first frame."""
    pen = Pen(layout)
    pen.text(640, 330, title, 64, bold=True, anchor="ms")
    pen.draw.rectangle(layout.box(580, 362, 700, 367), fill=THEME.colors[0])
    for number, line in enumerate(lines):
        pen.text(640, 424 + 40 * number, line, 26, THEME.faint, anchor="ms")
    return pen.frame()


def run_card(layout: Layout, summary: RunSummary, name: str, color: str, heading: str) -> Frame:
    """Return a frame with the settings of a run."""
    pen = Pen(layout)
    pen.draw.rectangle(layout.box(100, 96, 108, 190), fill=color)
    pen.text(132, 124, heading, 22, THEME.faint)
    pen.text(132, 182, name, 54, bold=True)
    rows = list(summary.settings().items())
    step = min(40.0, 460 / max(1, len(rows)))
    for number, (setting, value) in enumerate(rows):
        pen.text(132, 256 + step * number, setting, 0.6 * step, THEME.faint)
        pen.text(500, 256 + step * number, value, 0.6 * step)
    return pen.frame()


def end_card(layout: Layout, summaries: Sequence[RunSummary], names: Sequence[str], colors: Sequence[str]) -> Frame:
    """Return the last frame: the result of each run."""
    pen = Pen(layout)
    pen.text(640, 130, "Results" if len(summaries) > 1 else "Result", 46, bold=True, anchor="ms")
    step = min(120.0, 440 / len(summaries))
    begin = 400 - step * (len(summaries) - 1) / 2
    for number, (summary, name, color) in enumerate(zip(summaries, names, colors, strict=True)):
        y, last = begin + step * number, summary.last()
        result = f"{(summary.best() or last).bits:.2f} {summary.unit}" + (
            f" (FLAC {summary.flac:.2f})" if summary.flac else ""
        )
        pen.draw.rectangle(layout.box(150, y - 0.3 * step, 158, y + 0.36 * step), fill=color)
        pen.text(182, y, name, 0.28 * step, bold=True)
        pen.text(560, y, result, 0.25 * step)
        pen.text(
            560, y + 0.32 * step, f"{summary.network}, trained for {duration(last.seconds)}", 0.2 * step, THEME.faint
        )
    pen.text(640, 686, "made with charrnn-sound", 20, THEME.faint, anchor="ms")
    return pen.frame()


class LossGraph:
    """Loss graph of a run, wider than its panel, which shows the part around an iteration."""

    def __init__(self, layout: Layout, summary: RunSummary, color: str, steps: Sequence[int]) -> None:
        left, top, right, bottom = layout.loss
        self._box, self._width = layout.loss, right - left
        pixels = min(MAX_PIXELS, max(self._width, round(CLIP_PIXELS * layout.unit * len(steps))))
        last = max(float(summary.train.x[-1]), 1.0)
        self._scale = pixels / last
        values = np.concatenate((summary.train.y, summary.val.y, [summary.flac] if summary.flac else []))
        values = values[values > 0]  # the axis is logarithmic
        values = values if len(values) else np.ones(1)
        self.low, self.high = 0.9 * float(values.min()), 1.1 * float(values.max())
        size, limits = (pixels, bottom - top), (0.0, last, self.low, self.high)
        self._bright, paper = _draw_losses(summary, color, steps, size, limits, layout.unit), rgb(THEME.paper)
        self._dim = ((self._bright.astype(np.uint16) + 2 * paper.astype(np.uint16)) // 3).astype(np.uint8)

    def show(self, frame: Frame, step: float) -> None:
        """Draw the part around an iteration, bright up to it and dim beyond, and a marker."""
        left, top, right, bottom = self._box
        place = round(step * self._scale)
        at = max(0, min(place - round(HERE * self._width), self._bright.shape[1] - self._width))
        here = max(1, min(place - at, self._width - 1))
        frame[top:bottom, left : left + here] = self._bright[:, at : at + here]
        frame[top:bottom, left + here : right] = self._dim[:, at + here : at + self._width]
        frame[top:bottom, left + here - 1 : left + here + 1] = rgb(THEME.ink)

    def labels(self, pen: Pen, layout: Layout, summary: RunSummary) -> None:
        """Draw the fixed labels beside the panel."""
        _, top, _, bottom = self._box
        for tick in ticks(self.low, self.high):
            y = bottom - (bottom - top) * np.log(tick / self.low) / np.log(self.high / self.low)
            pen.text(76, y / layout.height * 720, f"{tick:g}", 15, THEME.faint, anchor="rm")
        flac = f"; dotted: FLAC, {summary.flac:.2f}" if summary.flac else ""
        pen.text(40, 392, f"loss, {summary.unit}{flac}", 15, THEME.faint)


def ticks(low: float, high: float) -> list[float]:
    """Return round values between two limits of a logarithmic axis, equally spaced if these are close."""
    if high < LINEAR_RATIO * low:
        found = list(MaxNLocator(6, steps=TICK_STEPS).tick_values(low, high))
    else:
        parts = SUBDIVISIONS if high < 100 * low else SUBDIVISIONS[:1]
        found = [part * 10.0**power for power in range(-12, 4) for part in parts]
    return [tick for tick in found if low < tick < high]


def _draw_losses(
    summary: RunSummary, color: str, steps: Sequence[int], size: tuple[int, int], limits: tuple[float, ...], unit: float
) -> Frame:
    width, height = size
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor=THEME.paper)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), facecolor=THEME.paper, yscale="log")
    axes.set_axis_off()
    axes.set_xlim(limits[0], limits[1])
    axes.set_ylim(limits[2], limits[3])
    for tick in ticks(limits[2], limits[3]):
        axes.axhline(tick, color=THEME.grid, linewidth=0.8 * unit)
    if summary.flac:
        axes.axhline(summary.flac, color=THEME.ink, linewidth=1.2 * unit, linestyle=":")
    edges = np.linspace(limits[0], limits[1], width + 1)
    middle, low, high = spread(summary.train, edges)
    axes.fill_between(middle, low, high, color=color, alpha=0.35, linewidth=0.5 * unit, antialiased=False)
    at = thinned(summary.train, edges)
    line = rolling(summary.train, at, max(1, len(summary.train) // 100))
    axes.plot(summary.train.x[at], line, color=color, linewidth=1.8 * unit)
    axes.plot(summary.val.x, summary.val.y, color=THEME.ink, linewidth=1.2 * unit, linestyle=(0, (5, 3)))
    heard = np.isin(summary.val.x, steps)
    axes.plot(summary.val.x[heard], summary.val.y[heard], "o", color=THEME.ink, markersize=6 * unit)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


class SoundPanel:
    """Scrolling waveform and spectrogram, and current spectrum, of the sound of several clips."""

    def __init__(
        self, layout: Layout, samples: Floats, rate: int, fps: int, color: str, starts: Sequence[int] = ()
    ) -> None:
        self._layout, self._samples, self._rate, self._fps = layout, samples, rate, fps
        self._level = np.zeros(BANDS, np.float32)
        left, top, right, bottom = layout.wave
        self._now = round(NOW * (right - left))
        count = -(-len(samples) * fps * STEP // rate)  # columns
        edges = (np.arange(count + 1) * rate / (fps * STEP)).astype(np.int64).clip(0, len(samples))
        margins = (self._now, right - left - self._now)
        wave = _wave_strip(samples / max(float(np.abs(samples).max()), 1e-3), edges, bottom - top)
        for frame in starts:  # a faint line at the start of each clip
            wave[:, frame * STEP : frame * STEP + 2] = np.maximum(wave[:, frame * STEP : frame * STEP + 2], 70)
        self._wave = np.pad(wave, ((0, 0), margins))
        height = layout.spectrogram[3] - layout.spectrogram[1]
        self._spectrogram = np.pad(_spectrogram_strip(samples, rate, edges, height), ((0, 0), margins))
        ramp = np.linspace(0, 1, 256)[:, None]
        self._wave_colors = ((1 - ramp) * rgb(THEME.paper) + ramp * rgb(color)).astype(np.uint8)
        heat = (colormaps[COLORMAP](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
        self._heat = np.maximum(heat, rgb(THEME.paper))
        self._color = rgb(color)
        half = window_length(rate) // 2
        self._bins = np.geomspace(2, half, BANDS + 1).astype(np.int64)[:-1]  # lowest bin of each band

    def show(self, frame: Frame, number: int) -> None:
        """Draw a frame, counted from the beginning of the sound."""
        at = number * STEP
        for box, strip, colors in (
            (self._layout.wave, self._wave, self._wave_colors),
            (self._layout.spectrogram, self._spectrogram, self._heat),
        ):
            left, top, right, bottom = box
            part = strip[:, at : at + right - left]
            np.take(colors, part, axis=0, out=frame[top:bottom, left : left + part.shape[1]], mode="clip")
            frame[top:bottom, left + self._now - 1 : left + self._now + 1] = rgb(THEME.ink)
        self._show_spectrum(frame, number)

    def _show_spectrum(self, frame: Frame, number: int) -> None:
        left, top, right, bottom = self._layout.spectrum
        window = window_length(self._rate)
        start = round(number * self._rate / self._fps) - window // 2
        heard = np.zeros(window, np.float32)
        part = self._samples[max(0, start) : max(0, start + window)]
        heard[max(0, -start) : max(0, -start) + len(part)] = part
        power = spectra(heard[None])[0]
        level = 10 * np.log10(np.maximum.reduceat(power, self._bins) + 1e-12)
        level = np.clip((level - QUIET) / (LOUD - QUIET), 0, 1)
        self._level = np.maximum(level, self._level - DECAY).astype(np.float32)
        frame[top:bottom, left:right] = rgb(THEME.paper)
        edges = np.linspace(left, right, BANDS + 1).round().astype(int)
        for begin, end, height in zip(edges[:-1], edges[1:], self._level * (bottom - top), strict=True):
            frame[bottom - round(float(height)) : bottom, begin : end - max(1, (end - begin) // 5)] = self._color


def _wave_strip(samples: Floats, edges: NDArray[np.int64], height: int) -> NDArray[np.uint8]:
    """Return the brightness (height, columns) of the envelope; silence is a line in the middle."""
    starts = np.minimum(edges[:-1], len(samples) - 1)
    low, high = np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
    row = 1 - 2 * (np.arange(height) + 0.5)[:, None] / height
    inside = (row <= np.maximum(high, 1.2 / height)) & (row >= np.minimum(low, -1.2 / height))
    return np.where(inside, np.uint8(255), np.uint8(0))


def _spectrogram_strip(samples: Floats, rate: int, edges: NDArray[np.int64], height: int) -> NDArray[np.uint8]:
    """Return the brightness (height, columns) of the spectrogram, highest frequency on top."""
    window = window_length(rate)
    padded = np.pad(samples, (window // 2, window))
    strip = np.empty((height, len(edges) - 1), np.uint8)
    rows = np.linspace(window // 2, 0, height).round().astype(int)
    for first in range(0, len(edges) - 1, 2048):
        starts = edges[first : min(first + 2048, len(edges) - 1)]
        level = 10 * np.log10(spectra(padded[starts[:, None] + np.arange(window)]) + 1e-12)
        level = np.clip((level - QUIET) / (LOUD - QUIET), 0, 1)
        strip[:, first : first + len(starts)] = (255 * level[:, rows].T).astype(np.uint8)
    return strip


def captions(layout: Layout, summary: RunSummary, name: str, color: str, point: TrainPoint, temperature: float) -> Pen:
    """Draw what does not move while a clip plays: names above, labels below."""
    pen = Pen(layout)
    pen.draw.rectangle(layout.box(40, 30, 46, 100), fill=color)
    pen.text(64, 62, name, 34, bold=True)
    pen.text(64, 96, summary.network_size, 20, THEME.faint, room=530)
    pen.text(1240, 62, f"iteration {point.step:,}", 34, bold=True, anchor="rs")
    status = f"loss {point.bits:.2f} {summary.unit} · epoch {point.epoch:.1f} · temperature {temperature:g} · "
    status += f"trained for {duration(point.seconds)}"
    pen.text(1240, 96, status, 20, THEME.faint, anchor="rs", room=620)
    pen.text(40, 696, "line: the sample that is playing", 15, THEME.faint)
    pen.text(1240, 696, f"spectrum up to {summary.rate / 2000:.1f} kHz", 15, THEME.faint, anchor="rs")
    return pen
