"""Frames of the video: title cards, and graphs that scroll while a sound plays.

Frames are (height, width, 3) bytes. Positions in the drawing functions are pixels of a video of 1280 x 720.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from charrnn.viz.curves import rolling, spread, thin_curve
from charrnn.viz.plots import COLORMAP, LINEAR_RATIO, THEMES, TICK_STEPS, escape_missing_glyphs, font_file
from charrnn.viz.sound import Floats, brightness, decibels, spectra, window_length
from charrnn.viz.video_clips import Clip, Part

Frame = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom

THEME = THEMES["dark"]
STEP = 8  # pixels per frame by which the sound moves; a whole number, so that the motion is smooth
SAMPLE_POSITION = 1 / 3  # position of the current sample, as a fraction of the panel's width
ITERATION_POSITION = 0.72  # position of the current iteration, as a fraction of the loss panel's width
CLIP_PIXELS = 240  # width of the loss graph per clip, within `MAX_PIXELS`
MAX_PIXELS = 16000  # width of the loss graph
LOUD, QUIET = -15.0, -85.0  # dB at the top and bottom of the spectra
BLOCK = 2048  # columns of the spectrogram that are computed at once
FAINT = 70  # brightness of the line at the start of a clip
BANDS = 40  # of the current spectrum
MIN_TEXT_SCALE = 0.6  # of its size, to which text shrinks before it is shortened
MAX_TEXT = 400  # characters of a text that are measured
DECAY = 0.07  # of the height, by which a band falls per frame at most
SUBDIVISIONS = (1, 1.5, 2, 3, 4, 6, 8)  # multiples of a decade at which the loss graph has ticks


def rgb(color: str) -> NDArray[np.uint8]:
    """Return the three bytes of a colour."""
    return np.array([round(255 * part) for part in to_rgb(color)], np.uint8)


class Layout:
    """Positions of the panels in a frame of the given size.

    Attributes
    ----------
    unit
        Size of a pixel of a video that is 720 high.
    loss, wave, spectrogram, spectrum, progress
        Boxes of the loss graph, of the waveform above its spectrogram, of the current spectrum on the right, and of the
        progress bar.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height, self.unit = width, height, height / 720
        self.loss = self.box(84, 128, 1240, 372)
        self.wave = self.box(40, 408, 880, 536)
        self.spectrogram = self.box(40, 544, 880, 676)
        self.spectrum = self.box(912, 408, 1240, 676)
        self.progress = self.box(0, 712, 1280, 720)

    def box(self, left: float, top: float, right: float, bottom: float) -> Box:
        """Convert a box from pixels of a 1280 x 720 video to pixels of this one."""
        x, y = self.width / 1280, self.height / 720
        return round(left * x), round(top * y), round(right * x), round(bottom * y)


class Pen:
    """Drawing functions on an image."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._image = Image.new("RGB", (layout.width, layout.height), THEME.paper)
        self._draw = ImageDraw.Draw(self._image)

    def bar(self, left: float, top: float, right: float, bottom: float, color: str) -> None:
        """Fill a rectangle."""
        self._draw.rectangle(self.layout.box(left, top, right, bottom), fill=color)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        color: str = THEME.faint,
        bold: bool = False,
        anchor: str = "ls",
        room: float = 1280,
    ) -> None:
        """Write text at a position; reduce or shorten it if it does not fit."""
        text = escape_missing_glyphs(printable(text, MAX_TEXT))
        left, top, limit, _ = self.layout.box(x, y, room, 0)
        right = self.layout.width - left
        limit = min(limit, round(0.97 * {"l": right, "r": left, "m": 2 * min(left, right)}[anchor[0]]))
        size *= self.layout.unit
        font = _font(size, bold)
        if (length := font.getlength(text)) > limit:
            font = _font(size * max(MIN_TEXT_SCALE, limit / length), bold)
        while len(text) > 1 and font.getlength(text) > limit:
            text = text[:-2] + "…"
        self._draw.text((left, top), text, fill=color, font=font, anchor=anchor)

    def title(self, x: float, y: float, text: str, size: float, anchor: str = "ls") -> None:
        """Write bold text in the colour of ink."""
        self.text(x, y, text, size, THEME.ink, bold=True, anchor=anchor)

    def frame(self) -> Frame:
        """Return the image as a frame."""
        return np.array(self._image)


def _font(size: float, bold: bool) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_file(f"DejaVuSans{'-Bold' if bold else ''}.ttf"), max(6.0, size))


def title_card(layout: Layout, title: str, lines: Sequence[str]) -> Frame:
    """Return the first frame."""
    pen = Pen(layout)
    pen.title(640, 330, title, 64, anchor="ms")
    pen.bar(580, 362, 700, 367, THEME.colors[0])
    for number, line in enumerate(lines):
        pen.text(640, 424 + 40 * number, line, 26, anchor="ms")
    return pen.frame()


def run_card(layout: Layout, part: Part, heading: str) -> Frame:
    """Return a frame with the settings of a run."""
    pen = Pen(layout)
    pen.bar(100, 96, 108, 190, part.color)
    pen.text(132, 124, heading, 22)
    pen.title(132, 182, part.name, 54)
    rows = part.summary.settings()
    step = min(40.0, 460 / len(rows))
    for number, (setting, value) in enumerate(rows.items()):
        pen.text(132, 256 + step * number, setting, 0.6 * step)
        pen.text(500, 256 + step * number, value, 0.6 * step, THEME.ink)
    return pen.frame()


def end_card(layout: Layout, parts: Sequence[Part]) -> Frame:
    """Return the last frame: the result of each run."""
    pen = Pen(layout)
    pen.title(640, 130, f"Result{'s' * (len(parts) > 1)}", 46, anchor="ms")
    step = min(120.0, 440 / len(parts))
    y = 400 - step * (len(parts) - 1) / 2
    for part in parts:
        summary, last = part.summary, part.summary.last()
        flac = f" (FLAC {summary.flac:.2f})" if summary.flac else ""
        pen.bar(150, y - 0.3 * step, 158, y + 0.36 * step, part.color)
        pen.title(182, y, part.name, 0.28 * step)
        pen.text(560, y, f"{(summary.best() or last).bits:.2f} {summary.unit}{flac}", 0.25 * step, THEME.ink)
        pen.text(560, y + 0.32 * step, f"{summary.network}, trained for {duration(last.seconds)}", 0.2 * step)
        y += step
    pen.text(640, 686, "made with charrnn-sound", 20, anchor="ms")
    return pen.frame()


def captions(layout: Layout, part: Part, clip: Clip) -> Pen:
    """Draw the static texts of a clip: names above, labels below."""
    pen, summary, point = Pen(layout), part.summary, clip.point
    pen.bar(40, 30, 46, 100, part.color)
    pen.title(64, 62, part.name, 34)
    pen.text(64, 96, summary.network_size, 20, room=530)
    pen.title(1240, 62, f"iteration {point.step:,}", 34, anchor="rs")
    status = (
        f"loss {point.bits:.2f} {summary.unit}",
        f"epoch {point.epoch:.1f}",
        f"temperature {clip.sample.temperature:g}",
        f"trained for {duration(point.seconds)}",
    )
    pen.text(1240, 96, " · ".join(status), 20, anchor="rs", room=620)
    pen.text(40, 696, "line: the sample that is playing", 15)
    pen.text(1240, 696, f"spectrum up to {summary.rate / 2000:.1f} kHz", 15, anchor="rs")
    return pen


class LossGraph:
    """Loss graph of a run, wider than its panel, which shows the part around an iteration."""

    def __init__(self, layout: Layout, part: Part) -> None:
        left, _, right, _ = self._box = layout.loss
        summary, steps = part.summary, {clip.sample.step for clip in part.clips}
        self._summary, self._width = summary, right - left
        self._pixels = min(MAX_PIXELS, max(self._width, round(CLIP_PIXELS * layout.unit * len(steps))))
        self._last = max(float(summary.train.x[-1]), 1.0)
        values = np.concatenate((summary.train.y, summary.val.y, [summary.flac or 0]))
        values = values[values > 0]  # the axis is logarithmic
        values = values if len(values) else np.ones(1)
        self.low, self.high = 0.9 * float(values.min()), 1.1 * float(values.max())
        self._bright = self._draw(part.color, sorted(steps), layout.unit)
        self._dim = ((self._bright.astype(np.uint16) + 2 * rgb(THEME.paper).astype(np.uint16)) // 3).astype(np.uint8)

    def _draw(self, color: str, steps: Sequence[int], unit: float) -> Frame:
        _, top, _, bottom = self._box
        summary, train, val = self._summary, self._summary.train, self._summary.val
        figure = Figure(figsize=(self._pixels / 100, (bottom - top) / 100), dpi=100)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1), yscale="log", xlim=(0, self._last), ylim=(self.low, self.high))
        axes.set_axis_off()
        figure.set_facecolor(THEME.paper)
        for tick in ticks(self.low, self.high):
            axes.axhline(tick, color=THEME.grid, linewidth=0.8 * unit)
        if summary.flac:
            axes.axhline(summary.flac, color=THEME.ink, linewidth=1.2 * unit, linestyle=":")
        edges = np.linspace(0, self._last, self._pixels + 1)
        middle, low, high = spread(train, edges)
        axes.fill_between(middle, low, high, color=color, alpha=0.35, linewidth=0.5 * unit, antialiased=False)
        at = thin_curve(train, edges)
        axes.plot(train.x[at], rolling(train, at, max(1, len(train) // 100)), color=color, linewidth=1.8 * unit)
        axes.plot(val.x, val.y, color=THEME.ink, linewidth=1.2 * unit, linestyle=(0, (5, 3)))
        is_played = np.isin(val.x, steps)
        axes.plot(val.x[is_played], val.y[is_played], "o", color=THEME.ink, markersize=6 * unit)
        canvas.draw()  # type: ignore[no-untyped-call]
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]

    def show(self, frame: Frame, step: float) -> None:
        """Draw the part around an iteration, bright up to it and dim beyond, and a marker."""
        left, top, right, bottom = self._box
        position = round(step * self._pixels / self._last)
        at = max(0, min(position - round(ITERATION_POSITION * self._width), self._pixels - self._width))
        here = max(1, min(position - at, self._width - 1))
        frame[top:bottom, left : left + here] = self._bright[:, at : at + here]
        frame[top:bottom, left + here : right] = self._dim[:, at + here : at + self._width]
        frame[top:bottom, left + here - 1 : left + here + 1] = rgb(THEME.ink)

    def labels(self, pen: Pen) -> None:
        """Draw the fixed labels around the panel."""
        _, top, _, bottom = self._box
        for tick in ticks(self.low, self.high):
            y = bottom - (bottom - top) * np.log(tick / self.low) / np.log(self.high / self.low)
            pen.text(76, y / pen.layout.unit, f"{tick:g}", 15, anchor="rm")
        flac = f"; dotted: FLAC, {self._summary.flac:.2f}" if self._summary.flac else ""
        pen.text(40, 392, f"loss, {self._summary.unit}{flac}", 15)


def ticks(low: float, high: float) -> list[float]:
    """Return round values between two limits of a logarithmic axis, equally spaced if these are close."""
    if high < LINEAR_RATIO * low:
        found = list(MaxNLocator(6, steps=TICK_STEPS).tick_values(low, high))
    else:
        parts = SUBDIVISIONS if high < 100 * low else SUBDIVISIONS[:1]
        found = [part * 10.0**power for power in range(-12, 4) for part in parts]
    return [tick for tick in found if low < tick < high]


class SoundPanel:
    """Scrolling waveform and spectrogram, and current spectrum, of the sound of several clips."""

    def __init__(self, layout: Layout, part: Part, fps: int) -> None:
        samples, rate = part.sound, part.rate
        self._layout, self._samples, self._rate, self._fps = layout, samples, rate, fps
        self._color, self._level = rgb(part.color), np.zeros(BANDS, np.float32)
        left, top, right, bottom = layout.wave
        self._sample_x = round(SAMPLE_POSITION * (right - left))
        columns = -(-len(samples) * fps * STEP // rate)
        edges = (np.arange(columns + 1) * rate / (fps * STEP)).astype(np.int64).clip(0, len(samples))
        wave = _wave_strip(samples / max(float(np.abs(samples).max()), 1e-3), edges, bottom - top)
        for clip in part.clips:
            line = wave[:, clip.first * STEP : clip.first * STEP + 2]
            np.maximum(line, FAINT, out=line)
        _, top, _, bottom = layout.spectrogram
        ramp = np.linspace(0, 1, 256)[:, None]
        wave_colors = ((1 - ramp) * rgb(THEME.paper) + ramp * self._color).astype(np.uint8)
        heat = (colormaps[COLORMAP](ramp[:, 0])[:, :3] * 255).astype(np.uint8)
        margins = ((0, 0), (self._sample_x, right - left - self._sample_x))
        self._strips = (
            (layout.wave, np.pad(wave, margins), wave_colors),
            (
                layout.spectrogram,
                np.pad(_spectrogram_strip(samples, rate, edges, bottom - top), margins),
                np.maximum(heat, rgb(THEME.paper)),
            ),
        )
        half = window_length(rate) // 2
        self._bins = np.geomspace(2, half, BANDS + 1).astype(np.int64)[:-1]  # lowest bin of each band

    def show(self, frame: Frame, number: int) -> None:
        """Draw a frame, counted from the beginning of the sound."""
        at = number * STEP
        for (left, top, right, bottom), strip, colors in self._strips:
            part = strip[:, at : at + right - left]
            np.take(colors, part, axis=0, out=frame[top:bottom, left : left + part.shape[1]], mode="clip")
            frame[top:bottom, left + self._sample_x - 1 : left + self._sample_x + 1] = rgb(THEME.ink)
        self._show_spectrum(frame, number)

    def _show_spectrum(self, frame: Frame, number: int) -> None:
        left, top, right, bottom = self._layout.spectrum
        window = window_length(self._rate)
        start = round(number * self._rate / self._fps) - window // 2
        part = self._samples[max(0, start) : max(0, start + window)]
        before = max(0, -start)
        power = spectra(np.pad(part, (before, window - before - len(part)))[None])[0]
        level = brightness(decibels(np.maximum.reduceat(power, self._bins)), QUIET, LOUD)
        self._level = np.maximum(level, self._level - DECAY)
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
    rows = np.linspace(window // 2, 0, height).round().astype(int)
    strips = []
    for first in range(0, len(edges) - 1, BLOCK):
        starts = edges[first : min(first + BLOCK, len(edges) - 1)]
        levels = decibels(spectra(padded[starts[:, None] + np.arange(window)]))
        strips.append((255 * brightness(levels, QUIET, LOUD)[:, rows].T).astype(np.uint8))
    return np.hstack(strips)
