"""Make data/voice.wav: a minute of an invented language, spoken by a formant synthesiser after Klatt.

Glottal pulses and some noise pass through resonances that glide from speech sound to speech sound. Seventeen words
are repeated with small variations, so that a small network learns them soon.

Sources
-------
- G. E. Peterson, H. L. Barney, "Control methods used in a study of the vowels", JASA 24 (1952), 175-184
- D. H. Klatt, "Software for a cascade/parallel formant synthesizer", JASA 67 (1980), 971-995
- D. H. Klatt, L. C. Klatt, "Analysis, synthesis, and perception of voice quality", JASA 87 (1990), 820-857
"""

from __future__ import annotations

import sys
import wave
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from bytecodec.console import Parser, command
from bytecodec.files import open_output

Floats = NDArray[np.float64]
T = TypeVar("T")

RATE = 11025  # Hz
SECONDS = 60
PEAK = 90  # steps of 127: -3 dB
SILENCE = 128
SEED = 1990

FRAME = 11  # samples for which the vocal tract is constant, 1 ms: steps of 3 ms are audible
OVERSAMPLING = 4  # of the glottal pulses: their closing edge would alias at RATE

PITCH = 188.0  # Hz, to which the semitones below are relative
DECLINATION = (2.5, -2.0)  # semitones, at the start of a phrase and at its end
STRESS, FALL, RISE = 2.0, -3.0, 5.0  # semitones added to a stressed vowel, and to the last vowel of a phrase
LONGER = (1.25, 1.35)  # factors of duration: of a stressed vowel, and from a phrase's last vowel on
SOFTER = (0.85, 0.75)  # factors of level: of an unstressed vowel, and from the last vowel on
JITTER, SHIMMER = 0.015, 0.04  # largest deviation of the pitch in a frame, and of a pulse's height: parts of 1
OPEN_QUOTIENT = 0.6  # part of the period in which the glottis is open: more than a man's (Klatt and Klatt 1990)
TILT = 0.45  # pole of the low-pass that softens the closing edge

BANDWIDTHS = (80.0, 100.0, 160.0, 280.0)  # Hz, of F1 to F4 (about Klatt 1980, table II)
F4 = 4130.0  # Hz: fourth resonance of an even tube of 15 cm, a woman's vocal tract
NASAL_POLE, NASAL_BANDWIDTH = 300.0, 100.0  # Hz; a zero at the same place cancels it in sounds that are not nasal


@dataclass(frozen=True)
class Sound:
    """A segment of speech with its target for the vocal tract."""

    ms: float  # duration, before the factors of stress and phrase end
    formants: tuple[float, float, float] = (500, 1500, 2500)  # F1, F2, F3 in Hz
    own: float = 0.6  # weight of these formants, 0 to 1; the rest is the weight of the next vowel's
    voice: float = 0.0  # level of the glottal pulses
    breath: float = 0.0  # level of the noise that passes through the same formants
    hiss: float = 0.0  # level of the noise made at the lips or teeth
    hiss_at: float = 4000  # centre of that noise in Hz
    hiss_width: float = 1000  # bandwidth of that noise in Hz
    zero: float = NASAL_POLE  # the nose's antiresonance in Hz


def _vowel(f1: float, f2: float, f3: float, ms: float = 105) -> Sound:
    return Sound(ms, (f1, f2, f3), own=1, voice=1, breath=0.006)


# In X-SAMPA. From Peterson and Barney's table II, women, which has no e, o and @: e is its I, o is halfway between its
# O and u, and @ is a uniform tube of 15 cm.
VOWELS = {
    "a": _vowel(850, 1220, 2810),
    "E": _vowel(610, 2330, 2990),
    "e": _vowel(430, 2480, 3070),
    "i": _vowel(310, 2790, 3310),
    "O": _vowel(590, 920, 2710),
    "o": _vowel(480, 935, 2690),
    "u": _vowel(370, 950, 2670),
    "@": _vowel(590, 1770, 2950, ms=65),
}

# After Klatt 1980, table III, with formants 15 % higher for a shorter vocal tract. A plosive is a closure and a burst;
# a voiceless plosive ends with breath.
_LIPS, _TEETH, _PALATE = (300.0, 1000.0, 2500.0), (300.0, 1950.0, 3000.0), (300.0, 2300.0, 2900.0)
_BREATH = Sound(28, own=0, breath=0.045)
CONSONANTS = {
    "p": (Sound(70, _LIPS), Sound(9, _LIPS, hiss=0.1, hiss_at=1100, hiss_width=1500), _BREATH),
    "t": (Sound(65, _TEETH), Sound(12, _TEETH, hiss=0.3, hiss_at=4300, hiss_width=1500), _BREATH),
    "k": (Sound(65, _PALATE), Sound(16, _PALATE, hiss=0.3, hiss_at=2300, hiss_width=600), replace(_BREATH, ms=36)),
    "b": (Sound(60, _LIPS, voice=0.25), Sound(6, _LIPS, voice=0.3, hiss=0.07, hiss_at=1100, hiss_width=1500)),
    "d": (Sound(50, _TEETH, voice=0.25), Sound(8, _TEETH, voice=0.3, hiss=0.2, hiss_at=4300, hiss_width=1500)),
    "g": (Sound(50, _PALATE, voice=0.25), Sound(12, _PALATE, voice=0.3, hiss=0.2, hiss_at=2300, hiss_width=600)),
    "m": (Sound(70, (480, 1300, 2500), voice=0.6, zero=600),),
    "n": (Sound(65, (480, 1700, 2850), voice=0.6, zero=650),),
    "l": (Sound(65, (360, 1200, 3200), own=0.8, voice=0.6),),
    "r": (Sound(65, (360, 1250, 1700), own=0.85, voice=0.65),),
    "w": (Sound(65, (330, 700, 2500), own=0.85, voice=0.7),),
    "j": (Sound(60, (300, 2600, 3400), own=0.85, voice=0.7),),
    "s": (Sound(95, _TEETH, hiss=0.2, hiss_at=4700, hiss_width=900),),
    "S": (Sound(95, (350, 2100, 2900), hiss=0.2, hiss_at=3000, hiss_width=800),),
    "f": (Sound(85, (340, 1100, 2400), hiss=0.07, hiss_at=4000, hiss_width=4000),),
    "v": (Sound(60, (300, 1100, 2400), voice=0.4, hiss=0.03, hiss_at=4000, hiss_width=4000),),
    "h": (Sound(60, own=0, breath=0.06),),
}

# ' marks the stressed syllable that follows.
WORDS = {
    "who": ("'malo", "'Sina", "ti'kOm", "'bEnu", "lu'mi", "'dasOn"),
    "does": ("'fetu", "no'sal", "'gika", "pu'rEn"),
    "how": ("'wila", "'jOdE", "ha'ke"),
    "the": ("l@", "d@", "so", "ve"),
}
PHRASES = ("the who does", "who does the who", "how the who does", "the who does the who how", "who does how")
PAUSES = (0.2, 0.25, 0.3, 0.35)  # seconds between phrases


@command
def make_voice(argv: Sequence[str] | None = None) -> None:
    """Write the recording."""
    parser = Parser("make_voice.py", "Make the demo recording.", "python tools/make_voice.py -o data/voice.wav")
    parser.add_argument("-o", "--output", default="data/voice.wav", help="WAV file to write, or - for stdout")
    output = parser.parse_args(argv).output
    samples = quantise(perform())
    with open_output(output) as file, wave.open(file, "wb") as writer:
        writer.setparams((1, 1, RATE, len(samples), "NONE", "not compressed"))
        writer.writeframes(samples)


def perform() -> Floats:
    """Return SECONDS of speech in 8-bit steps, between -PEAK and PEAK and exactly 0 in the pauses."""
    # Only random_raw is guaranteed to give the same numbers in all versions of numpy.
    bits = np.random.PCG64(SEED)
    speech = np.zeros(SECONDS * RATE)
    start = RATE // 8
    while True:
        words = [_choose(bits, WORDS[kind]) for kind in _choose(bits, PHRASES).split()]
        phrase = speak_words(words, bits, rising=_choose(bits, (False, False, True)))
        if start + len(phrase) > len(speech):
            return speech * (PEAK / float(np.abs(speech).max()))
        speech[start : start + len(phrase)] = phrase
        start += len(phrase) + int(_choose(bits, PAUSES) * RATE)


def quantise(sound: Floats) -> bytes:
    """Return 8-bit unsigned samples, rounded without dither.

    Processors differ in the last bits of exp, cos and 2**x, which changes the sound by 1e-10 of a step. No sample of
    perform() is within 1e-6 of a rounding border, so the bytes are the same on all processors.
    """
    return (np.rint(sound) + SILENCE).astype(np.uint8).tobytes()


def speak_words(words: Sequence[str], bits: np.random.PCG64, rising: bool = False) -> Floats:
    """Return a phrase of words in X-SAMPA, with its decay at the end."""
    sounds, stressed = _sounds_of(words)
    stress = np.array(stressed)
    last = np.arange(len(sounds)) >= _vowel_indices(sounds)[-1]
    semitones = np.linspace(*DECLINATION, len(sounds)) + STRESS * stress + (RISE if rising else FALL) * last
    length = np.where(stress, LONGER[0], 1) * np.where(last, LONGER[1], 1)
    level = np.where(stress, 1, SOFTER[0]) * np.where(last, SOFTER[1], 1)
    sounds = [replace(s, ms=s.ms * x, voice=s.voice * y) for s, x, y in zip(sounds, length, level, strict=True)]
    return speak(sounds, semitones, bits)


def _sounds_of(words: Sequence[str]) -> tuple[list[Sound], list[bool]]:
    """Return the sounds of words, and whether each is a stressed vowel."""
    sounds: list[Sound] = []
    stressed: list[bool] = []
    stress = False
    for letter in "".join(words):
        if letter == "'":
            stress = True
        elif letter in VOWELS:
            sounds.append(VOWELS[letter])
            stressed.append(stress)
            stress = False
        else:
            sounds.extend(CONSONANTS[letter])
            stressed.extend([False] * len(CONSONANTS[letter]))
    return sounds, stressed


def speak(sounds: Sequence[Sound], semitones: Sequence[float] | Floats, bits: np.random.PCG64) -> Floats:
    """Return sounds one after another, each at its pitch in semitones from PITCH, between two short silences."""
    sounds = [Sound(15, own=0), *sounds, Sound(75, own=0)]
    semitones = [semitones[0], *semitones, semitones[-1]]
    lengths = [max(1, round(s.ms / 1000 * RATE / FRAME)) for s in sounds]

    def glide(targets: Sequence[float] | Floats, ms: float) -> Floats:
        return _smooth(np.repeat(np.asarray(targets, float), lengths, axis=0), ms)

    pitch = PITCH * 2 ** (glide(semitones, 170) / 12)
    pulses = _glottal_pulses(pitch, glide([s.voice for s in sounds], 40), bits)
    breath = _noise(bits, pulses.size) * _per_sample(glide([s.breath for s in sounds], 20))
    hiss = _noise(bits, pulses.size) * _per_sample(glide([s.hiss for s in sounds], 12))
    tract = _tract(glide(_coarticulate(sounds), 70), glide([s.zero for s in sounds], 30))
    teeth = _band_pass(glide([s.hiss_at for s in sounds], 6), glide([s.hiss_width for s in sounds], 6))
    return _filter(tract, pulses + breath) + _filter(teeth, hiss)


def _coarticulate(sounds: Sequence[Sound]) -> Floats:
    """Return (sounds, 3) formants in Hz, moved towards those of the next vowel, or of the last one."""
    vowels = _vowel_indices(sounds)
    following = vowels[np.searchsorted(vowels, np.arange(len(sounds))).clip(max=len(vowels) - 1)]
    own = np.array([[s.own] for s in sounds])
    formants = np.array([s.formants for s in sounds])
    moved: Floats = own * formants + (1 - own) * formants[following]
    return moved


def _vowel_indices(sounds: Sequence[Sound]) -> NDArray[np.int64]:
    return np.array([i for i, s in enumerate(sounds) if s.own == 1])


def _smooth(track: Floats, ms: float) -> Floats:
    """Smooth a track (frames, ...) with a Hann window of a length in ms; its ends are held."""
    side = max(1, round(ms / 1000 * RATE / FRAME / 2))
    window = np.hanning(2 * side + 1)
    held = np.concatenate([track[:1].repeat(side, axis=0), track, track[-1:].repeat(side, axis=0)])
    smoothed: Floats = np.apply_along_axis(np.convolve, 0, held, window / window.sum(), mode="valid")
    return smoothed


def _glottal_pulses(pitch: Floats, voice: Floats, bits: np.random.PCG64) -> Floats:
    """Return the derivative of the glottal flow, from the pitch in Hz and the level of each frame.

    The pulse is that of Klatt and Klatt (1990): the flow grows as t^2 - t^3 and stops abruptly. Its first difference
    models radiation at the lips.
    """
    hertz = _per_sample(pitch * (1 + JITTER * _noise(bits, pitch.size)), OVERSAMPLING)
    periods = np.cumsum(hertz / (RATE * OVERSAMPLING))
    height = 1 + SHIMMER * _noise(bits, int(periods[-1]) + 1)[periods.astype(int)]
    t = np.minimum(periods % 1 / OPEN_QUOTIENT, 1)
    flow = 27 / 4 * (t**2 - t**3) * height * _per_sample(voice, OVERSAMPLING)
    change = np.diff(signal.resample_poly(flow, 1, OVERSAMPLING), prepend=0)
    return np.asarray(signal.lfilter([1 - TILT], [1, -TILT], change))


def _tract(formants: Floats, zero: Floats) -> Floats:
    """Return (frames, 5, 6) second-order sections: F1 to F4 and the nasal pole and zero, each with gain 1 at 0 Hz."""
    sections = [_resonance(f, b) for f, b in zip([*formants.T, np.full(zero.shape, F4)], BANDWIDTHS, strict=True)]
    poles = [[a.sum(axis=1), 0 * zero, 0 * zero, *a.T] for a in sections]
    above, below = _resonance(zero, NASAL_BANDWIDTH), _resonance(np.full(zero.shape, NASAL_POLE), NASAL_BANDWIDTH)
    nose = [*(above * (below.sum(axis=1) / above.sum(axis=1))[:, None]).T, *below.T]
    return np.array([*poles, nose]).transpose(2, 0, 1)


def _band_pass(centre: Floats, width: Floats) -> Floats:
    """Return (frames, 1, 6) second-order sections with gain 1 at the centre, 0 at 0 Hz and RATE / 2."""
    a = _resonance(centre, width)
    gain = (1 - a[:, 2]) / 2
    return np.array([[gain, 0 * gain, -gain, *a.T]]).transpose(2, 0, 1)


def _resonance(frequency: Floats, bandwidth: float | Floats) -> Floats:
    """Return (frames, 3) coefficients 1, a1, a2 of a pair of poles or zeros, both in Hz, as in Klatt 1980."""
    radius = np.exp(-np.pi * bandwidth / RATE) * np.ones_like(frequency)
    return np.stack([np.ones_like(radius), -2 * radius * np.cos(2 * np.pi * frequency / RATE), radius**2], axis=1)


def _filter(sections: Floats, sound: Floats) -> Floats:
    """Filter sound by sections that change from frame to frame, with the state carried over."""
    state = np.zeros((sections.shape[1], 2))
    filtered = np.empty_like(sound)
    for i, sos in enumerate(np.ascontiguousarray(sections)):
        frame = slice(i * FRAME, (i + 1) * FRAME)
        filtered[frame], state = signal.sosfilt(sos, sound[frame], zi=state)
    return filtered


def _per_sample(track: Floats, times: int = 1) -> Floats:
    """Interpolate a track linearly between the centres of its frames, at RATE times a factor."""
    size = FRAME * times
    return np.interp(np.arange(track.size * size), (np.arange(track.size) + 0.5) * size, track)


def _noise(bits: np.random.PCG64, size: int) -> Floats:
    """Return independent numbers, uniform in [-1, 1)."""
    return (bits.random_raw(size) >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1


def _choose(bits: np.random.PCG64, of: Sequence[T]) -> T:
    return of[bits.random_raw() % len(of)]


if __name__ == "__main__":
    sys.exit(make_voice())
