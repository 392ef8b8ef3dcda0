"""The table of what a network generates by itself, in charrnn-eval and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bytecodec.errors import printable

MAX_NAME = 80  # characters of the name of the data
MEASURES = {  # label, factor and digits of each measure of `charrnn.sampling.free_running.Measures`
    "level": ("level, dB", 1, 1),
    "drift": ("drift, dB/minute", 1, 1),
    "spectrum_distance": ("spectrum distance, dB", 1, 1),
    "peakiness": ("peakiness, dB", 1, 1),
    "silent": ("silent, %", 100, 1),
    "clipped": ("clipped, %", 100, 3),
}
HEADER = ("", "mean", "seeds", "recording")


def rows(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return a row per measure of a document of free_running.json, with the columns of `HEADER`.

    They are the label, the mean over the seeds, their range, and the range of the recording's stretches.
    """
    table = []
    for name, (label, factor, digits) in MEASURES.items():
        values = [factor * one[name] for one in found["seeds"]]
        mean = _rounded(sum(values) / len(values), digits)
        recording = "unknown"
        if found["recording"]:
            recording = _range([factor * found["recording"][name][end] for end in ("least", "greatest")], digits)
        table.append((label, mean, _range(values, digits), recording))
    return table


def description(found: Mapping[str, Any]) -> str:
    """Return what was compared, such as '3 seeds of 60 s; recording: 16 stretches of voice.wav (train)'."""
    seeds, stretches = len(found["seeds"]), found["stretches"]
    sounds = f"{seeds} seed{'s' * (seeds > 1)} of {found['seconds']:g} s"
    data = f"{printable(Path(found['data']).name, MAX_NAME)} ({found['part']})"
    if not found["recording"]:
        return f"{sounds}; recording: {data}, which is shorter, so its range is unknown"
    if stretches == 1:
        return f"{sounds}; recording: a single stretch of {data}, and so no range"
    return f"{sounds}; recording: {stretches} stretches of {data}"


def _range(values: Sequence[float], digits: int) -> str:
    least, greatest = (_rounded(end(values), digits) for end in (min, max))
    return least if least == greatest else f"{least} to {greatest}"


def _rounded(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # the sum is 0 for -0
