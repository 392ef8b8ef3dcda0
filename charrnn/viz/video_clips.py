"""Parts of the video: the samples of each run, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bytecodec.errors import InputError
from charrnn.viz.plots import THEMES
from charrnn.viz.run_summary import RunSummary, Sample, TrainPoint
from charrnn.viz.sound import Floats, read_sound

GAP = 0.3  # seconds of silence after a clip
MAX_LEVEL = 0.1  # RMS relative to full scale; the noise of an untrained network would be much louder than the rest


@dataclass(frozen=True)
class Clip:
    """Sample of a run, and its position in the run's part of the video.

    Attributes
    ----------
    first, frames
        First frame and number of frames in the part.
    before, after
        Iterations between which the loss graph scrolls.
    """

    sample: Sample
    point: TrainPoint
    first: int
    frames: int
    before: float
    after: float


@dataclass(frozen=True)
class Part:
    """A run's part of the video: a card, then clips."""

    summary: RunSummary
    name: str
    color: str
    clips: tuple[Clip, ...]
    sound: Floats
    rate: int

    @property
    def frames(self) -> int:
        """Number of frames without the card."""
        return self.clips[-1].first + self.clips[-1].frames


def part_of(summary: RunSummary, name: str, samples: Sequence[Sample], fps: int, number: int) -> Part:
    """Arrange the samples of a run one after another; each begins at the start of a frame.

    Raises
    ------
    InputError
        A sample is not a recording, or its rate differs from that of the others.
    """
    clips: list[Clip] = []
    sounds: list[Floats] = []
    first, before, rate = 0, 0.0, 0
    for sample in samples:
        sound, its_rate = read_sound(sample.path)
        if rate and its_rate != rate:
            raise InputError(f"{sample.path} is at {its_rate:,} Hz, but the samples before it are at {rate:,} Hz.")
        rate = its_rate
        frames = max(1, -(-len(sound) * fps // rate) + round(GAP * fps))
        same = [other for other in samples if other.step == sample.step]
        after = before + (sample.step - before) / (len(same) - same.index(sample))  # one share per temperature
        clips.append(Clip(sample, summary.at(sample.step), first, frames, before, after))
        first, before = first + frames, after
        level = float(np.sqrt(np.mean(sound**2)))
        length = round(first * rate / fps) - sum(map(len, sounds))
        sounds.append(np.pad(sound * min(1.0, MAX_LEVEL / max(level, 1e-9)), (0, max(0, length - len(sound))))[:length])
    colors = THEMES["dark"].colors
    return Part(summary, name, colors[number % len(colors)], tuple(clips), np.concatenate(sounds), rate)
