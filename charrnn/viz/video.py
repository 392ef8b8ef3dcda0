"""The video of how runs learnt: each checkpoint's sound in order, with its graphs, through ffmpeg."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bytecodec.errors import InputError
from charrnn.viz import film
from charrnn.viz.film import Frame, Layout
from charrnn.viz.run_summary import RunSummary, Sample, TrainPoint, distinguish
from charrnn.viz.sound import Floats, read_sound

TITLE, SETTINGS, END = 3.0, 5.0, 5.0  # seconds that the cards stand
GAP = 0.3  # seconds of silence after a clip
LOUDEST = 0.1  # of full scale, rms: an untrained network is noise, and would drown what comes after it
SOUND_RATE = 44100  # of the film: players know it
BEHIND = 65536  # bytes of ffmpeg's complaints that are looked at


@dataclass(frozen=True)
class Clip:
    """A sound of a run, and where in the run it is.

    Attributes
    ----------
    first, frames
        Of the run's part of the film.
    before
        The iteration from which the loss graph scrolls to that of the moment.
    """

    sample: Sample
    moment: TrainPoint
    first: int
    frames: int
    before: float


@dataclass(frozen=True)
class Part:
    """A run's part of the film: a card, then clips."""

    story: RunSummary
    name: str
    color: str
    clips: tuple[Clip, ...]
    sound: Floats
    rate: int

    @property
    def frames(self) -> int:
        """Without the card."""
        return self.clips[-1].first + self.clips[-1].frames


def part_of(story: RunSummary, name: str, samples: Sequence[Sample], fps: int, number: int) -> Part:
    """Lay a run's sounds end to end; each begins with a frame.

    Raises
    ------
    InputError
        A sample is no recording, or not at the rate of the others.
    """
    clips: list[Clip] = []
    sounds: list[Floats] = []
    first, before, rate = 0, 0.0, 0
    for sample in samples:
        sound, its_rate = read_sound(sample.path)
        if rate and its_rate != rate:
            raise InputError(f"{sample.path} is at {its_rate:,} Hz, and the sounds before it are at {rate:,} Hz.")
        rate = its_rate
        frames = max(1, -(-len(sound) * fps // rate) + round(GAP * fps))
        clips.append(Clip(sample, story.at(sample.step), first, frames, before))
        same = [other for other in samples if other.step == sample.step]
        before += (sample.step - before) / (len(same) - same.index(sample))  # temperatures share the way
        first += frames
        level = float(np.sqrt(np.mean(sound**2)))
        length = round(first * rate / fps) - sum(map(len, sounds))
        sounds.append(np.pad(sound * min(1.0, LOUDEST / max(level, 1e-9)), (0, max(0, length - len(sound))))[:length])
    colors = film.THEME.colors
    return Part(story, name, colors[number % len(colors)], tuple(clips), np.concatenate(sounds), rate)


def make(
    stories: Sequence[RunSummary],
    samples: Sequence[Sequence[Sample]],
    file: BinaryIO,
    layout: Layout,
    fps: int = 30,
    title: str = "",
    begin: Callable[[int], object] = lambda _: None,
    done: Callable[[int], object] = lambda _: None,
) -> None:
    """Write the film of runs, and for each the samples that are in it, as MP4.

    Parameters
    ----------
    layout
        Of even width and height.
    begin, done
        Are called with the number of frames, and with 1 for each that is made.

    Raises
    ------
    InputError
        There is no ffmpeg, or it fails, or a sample is no recording.
    """
    program = ffmpeg()
    names = distinguish([story.name for story in stories], [story.run.path for story in stories])
    parts = [
        part_of(story, name, some, fps, number)
        for number, (story, name, some) in enumerate(zip(stories, names, samples, strict=True))
    ]
    cards = [round(seconds * fps) for seconds in (TITLE, SETTINGS, END)]
    total = cards[0] + sum(cards[1] + part.frames for part in parts) + cards[2]
    begin(total)
    with tempfile.TemporaryDirectory() as folder:
        sound, target = Path(folder) / "sound.wav", Path(folder) / "film.mp4"
        try:
            _write_sound(sound, parts, cards, fps)
        except OSError as error:
            error.filename = folder  # which is on another disk, perhaps, than the film
            raise
        frames = _frames(parts, layout, cards, fps, title or _title(stories))
        _encode(program, _with_progress(frames, layout, total, done), layout, fps, sound, target)
        with target.open("rb") as made:
            shutil.copyfileobj(made, file, 1 << 20)


def ffmpeg() -> str:
    """The program; an InputError where there is none."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise InputError("there is no ffmpeg on the PATH, which makes the video: install it, or set PATH.")
    return program


def _title(stories: Sequence[RunSummary]) -> str:
    inputs = list(dict.fromkeys(story.inputs for story in stories))
    return f"Learning {inputs[0]}" if len(inputs) == 1 else f"{len(stories)} networks learn"


def _frames(parts: Sequence[Part], layout: Layout, cards: Sequence[int], fps: int, title: str) -> Iterator[Frame]:
    """All frames in order; each is overwritten after it was yielded."""
    count = len(parts)
    sounds = sum(len(part.clips) for part in parts)
    words = [f"{count} network{'s' * (count > 1)}, {sounds} sound{'s' * (sounds > 1)}, from the first to the last"]
    words.append("each sampled from what the network had learnt by then")
    yield from _still(film.title_card(layout, title, words), cards[0])
    for number, part in enumerate(parts, 1):
        place = f"network {number} of {count}" if count > 1 else "the network"
        yield from _still(film.run_card(layout, part.story, part.name, part.color, place), cards[1])
        yield from _clips(part, layout, fps)
    end = film.end_card(
        layout, [part.story for part in parts], [part.name for part in parts], [part.color for part in parts]
    )
    yield from _still(end, cards[2])


def _still(frame: Frame, count: int) -> Iterator[Frame]:
    for _ in range(count):
        yield frame.copy()


def _clips(part: Part, layout: Layout, fps: int) -> Iterator[Frame]:
    graph = film.LossGraph(layout, part.story, part.color, sorted({clip.sample.step for clip in part.clips}))
    panel = film.SoundPanel(layout, part.sound, part.rate, fps, part.color, [clip.first for clip in part.clips])
    for place, clip in enumerate(part.clips):
        pen = film.captions(layout, part.story, part.name, part.color, clip.moment, clip.sample.temperature)
        graph.labels(pen, layout, part.story)
        frame = pen.frame()
        after = part.clips[place + 1].before if place + 1 < len(part.clips) else clip.sample.step
        for number in range(clip.frames):
            graph.show(frame, clip.before + (after - clip.before) * (number + 1) / clip.frames)
            panel.show(frame, clip.first + number)
            yield frame


def _with_progress(
    frames: Iterator[Frame], layout: Layout, total: int, done: Callable[[int], object]
) -> Iterator[Frame]:
    """Draw how far the film is on each."""
    left, top, right, bottom = layout.progress
    for number, frame in enumerate(frames, 1):
        frame[top:bottom] = film.rgb(film.THEME.grid)
        frame[top:bottom, left : left + (right - left) * number // total] = film.rgb(film.THEME.faint)
        yield frame
        done(1)


def _write_sound(path: Path, parts: Sequence[Part], cards: Sequence[int], fps: int) -> None:
    """The sound of the whole film, silence under the cards, at the highest rate of the parts."""
    rate = max(part.rate for part in parts)
    frames, written = cards[0], 0
    with path.open("wb") as file, wave.open(file, "wb") as sound:  # soundfile hides that a disk is full
        sound.setparams((1, 2, rate, 0, "NONE", ""))
        for part in parts:
            frames += cards[1]
            silence = round(frames * rate / fps) - written
            samples = np.pad(_at_rate(part.sound, part.rate, rate), (silence, 0))
            sound.writeframesraw(np.clip(np.rint(samples * 32767), -32768, 32767).astype("<i2").tobytes())
            written += len(samples)
            frames += part.frames
        silence = max(0, round((frames + cards[2]) * rate / fps) - written)
        sound.writeframesraw(np.zeros(silence, "<i2").tobytes())


def _at_rate(sound: Floats, rate: int, wanted: int) -> Floats:
    if rate == wanted:
        return sound
    from bytecodec.resample import Resampler  # scipy takes long to load, and runs are mostly at one rate

    resampler = Resampler(rate, wanted)
    return np.concatenate((resampler.feed(sound), resampler.close()))


def _encode(program: str, frames: Iterator[Frame], layout: Layout, fps: int, sound: Path, target: Path) -> None:
    size = f"{layout.width}x{layout.height}"
    picture = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "pipe:0"]
    coding = ["-c:v", "libx264", "-preset", "superfast", "-crf", "20", "-pix_fmt", "yuv420p"]
    hearing = ["-c:a", "aac", "-b:a", "128k", "-ar", str(SOUND_RATE)]
    command = [program, "-v", "error", "-nostdin", "-y", *picture, "-i", str(sound), *coding, *hearing]
    command += ["-movflags", "+faststart", str(target)]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaints)
        assert process.stdin is not None
        try:
            for frame in frames:
                process.stdin.write(frame.data)
        except BrokenPipeError:  # it ended; why, it says
            pass
        except BaseException:
            process.kill()
            raise
        finally:
            with contextlib.suppress(BrokenPipeError):  # of what was still to be written
                process.stdin.close()
            code = process.wait()
        if code:
            complaints.seek(0)
            said = complaints.read(BEHIND).decode("utf-8", "replace").strip().splitlines()
            said = said or [f"it ended with {code}, and {tempfile.gettempdir()} may be full"]
            raise InputError(f"ffmpeg could not make the video: {said[-1].strip().rstrip('.')}.")
