"""Report on runs: one self-contained HTML file with zoomable curves and players for every checkpoint."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib import colormaps
from PIL import Image
from plotly.offline import get_plotlyjs

from bytecodec import __version__
from bytecodec.console import duration
from charrnn.viz import free_running
from charrnn.viz.curves import OnMessage, OnProgress, ignore, reduce_curve, round_to_digits
from charrnn.viz.plots import COLORMAP, THEMES
from charrnn.viz.run_summary import RunSummary, Sample, names_of
from charrnn.viz.sound import Floats, SoundPicture, brightness, picture_of_samples, read_sound

WIDTH = 420  # columns of a sound's pictures
BINS = 96  # rows of a spectrogram
LOUD, QUIET = -20.0, -90.0  # dB shown as white and black, the same in all pictures for comparison
POINTS = 3000  # per curve and axis scale; a curve has at most about twice as many
MAX_FLAC = 14_000_000  # samples in FLAC, at most one byte each; a larger report uses Vorbis
ORIGINAL_SECONDS = 5.0  # of the training data, if there is no sample of which to use the length
DIGITS = 7  # significant digits of the curves' numbers


Player = dict[str, Any]  # variables of the template's macro "player", see `_sound`


def make(
    summaries: Sequence[RunSummary],
    samples: Sequence[Sequence[Sample]],
    on_progress: OnProgress = ignore,
    on_message: OnMessage = ignore,
) -> str:
    """Return the page for runs, with the given samples of each, or raise InputError if one is not a recording.

    ``on_progress`` is called with 1 for each sample, ``on_message`` with a message about each file that is left out.
    """
    names = names_of(summaries)
    coder = _Coder([sample for some in samples for sample in some])
    runs: list[dict[str, Any]] = []
    for number, (summary, name, some) in enumerate(zip(summaries, names, samples, strict=True)):
        players: dict[int, list[Player]] = {}
        for sample in some:
            players.setdefault(sample.step, []).append(_player(summary, name, sample, coder))
            on_progress(1)
        runs.append(
            {
                "name": name,
                "color": number % len(THEMES["light"].colors),
                "settings": summary.settings(),
                "players": players,
                "result": _result(summary),
                "validations": _validations(summary),
                "free_running": _free_running(summary, on_message),
            }
        )
    loader = PackageLoader("charrnn.viz")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style, script = (loader.get_source(environment, f"report.{kind}")[0] for kind in ("css", "js"))
    curves = [_curves(summary, name) for summary, name in zip(summaries, names, strict=True)]
    return environment.get_template("report.html").render(
        runs=runs,
        steps=sorted({step for run in runs for step in run["players"]}),
        originals=_originals(summaries, coder),
        names=names,
        curves=curves,
        units={kind: " or ".join(dict.fromkeys(one[f"{kind}_unit"] for one in curves)) for kind in ("bits", "loss")},
        themes={name: theme.colors for name, theme in THEMES.items()},
        style=Markup(style),
        script=Markup(script),
        plotly=Markup(get_plotlyjs()),
        width=WIDTH,
        bins=BINS,
        version=__version__,
        free_running_header=free_running.HEADER,
        row_names=list(dict.fromkeys(name for run in runs for name in run["settings"])),
        count=sum(map(len, samples)),
    )


def _result(summary: RunSummary) -> dict[str, str]:
    """Return the best validation loss, or the last training loss, and the difference from FLAC."""
    best = summary.best()
    point = best or summary.last()
    found = {
        "bits": f"{point.bits:.2f}",
        "unit": summary.unit,
        "caption": f"{'best validation loss' if best else 'training loss'}, at iteration {point.step:,}",
        "network": f"{summary.network_size}, trained on {summary.inputs}",
    }
    if best and summary.flac:
        percent = 100 * (1 - best.bits / summary.flac)
        found["flac"] = f"{abs(percent):.1f} % {'less' if percent >= 0 else 'more'} than FLAC ({summary.flac:.2f})"
    return found


def _validations(summary: RunSummary) -> list[tuple[str, ...]]:
    """Return the rows of a table of all validations."""
    return [
        (f"{m.step:,}", f"{m.epoch:.2f}", duration(m.seconds), f"{m.train_bits:.3f}", f"{m.val_bits:.3f}")
        for m in (summary.at(int(step)) for step in summary.val.x)
    ]


def _free_running(summary: RunSummary, on_message: OnMessage) -> dict[str, Any]:
    """Return the table of what the network generates by itself; {} if it was not measured."""
    found = summary.free_running(on_message)
    if found is None:
        return {}
    bits = summary.at(found["iteration"]).val_bits
    validation = "" if bits is None else f", validation {bits:.2f} {summary.unit}"
    return {
        "caption": f"iteration {found['iteration']:,}{validation}",
        "description": free_running.description(found),
        "rows": free_running.rows(found),
    }


def _player(summary: RunSummary, name: str, sample: Sample, coder: _Coder) -> Player:
    samples, rate = read_sound(sample.path)
    point = summary.at(sample.step)
    caption = f"{point.bits:.2f} {summary.unit}{' in training' if point.val_bits is None else ''}"
    caption += f" (FLAC {summary.flac:.2f})" if summary.flac else ""
    caption += f", epoch {point.epoch:.1f}, trained for {duration(point.seconds)}"
    title = f"Iteration {sample.step:,}, temperature {sample.temperature:g}"
    return _sound(f"{name}: {title}", title, caption, samples, rate, coder)


def _originals(summaries: Sequence[RunSummary], coder: _Coder) -> list[Player]:
    """Return excerpts of the data that the runs were trained on, once each."""
    found: dict[str, Player] = {}
    for summary in summaries:
        names = ("kind", "inputs", "symbols", "rate", "encoding", "sound", "val_frac")
        key = json.dumps([summary.config.get(name) for name in names])
        if key not in found and (original := summary.original(coder.longest)):
            part, begin = original
            title = f"The original: {summary.inputs}"
            kind = f"{8 * summary.kind.sample_bytes}-bit samples"
            caption = f"{len(part) / summary.rate:.1f} s from {begin:.1f} s on, in {kind}"
            found[key] = _sound(title, title, caption, part, summary.rate, coder)
    return list(found.values())


def _sound(label: str, title: str, caption: str, samples: Floats, rate: int, coder: _Coder) -> Player:
    """Return a sound with its pictures: two data: URLs, and an SVG path, `WIDTH` wide and 2 high."""
    picture = picture_of_samples(samples, rate, WIDTH)
    return {
        "label": label,  # for screen readers
        "title": title,
        "caption": caption,
        "audio": _data_url(*coder.encode(samples, rate)),
        "spectrogram": _spectrogram(picture),
        "wave": _wave(picture),
        "seconds": len(samples) / rate,
    }


class _Coder:
    """Encoder of sound: FLAC, which is exact, or Vorbis if the page would become too large.

    ``longest`` is the length of the longest sample in seconds.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        import soundfile

        seconds, size = [], 0
        for sample in samples:
            try:
                with sample.path.open("rb") as file:  # soundfile accepts only names that are UTF-8
                    info = soundfile.info(file)
            except (soundfile.LibsndfileError, TypeError):  # read_sound raises the message for it
                continue
            seconds.append(info.frames / info.samplerate)
            size += info.frames
        self.longest = max(seconds, default=ORIGINAL_SECONDS)
        self._kind = ("FLAC", "PCM_16", "audio/flac") if size < MAX_FLAC else ("OGG", "VORBIS", "audio/ogg")

    def encode(self, samples: Floats, rate: int) -> tuple[bytes, str]:
        """Return samples (n,) as a file, and its media type. FLAC keeps 8-bit and 16-bit sound exactly."""
        import soundfile

        container, coding, kind = self._kind
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format=container, subtype=coding)
        return file.getvalue(), kind


def _spectrogram(picture: SoundPicture) -> str:
    """Return the spectrogram as WebP, highest frequency on top."""
    levels = brightness(picture.decibels[::-1], QUIET, LOUD)
    colors = (colormaps[COLORMAP](levels)[..., :3] * 255).astype(np.uint8)
    image = Image.fromarray(colors).resize((WIDTH, BINS), Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=60)
    return _data_url(file.getvalue(), "image/webp")


def _wave(picture: SoundPicture) -> str:
    """Return the envelope as a closed SVG path with silence in the middle."""
    at = np.linspace(0, WIDTH, len(picture.low)) if len(picture.low) > 1 else np.array([WIDTH / 2])
    above = [f"{x:.0f} {1 - y:.3g}" for x, y in zip(at, np.maximum(picture.high, picture.low + 0.012), strict=True)]
    below = [f"{x:.0f} {1 - y:.3g}" for x, y in zip(at[::-1], picture.low[::-1], strict=True)]
    return "M" + "L".join(above + below) + "Z"


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _curves(summary: RunSummary, name: str) -> dict[str, Any]:
    """Return the curves of a run, in bits and as they were trained, with enough points to zoom in."""
    window = max(1, len(summary.train) // 100)
    rows, bits = reduce_curve(summary.train, POINTS, window, DIGITS, log_x=True)
    _, loss = reduce_curve(summary.train_loss, POINTS, window, DIGITS, log_x=True)
    return {
        "name": name,
        "iteration": summary.train.x[rows].astype(int).tolist(),
        "time": round_to_digits(summary.time[rows], DIGITS),
        **bits,
        "loss": {**loss, "flac": summary.kind.flac("nats")},
        "val": {
            "iteration": summary.val.x.astype(int).tolist(),
            "time": round_to_digits(np.array([summary.at(int(step)).seconds for step in summary.val.x]), DIGITS),
            "bits": round_to_digits(summary.val.y, DIGITS),
            "loss": round_to_digits(summary.val_loss.y, DIGITS),
        },
        "flac": summary.flac,
        "bits_unit": summary.kind.bits_unit,
        "loss_unit": summary.kind.loss_unit,
    }
