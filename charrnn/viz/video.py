"""Video of the progress of runs: the sound of each checkpoint in order, with graphs, encoded by ffmpeg."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bytecodec.errors import InputError
from bytecodec.pcm import floats_to_int16
from charrnn.viz import video_frames
from charrnn.viz.curves import OnProgress, ignore
from charrnn.viz.run_summary import RunSummary, Sample, names_of
from charrnn.viz.video_clips import Part, part_of
from charrnn.viz.video_frames import Frame, Layout

TITLE, SETTINGS, END = 3.0, 5.0, 5.0  # seconds of each kind of card
SOUND_RATE = 44100  # Hz; all players support it
MAX_ERROR = 65536  # bytes of ffmpeg's stderr that are read


def make(
    summaries: Sequence[RunSummary],
    samples: Sequence[Sequence[Sample]],
    file: BinaryIO,
    layout: Layout,
    fps: int = 30,
    title: str = "",
    on_total: OnProgress = ignore,
    on_progress: OnProgress = ignore,
) -> None:
    """Write the video of runs, with the given samples of each, as MP4.

    The layout has an even width and height. ``on_total`` is called with the number of frames, and ``on_progress`` with
    1 for each frame that is made. Raise InputError if ffmpeg is missing or fails, or a sample is not a recording.
    """
    program = ffmpeg()
    names = names_of(summaries)
    parts = [
        part_of(summary, name, some, fps, number)
        for number, (summary, name, some) in enumerate(zip(summaries, names, samples, strict=True))
    ]
    cards = [round(seconds * fps) for seconds in (TITLE, SETTINGS, END)]
    total = cards[0] + sum(cards[1] + part.frames for part in parts) + cards[2]
    on_total(total)
    with tempfile.TemporaryDirectory() as folder:
        sound, target = Path(folder) / "sound.wav", Path(folder) / "video.mp4"
        try:
            _write_sound(sound, parts, cards, fps)
        except OSError as error:
            error.filename = folder  # may be on another disk than the video
            raise
        frames = _frames(parts, layout, cards, fps, title or _title(summaries))
        _encode(program, _with_progress(frames, layout, total, on_progress), layout, fps, sound, target)
        with target.open("rb") as made:
            shutil.copyfileobj(made, file, 1 << 20)


def ffmpeg() -> str:
    """Return the path of the program, or raise InputError if there is none."""
    if program := shutil.which("ffmpeg"):
        return program
    raise InputError("there is no ffmpeg on the PATH: install it, or add its folder to PATH.")


def _title(summaries: Sequence[RunSummary]) -> str:
    inputs = list(dict.fromkeys(summary.inputs for summary in summaries))
    return f"Learning {inputs[0]}" if len(inputs) == 1 else f"Training of {len(summaries)} networks"


def _frames(parts: Sequence[Part], layout: Layout, cards: Sequence[int], fps: int, title: str) -> Iterator[Frame]:
    """Yield all frames in order; each is overwritten by the next one."""
    count = len(parts)
    sounds = sum(len(part.clips) for part in parts)
    lines = [f"{count} network{'s' * (count > 1)}, {sounds} sample{'s' * (sounds > 1)} in the order of training"]
    lines.append("each sampled from a checkpoint of the network")
    yield from itertools.repeat(video_frames.title_card(layout, title, lines), cards[0])
    for number, part in enumerate(parts, 1):
        heading = f"network {number} of {count}" if count > 1 else "the network"
        yield from itertools.repeat(video_frames.run_card(layout, part, heading), cards[1])
        yield from _clips(part, layout, fps)
    yield from itertools.repeat(video_frames.end_card(layout, parts), cards[2])


def _clips(part: Part, layout: Layout, fps: int) -> Iterator[Frame]:
    graph, panel = video_frames.LossGraph(layout, part), video_frames.SoundPanel(layout, part, fps)
    for clip in part.clips:
        pen = video_frames.captions(layout, part, clip)
        graph.labels(pen)
        frame = pen.frame()
        for number in range(clip.frames):
            graph.show(frame, clip.before + (clip.after - clip.before) * (number + 1) / clip.frames)
            panel.show(frame, clip.first + number)
            yield frame


def _with_progress(frames: Iterator[Frame], layout: Layout, total: int, on_progress: OnProgress) -> Iterator[Frame]:
    """Draw a progress bar on each frame."""
    left, top, right, bottom = layout.progress
    for number, frame in enumerate(frames, 1):
        frame[top:bottom] = video_frames.rgb(video_frames.THEME.grid)
        frame[top:bottom, left : left + (right - left) * number // total] = video_frames.rgb(video_frames.THEME.faint)
        yield frame
        on_progress(1)


def _write_sound(path: Path, parts: Sequence[Part], cards: Sequence[int], fps: int) -> None:
    """Write the sound of the video at the highest rate of the parts, with silence during the cards."""
    rate = max(part.rate for part in parts)
    frames, written = cards[0], 0
    with path.open("wb") as file, wave.open(file, "wb") as sound:  # soundfile does not report a full disk
        sound.setparams((1, 2, rate, 0, "NONE", ""))
        for part in parts:
            frames += cards[1]
            samples = part.sound
            if part.rate != rate:
                from bytecodec.resample import Resampler  # which loads scipy

                resampler = Resampler(part.rate, rate)
                samples = np.concatenate((resampler.feed(samples), resampler.close()))
            samples = np.pad(samples, (round(frames * rate / fps) - written, 0))
            sound.writeframesraw(floats_to_int16(samples).tobytes())
            written += len(samples)
            frames += part.frames
        sound.writeframesraw(bytes(2 * max(0, round((frames + cards[2]) * rate / fps) - written)))


def _encode(program: str, frames: Iterator[Frame], layout: Layout, fps: int, sound: Path, target: Path) -> None:
    size = f"{layout.width}x{layout.height}"
    picture = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "pipe:0"]
    coding = ["-c:v", "libx264", "-preset", "superfast", "-crf", "20", "-pix_fmt", "yuv420p"]
    audio = ["-c:a", "aac", "-b:a", "128k", "-ar", str(SOUND_RATE)]
    command = [program, "-v", "error", "-nostdin", "-y", *picture, "-i", str(sound), *coding, *audio]
    command += ["-movflags", "+faststart", str(target)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
        assert process.stdin is not None
        try:
            for frame in frames:
                process.stdin.write(frame.data)
        except BrokenPipeError:  # ffmpeg has ended; the reason is on its stderr
            pass
        except BaseException:
            process.kill()
            raise
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            code = process.wait()
        if code:
            errors.seek(0)
            lines = errors.read(MAX_ERROR).decode("utf-8", "replace").strip().splitlines()
            lines = lines or [f"it ended with {code}, and {tempfile.gettempdir()} may be full"]
            raise InputError(f"ffmpeg could not make the video: {lines[-1].strip().rstrip('.')}.")
