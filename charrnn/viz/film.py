"""What the video shows: cards, and clips in which graphs scroll while a sound plays.

Frames are (height, width, 3) bytes.
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
from charrnn.viz.plots import NEAR, SPECTRA, STEPS, THEMES, drawable
from charrnn.viz.run_summary import RunSummary, TrainPoint, facts
from charrnn.viz.sound import Floats, spectra, window_length

Frame = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom

THEME = THEMES["dark"]
STEP = 8  # pixels that the sound moves on in a frame: a whole number, so that it glides
NOW = 1 / 3  # of the panel's width, where the sound is that is heard: most of it is still to come
HERE = 0.72  # of the loss panel's width, where the marker is
CLIP_PIXELS = 240  # of the loss graph for a clip, if that many fit
MOST_PIXELS = 16000  # of the loss graph
LOUD, QUIET = -15.0, -85.0  # dB at the top and bottom of the spectra
BANDS = 40  # of the moving spectrum
SMALLEST = 0.6  # of its size, to which text shrinks before it is cut
MOST_TEXT = 400  # characters to which a text is cut before it is measured
FALL = 0.07  # of its height that a band falls in a frame, at most
SUBDIVISIONS = (1, 1.5, 2, 3, 4, 6, 8)  # multiples of a decade at which the loss graph has ticks


def rgb(color: str) -> NDArray[np.uint8]:
    """A colour's three bytes."""
    return np.array([round(255 * part) for part in to_rgb(color)], np.uint8)


@dataclass(frozen=True)
class Layout:
    """Where things are, for a frame of a size."""

    width: int
    height: int

    @property
    def unit(self) -> float:
        """A pixel of a film that is 720 high."""
        return self.height / 720

    def box(self, left: float, top: float, right: float, bottom: float) -> Box:
        """Of a film of 1280 x 720, in pixels of this one."""
        x, y = self.width / 1280, self.height / 720
        return round(left * x), round(top * y), round(right * x), round(bottom * y)

    @property
    def loss(self) -> Box:
        """The loss graph."""
        return self.box(84, 128, 1240, 372)

    @property
    def wave(self) -> Box:
        """The waveform."""
        return self.box(40, 408, 880, 536)

    @property
    def spectrogram(self) -> Box:
        """The spectrogram, under the waveform."""
        return self.box(40, 544, 880, 676)

    @property
    def spectrum(self) -> Box:
        """The spectrum of the moment."""
        return self.box(912, 408, 1240, 676)

    @property
    def progress(self) -> Box:
        """How far the film is."""
        return self.box(0, 712, 1280, 720)


class Pen:
    """Writes and draws on an image."""

    def __init__(self, layout: Layout, image: Frame | None = None) -> None:
        size = (layout.width, layout.height)
        self.image = Image.new("RGB", size, THEME.paper) if image is None else Image.fromarray(image)
        self.draw = ImageDraw.Draw(self.image)
        self._layout = layout

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float,
        color: str = THEME.ink,
        bold: bool = False,
        anchor: str = "ls",
        room: float = 1280,
    ) -> None:
        """Write from a place of a film of 1280 x 720 on; smaller, or cut, where it has no room."""
        words = drawable(printable(words, MOST_TEXT))
        left, top, most, _ = self._layout.box(x, y, room, 0)
        width = self._layout.width
        most = min(most, round(0.97 * {"l": width - left, "r": left, "m": 2 * min(left, width - left)}[anchor[0]]))
        size *= self._layout.unit
        font = _font(size, bold)
        if (length := font.getlength(words)) > most:
            font = _font(size * max(SMALLEST, most / length), bold)
        while len(words) > 1 and font.getlength(words) > most:
            words = words[:-2] + "…"
        self.draw.text((left, top), words, fill=color, font=font, anchor=anchor)

    def frame(self) -> Frame:
        """What was drawn."""
        return np.array(self.image)


def _font(size: float, bold: bool) -> ImageFont.FreeTypeFont:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"DejaVuSans{'-Bold' if bold else ''}.ttf"), max(6.0, size))


def title_card(layout: Layout, title: str, words: Sequence[str]) -> Frame:
    """The first picture."""
    pen = Pen(layout)
    pen.text(640, 330, title, 64, bold=True, anchor="ms")
    pen.draw.rectangle(layout.box(580, 362, 700, 367), fill=THEME.colors[0])
    for number, line in enumerate(words):
        pen.text(640, 424 + 40 * number, line, 26, THEME.faint, anchor="ms")
    return pen.frame()


def run_card(layout: Layout, story: RunSummary, name: str, color: str, place: str) -> Frame:
    """The settings of a run."""
    pen = Pen(layout)
    pen.draw.rectangle(layout.box(100, 96, 108, 190), fill=color)
    pen.text(132, 124, place, 22, THEME.faint)
    pen.text(132, 182, name, 54, bold=True)
    rows = list(facts(story).items())
    step = min(40.0, 460 / max(1, len(rows)))
    for number, (what, words) in enumerate(rows):
        pen.text(132, 256 + step * number, what, 0.6 * step, THEME.faint)
        pen.text(500, 256 + step * number, words, 0.6 * step)
    return pen.frame()


def end_card(layout: Layout, stories: Sequence[RunSummary], names: Sequence[str], colors: Sequence[str]) -> Frame:
    """The last picture: how far each came."""
    pen = Pen(layout)
    pen.text(640, 130, "How far they came" if len(stories) > 1 else "How far it came", 46, bold=True, anchor="ms")
    step = min(120.0, 440 / len(stories))
    begin = 400 - step * (len(stories) - 1) / 2
    for number, (story, name, color) in enumerate(zip(stories, names, colors, strict=True)):
        y, best, last = begin + step * number, story.best(), story.at(int(story.train.x[-1]))
        bits = last.train_bits if best is None or best.val_bits is None else best.val_bits
        words = f"{bits:.2f} {story.unit}" + (f", where FLAC takes {story.flac:.2f}" if story.flac else "")
        pen.draw.rectangle(layout.box(150, y - 0.3 * step, 158, y + 0.36 * step), fill=color)
        pen.text(182, y, name, 0.28 * step, bold=True)
        pen.text(560, y, words, 0.25 * step)
        pen.text(560, y + 0.32 * step, f"{story.network}, trained {duration(last.seconds)}", 0.2 * step, THEME.faint)
    pen.text(640, 686, "made with charrnn-sound", 20, THEME.faint, anchor="ms")
    return pen.frame()


class LossGraph:
    """The whole loss graph of a run, far wider than its panel, which shows the part around a moment."""

    def __init__(self, layout: Layout, story: RunSummary, color: str, steps: Sequence[int]) -> None:
        left, top, right, bottom = layout.loss
        self._box, self._width = layout.loss, right - left
        pixels = min(MOST_PIXELS, max(self._width, round(CLIP_PIXELS * layout.unit * len(steps))))
        last = max(float(story.train.x[-1]), 1.0)
        self._scale = pixels / last
        values = np.concatenate((story.train.y, story.val.y, [story.flac] if story.flac else []))
        values = values[values > 0]  # the axis is logarithmic
        values = values if len(values) else np.ones(1)
        self.low, self.high = 0.9 * float(values.min()), 1.1 * float(values.max())
        size, limits = (pixels, bottom - top), (0.0, last, self.low, self.high)
        self._bright, paper = _draw_losses(story, color, steps, size, limits, layout.unit), rgb(THEME.paper)
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

    def labels(self, pen: Pen, layout: Layout, story: RunSummary) -> None:
        """Draw the fixed labels beside the panel."""
        _, top, _, bottom = self._box
        for tick in ticks(self.low, self.high):
            y = bottom - (bottom - top) * np.log(tick / self.low) / np.log(self.high / self.low)
            pen.text(76, y / layout.height * 720, f"{tick:g}", 15, THEME.faint, anchor="rm")
        flac = f"; dotted: FLAC, {story.flac:.2f}" if story.flac else ""
        pen.text(40, 392, f"loss, {story.unit}{flac}", 15, THEME.faint)


def ticks(low: float, high: float) -> list[float]:
    """Return round values between two limits of a logarithmic axis, equally spaced if these are close."""
    if high < NEAR * low:
        found = list(MaxNLocator(6, steps=STEPS).tick_values(low, high))
    else:
        parts = SUBDIVISIONS if high < 100 * low else SUBDIVISIONS[:1]
        found = [part * 10.0**power for power in range(-12, 4) for part in parts]
    return [tick for tick in found if low < tick < high]


def _draw_losses(
    story: RunSummary, color: str, steps: Sequence[int], size: tuple[int, int], limits: tuple[float, ...], unit: float
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
    if story.flac:
        axes.axhline(story.flac, color=THEME.ink, linewidth=1.2 * unit, linestyle=":")
    edges = np.linspace(limits[0], limits[1], width + 1)
    middle, low, high = spread(story.train, edges)
    axes.fill_between(middle, low, high, color=color, alpha=0.35, linewidth=0.5 * unit, antialiased=False)
    at = thinned(story.train, edges)
    line = rolling(story.train, at, max(1, len(story.train) // 100))
    axes.plot(story.train.x[at], line, color=color, linewidth=1.8 * unit)
    axes.plot(story.val.x, story.val.y, color=THEME.ink, linewidth=1.2 * unit, linestyle=(0, (5, 3)))
    heard = np.isin(story.val.x, steps)
    axes.plot(story.val.x[heard], story.val.y[heard], "o", color=THEME.ink, markersize=6 * unit)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


class SoundPanel:
    """Waveform and spectrogram that glide past, and the spectrum of the moment, for a sound of any number of clips."""

    def __init__(
        self, layout: Layout, samples: Floats, rate: int, fps: int, color: str, begins: Sequence[int] = ()
    ) -> None:
        self._layout, self._samples, self._rate, self._fps = layout, samples, rate, fps
        self._level = np.zeros(BANDS, np.float32)
        left, top, right, bottom = layout.wave
        self._now = round(NOW * (right - left))
        count = -(-len(samples) * fps * STEP // rate)  # columns
        edges = (np.arange(count + 1) * rate / (fps * STEP)).astype(np.int64).clip(0, len(samples))
        margins = (self._now, right - left - self._now)
        wave = _wave_strip(samples / max(float(np.abs(samples).max()), 1e-3), edges, bottom - top)
        for frame in begins:  # where a clip begins
            wave[:, frame * STEP : frame * STEP + 2] = np.maximum(wave[:, frame * STEP : frame * STEP + 2], 70)
        self._wave = np.pad(wave, ((0, 0), margins))
        height = layout.spectrogram[3] - layout.spectrogram[1]
        self._spectrogram = np.pad(_spectrogram_strip(samples, rate, edges, height), ((0, 0), margins))
        ramp = np.linspace(0, 1, 256)[:, None]
        self._wave_colors = ((1 - ramp) * rgb(THEME.paper) + ramp * rgb(color)).astype(np.uint8)
        heat = (colormaps[SPECTRA](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
        self._heat = np.maximum(heat, rgb(THEME.paper))
        self._color = rgb(color)
        half = window_length(rate) // 2
        self._bins = np.geomspace(2, half, BANDS + 1).astype(np.int64)[:-1]  # where each band begins

    def show(self, frame: Frame, number: int) -> None:
        """Draw the moment of a frame, counted from the beginning of the sound."""
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
        self._level = np.maximum(level, self._level - FALL).astype(np.float32)
        frame[top:bottom, left:right] = rgb(THEME.paper)
        edges = np.linspace(left, right, BANDS + 1).round().astype(int)
        for begin, end, height in zip(edges[:-1], edges[1:], self._level * (bottom - top), strict=True):
            frame[bottom - round(float(height)) : bottom, begin : end - max(1, (end - begin) // 5)] = self._color


def _wave_strip(samples: Floats, edges: NDArray[np.int64], height: int) -> NDArray[np.uint8]:
    """Brightness (height, columns) of the envelope; the middle is never dark, so that silence is a line."""
    starts = np.minimum(edges[:-1], len(samples) - 1)
    low, high = np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
    row = 1 - 2 * (np.arange(height) + 0.5)[:, None] / height
    inside = (row <= np.maximum(high, 1.2 / height)) & (row >= np.minimum(low, -1.2 / height))
    return np.where(inside, np.uint8(255), np.uint8(0))


def _spectrogram_strip(samples: Floats, rate: int, edges: NDArray[np.int64], height: int) -> NDArray[np.uint8]:
    """Brightness (height, columns), highest frequency on top."""
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


def captions(layout: Layout, story: RunSummary, name: str, color: str, moment: TrainPoint, temperature: float) -> Pen:
    """What stands still while a clip plays: names above, labels below."""
    pen = Pen(layout)
    pen.draw.rectangle(layout.box(40, 30, 46, 100), fill=color)
    pen.text(64, 62, name, 34, bold=True)
    sizes = story.network + (f", {story.parameters:,} parameters" if story.parameters else "")
    pen.text(64, 96, sizes, 20, THEME.faint, room=530)
    pen.text(1240, 62, f"iteration {moment.step:,}", 34, bold=True, anchor="rs")
    bits = moment.train_bits if moment.val_bits is None else moment.val_bits
    words = f"loss {bits:.2f} {story.unit} · epoch {moment.epoch:.1f} · temperature {temperature:g} · "
    words += f"trained {duration(moment.seconds)}"
    pen.text(1240, 96, words, 20, THEME.faint, anchor="rs", room=620)
    pen.text(40, 696, "to the right of the line: what is to come", 15, THEME.faint)
    pen.text(1240, 696, f"spectrum, to {story.rate / 2000:.1f} kHz", 15, THEME.faint, anchor="rs")
    return pen
