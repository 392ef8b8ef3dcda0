"""The report: runs in one HTML file that opens from disk, with curves to zoom, and every checkpoint to hear."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from plotly.offline import get_plotlyjs

from bytecodec import __version__
from bytecodec.console import duration
from charrnn.viz.curves import BITS, Curve, loss_unit, rolling, spread
from charrnn.viz.plots import SPECTRA, THEMES
from charrnn.viz.run_summary import RunSummary, Sample, distinguish, facts
from charrnn.viz.sound import Floats, SoundPicture, picture, read_sound

WIDTH = 420  # columns of a sound's pictures
BINS = 96  # rows of a spectrogram
LOUD, QUIET = -20.0, -90.0  # dB that are white and black: the same for all, so that they compare
POINTS = 3000  # of a curve, at most about twice as many
MOST_FLAC = 14_000_000  # samples that are kept exact, of a byte each at worst; more are taken as Vorbis
ORIGINAL_SECONDS = 5.0  # of what it was trained on, where no sample says how long they are
DIGITS = 7  # significant digits of the curves' numbers


@dataclass(frozen=True)
class Player:
    """A sound of the page.

    Attributes
    ----------
    label
        What a screen reader says of it.
    audio, spectrogram
        data: addresses.
    wave
        The d of an SVG path, WIDTH wide and 2 high.
    """

    label: str
    title: str
    words: str
    audio: str
    spectrogram: str
    wave: str
    seconds: float


def make(
    stories: Sequence[RunSummary], samples: Sequence[Sequence[Sample]], done: Callable[[int], object] = lambda _: None
) -> str:
    """The page for runs and, for each, the samples that go in.

    Parameters
    ----------
    done
        Is called with 1 for each sample.

    Raises
    ------
    InputError
        A sample is no recording.
    """
    names = distinguish([story.name for story in stories], [story.run.path for story in stories])
    coder = _Coder([sample for some in samples for sample in some])
    runs = []
    for number, (story, name, some) in enumerate(zip(stories, names, samples, strict=True)):
        players: dict[int, list[Player]] = {}
        for sample in some:
            players.setdefault(sample.step, []).append(_player(story, name, sample, coder))
            done(1)
        runs.append(
            {
                "name": name,
                "color": number % len(THEMES["light"].colors),
                "facts": facts(story),
                "players": players,
                "result": _result(story),
                "validations": _validations(story),
            }
        )
    curves = [_curves(story, name) for story, name in zip(stories, names, strict=True)]
    return _page(runs, _originals(stories, coder), curves, names)


def _page(
    runs: Sequence[dict[str, Any]], originals: Sequence[Player], curves: Sequence[Any], names: Sequence[str]
) -> str:
    steps = sorted({step for run in runs for step in run["players"]})
    environment = Environment(
        loader=PackageLoader("charrnn.viz"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    source = environment.loader
    assert source is not None
    style, script = (source.get_source(environment, f"report.{kind}")[0] for kind in ("css", "js"))
    return environment.get_template("report.html").render(
        runs=runs,
        steps=steps,
        originals=originals,
        names=names,
        curves=curves,
        units={kind: _joined([curve[f"{kind}_unit"] for curve in curves]) for kind in ("bits", "loss")},
        themes={name: theme.colors for name, theme in THEMES.items()},
        style=Markup(style),
        script=Markup(script),
        plotly=Markup(get_plotlyjs()),
        width=WIDTH,
        bins=BINS,
        version=__version__,
        row_names=list(dict.fromkeys(name for run in runs for name in run["facts"])),
        count=sum(len(players) for run in runs for players in run["players"].values()),
    )


def _result(story: RunSummary) -> dict[str, str]:
    """The best validation beside FLAC's, in words."""
    best = story.best()
    network = f"{story.network}{f', {story.parameters:,} parameters' if story.parameters else ''}, on {story.inputs}"
    if best is None or best.val_bits is None:
        last = story.at(int(story.train.x[-1]))
        words = f"training loss at iteration {last.step:,}"
        return {"bits": f"{last.train_bits:.2f}", "unit": story.unit, "words": words, "network": network}
    words = f"best validation, at iteration {best.step:,}"
    found = {"bits": f"{best.val_bits:.2f}", "unit": story.unit, "words": words, "network": network}
    if story.flac:
        percent = 100 * (1 - best.val_bits / story.flac)
        found["flac"] = f"FLAC takes {story.flac:.2f}: {abs(percent):.0f} % {'fewer' if percent >= 0 else 'more'} here"
    return found


def _validations(story: RunSummary) -> list[tuple[str, ...]]:
    """A row for each validation, for those who read tables rather than curves."""
    moments = [story.at(int(step)) for step in story.val.x]
    return [
        (f"{m.step:,}", f"{m.epoch:.2f}", duration(m.seconds), f"{m.train_bits:.3f}", f"{m.val_bits:.3f}")
        for m in moments
    ]


def _player(story: RunSummary, name: str, sample: Sample, coder: _Coder) -> Player:
    samples, rate = read_sound(sample.path)
    moment = story.at(sample.step)
    loss = moment.train_bits if moment.val_bits is None else moment.val_bits
    words = f"{loss:.2f} {story.unit}{'' if moment.val_bits is not None else ' in training'}"
    words += f" (FLAC {story.flac:.2f})" if story.flac else ""
    words += f", epoch {moment.epoch:.1f}, trained {duration(moment.seconds)}"
    title = f"Iteration {sample.step:,}, temperature {sample.temperature:g}"
    return _sound(f"{name}: {title}", title, words, samples, rate, coder)


def _originals(stories: Sequence[RunSummary], coder: _Coder) -> list[Player]:
    """What the runs were trained on, once each."""
    found: dict[str, Player] = {}
    seconds = max(coder.seconds.values(), default=ORIGINAL_SECONDS)
    for story in stories:
        config = story.config
        names = ("kind", "inputs", "symbols", "rate", "encoding", "sound", "val_frac")
        key = json.dumps([config.get(name) for name in names])
        if key in found:
            continue
        if (original := story.original(seconds)) is not None:
            part, place = original
            title = f"The original: {story.inputs}"
            seen = "16-bit samples" if story.is_frames else "bytes"
            words = f"{len(part) / story.rate:.1f} s of it, from {place:.1f} s on, in the {seen} that the network sees"
            found[key] = _sound(title, title, words, part, story.rate, coder)
    return list(found.values())


def _sound(label: str, title: str, words: str, samples: Floats, rate: int, coder: _Coder) -> Player:
    seen = picture(samples, rate, WIDTH)
    audio = _address(*coder.encode(samples, rate))
    return Player(label, title, words, audio, _spectrogram(seen), _wave(seen), len(samples) / rate)


class _Coder:
    """Compresses sound: FLAC, which is exact, or Vorbis where the page would grow too large."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        import soundfile

        self.seconds, size = {}, 0
        for sample in samples:
            try:
                with sample.path.open("rb") as file:  # soundfile accepts only names that are UTF-8
                    info = soundfile.info(file)
            except (soundfile.LibsndfileError, TypeError):  # read_sound raises the message for it
                continue
            self.seconds[sample.path] = info.frames / info.samplerate
            size += info.frames
        self._kind = ("FLAC", "PCM_16", "audio/flac") if size < MOST_FLAC else ("OGG", "VORBIS", "audio/ogg")

    def encode(self, samples: Floats, rate: int) -> tuple[bytes, str]:
        """The bytes of samples (n,), and their kind. 8-bit sound comes out of FLAC as it went in."""
        import soundfile

        container, coding, kind = self._kind
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format=container, subtype=coding)
        return file.getvalue(), kind


def _spectrogram(seen: SoundPicture) -> str:
    """As WebP, highest frequency on top."""
    levels = np.clip((seen.decibels - QUIET) / (LOUD - QUIET), 0, 1)
    colors = (colormaps[SPECTRA](levels[::-1])[..., :3] * 255).astype(np.uint8)
    image = Image.fromarray(colors).resize((WIDTH, BINS), Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=60)
    return _address(file.getvalue(), "image/webp")


def _wave(seen: SoundPicture) -> str:
    """The envelope as a closed path, silence in its middle."""
    at = np.linspace(0, WIDTH, len(seen.low)) if len(seen.low) > 1 else np.array([WIDTH / 2])
    above = [f"{x:.0f} {1 - y:.3g}" for x, y in zip(at, np.maximum(seen.high, seen.low + 0.012), strict=True)]
    below = [f"{x:.0f} {1 - y:.3g}" for x, y in zip(at[::-1], seen.low[::-1], strict=True)]
    return "M" + "L".join(above + below) + "Z"


def _address(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _curves(story: RunSummary, name: str) -> dict[str, Any]:
    """Return the curves of a run, in bits and as they were trained, with enough points to zoom in."""
    rows, bits = _levels(story.train)
    _, loss = _levels(story.train_loss)
    loss["flac"] = None if story.flac is None or story.is_frames else story.flac / BITS
    return {
        "name": name,
        "iteration": story.train.x[rows].astype(int).tolist(),
        "time": _short(story.time[rows]),
        **bits,
        "loss": loss,
        "val": {
            "iteration": story.val.x.astype(int).tolist(),
            "time": _short(np.array([story.at(int(step)).seconds for step in story.val.x])),
            "bits": _short(story.val.y),
            "loss": _short(story.val_loss.y),
        },
        "flac": story.flac,
        "bits_unit": loss_unit(story.config, "bits"),
        "loss_unit": loss_unit(story.config, "nats"),
    }


def _levels(train: Curve) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Return the rows of a curve to draw on a linear and a logarithmic axis, and its spread and mean there.

    The rows depend on x alone.
    """
    rows = np.arange(len(train))
    low = high = train.y
    if len(train) > 2 * POINTS:
        first, last = max(1.0, train.x[0]), train.x[-1]
        edges = np.unique(np.concatenate((np.linspace(train.x[0], last, POINTS), np.geomspace(first, last, POINTS))))
        middle, low, high = spread(train, edges)
        rows = np.searchsorted(train.x, middle).clip(0, len(train) - 1)
    mean = rolling(train, rows, max(1, len(train) // 100))
    return rows, {"low": _short(low), "high": _short(high), "mean": _short(mean)}


def _joined(units: Sequence[str]) -> str:
    """Return the different units, joined for a label."""
    return " or ".join(dict.fromkeys(units))


def _short(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
