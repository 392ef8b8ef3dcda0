"""Segments of sampled sound, joined with the hidden state carried over, and a measure of the seams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.arguments import check_choice, check_integers, check_real, check_whole
from bytecodec.errors import InputError
from charrnn.engines import Engine
from charrnn.sampling.generate import CHUNK, generate, prime

JOINS = ("carry", "reset")
SPECTRUM_WINDOW = 256  # samples on each side of a place whose spectra are compared: 23 ms at 11025 Hz
INSIDE_PLACES = 4000  # how many places inside segments the seams are compared with


def stitch(
    engine: Engine,
    segments: int,
    length: int | None,
    temperature: float = 1.0,
    seed: int = 0,
    join: str = "carry",
    start: NDArray[np.integer[Any]] | None = None,
    position: int = 0,
    first_stream: int = 0,
    chunk: int = CHUNK,
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Sample segments one after another.

    With ``carry`` each starts from the hidden state and the last symbol in which the one before it ended, so
    that together they are exactly one long run, however it is cut. With ``reset`` each starts afresh, from
    the zero state and the start text, as people did before; the random numbers go on either way.

    Parameters
    ----------
    segments, length
        How many, and the symbols of each (None: one without end).
    start
        Symbols (P,) that the engine read before the first segment, to be read again before each after a reset.
    temperature, seed, position, first_stream, chunk
        As in `charrnn.sampling.generate.generate`.

    Yields
    ------
    The segment's number from 0 on, and ids (N, <= chunk) of it.

    Raises
    ------
    InputError
        Before the first block: an argument is out of range.
    """
    check_whole("segments", segments, 1)
    check_choice("join", join, JOINS)
    start = None if start is None else check_integers("start", start, 1)
    generate(
        engine, length, temperature, seed, chunk, position, first_stream
    )  # checks the arguments before anything is computed

    def pieces() -> Iterator[tuple[int, NDArray[np.int64]]]:
        for number in range(segments):
            if join == "reset" and number:
                engine.reset()
                if start is not None and len(start):
                    prime(engine, start)
            place = position + number * (length or 0)
            for ids in generate(engine, length, temperature, seed, chunk, place, first_stream):
                yield number, ids

    return pieces()


@dataclass(frozen=True)
class SeamMeasure:
    """How the seams of a sound compare with the places inside its segments.

    Each figure is the probability that a seam shows more of something than a place inside does (the
    Mann-Whitney statistic over the number of pairs): 0.5 where they cannot be told apart, 1 where every seam
    shows more. Each p is that of finding a figure this high if they were alike.

    Attributes
    ----------
    jump, jump_p
        The step in amplitude from the sample before to the sample after.
    spectrum, spectrum_p
        The change of the spectrum, in dB rms over its bins, from the window before to the window after.
    """

    jump: float
    jump_p: float
    spectrum: float
    spectrum_p: float

    def audible(self, level: float = 0.01) -> bool:
        """Whether the seams stand out from the inside at this level of significance, by either measure."""
        return min(self.jump_p, self.spectrum_p) < level / 2  # two tests


def measure_seams(
    samples: NDArray[Any], seams: Sequence[int], seed: int = 0, window: int = SPECTRUM_WINDOW
) -> SeamMeasure:
    """Compare the seams of a sound with the inside of its segments.

    Parameters
    ----------
    samples
        (n,) of any scale, such as the bytes of 8-bit sound.
    seams
        For each seam, the number of the first sample after it. Those within a window of either end are left out.
    seed
        Of the choice of places inside, which are all where there are few of them.
    window
        Samples on each side of a place whose spectra are compared; what is nearer to a seam than this is not inside. A
        quarter of the distance between seams, or less.

    Raises
    ------
    InputError
        An argument has the wrong shape or type, or no seam or no place inside has a whole window on each side.
    """
    from scipy.stats import mannwhitneyu  # takes half a second to import

    x = check_real("samples", samples, 1).astype(np.float64)
    seams = check_integers("seams", seams, 1).tolist()
    check_whole("seed", seed, 0, 2**64 - 1)
    check_whole("window", window, 1)
    at = np.array([s for s in seams if window <= s <= len(x) - window], dtype=np.int64)
    is_inside = np.zeros(len(x) + 1, dtype=np.bool_)
    is_inside[window : len(x) - window + 1] = True
    for seam in at:
        is_inside[seam - window + 1 : seam + window] = False
    inside = np.flatnonzero(is_inside)
    if not len(at) or not len(inside):
        raise InputError(f"no seam of {list(seams)} can be measured in {len(x)} samples with windows of {window}.")
    if len(inside) > INSIDE_PLACES:
        inside = np.random.Generator(np.random.Philox(seed)).choice(inside, INSIDE_PLACES, replace=False)
    figures = []
    for measure in (_jumps, _spectrum_changes):
        result = mannwhitneyu(measure(x, at, window), measure(x, inside, window), alternative="greater")
        figures += [float(result.statistic) / (len(at) * len(inside)), float(result.pvalue)]
    return SeamMeasure(*figures)


def _jumps(x: NDArray[np.float64], places: NDArray[np.int64], window: int) -> NDArray[np.float64]:
    return np.abs(x[places] - x[places - 1])


def _spectrum_changes(x: NDArray[np.float64], places: NDArray[np.int64], window: int) -> NDArray[np.float64]:
    offsets = np.arange(window)
    before, after = (_decibels(x[places[:, None] + offsets - shift]) for shift in (window, 0))
    return np.asarray(np.sqrt(np.mean((after - before) ** 2, axis=1)))


def _decibels(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Magnitudes (m, bins) of windows (m, w), with a floor of one quantisation step below which all is silence."""
    shaped = (windows - windows.mean(axis=1, keepdims=True)) * np.hanning(windows.shape[1])
    return np.asarray(20 * np.log10(np.abs(np.fft.rfft(shaped, axis=1)) + 1.0))
