"""charrnn-video, and the video that it makes."""

import errno
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("PIL")
from charrnn.commands.video import charrnn_video
from charrnn.storage.run_dir import Run
from charrnn.viz import run_summary, video, video_clips, video_frames

FPS = 30
needs_ffmpeg = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="there is no ffmpeg on the PATH"
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Use a new folder, and make the cards short."""
    monkeypatch.chdir(tmp_path)
    for name in ("TITLE", "SETTINGS", "END"):
        monkeypatch.setattr(video, name, 0.2)


@pytest.fixture
def mine(sounding_run):
    """A copy of `sounding_run` that may be changed."""
    shutil.copytree(sounding_run, "mine")
    return Run(Path("mine"))


def read_film(path, layout):
    """Return the frames (n, height, width, 3) and the sound (m,) at 44,100 Hz of a video."""
    decode = ["ffmpeg", "-v", "error", "-i", str(path)]
    raw = subprocess.run([*decode, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    pcm = subprocess.run([*decode, "-f", "f32le", "-ac", "1", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, layout.height, layout.width, 3), np.frombuffer(pcm, "<f4")


@needs_ffmpeg
def test_sound_and_picture_are_in_sync_within_a_frame(mine, write_wav, tone):
    """In each clip a tone begins after a silence, and is audible when it reaches the line."""
    shutil.copytree("mine", "second")
    silences = iter((5000, 7001, 3003, 6500, 4000, 5555, 2500, 7777))
    for name in ("mine", "second"):
        for path in sorted(Path(name, "samples").glob("*.wav")):
            write_wav(path, np.concatenate((np.full(next(silences), 128, np.uint8), tone[:4000])))
    layout = video_frames.Layout(640, 360)
    assert charrnn_video(["mine", "second", "-o", "a.mp4", "--size", "640x360", "-q"]) == 0
    frames, sound = read_film("a.mp4", layout)
    left, top, right, bottom = layout.wave
    now = left + round(video_frames.SAMPLE_POSITION * (right - left))
    quarter = (bottom - top) // 4  # above and below the middle, where silence is a line
    lit = frames[:, top + quarter : top + quarter + 14, now + 2 : now + 6].max(axis=(1, 2, 3)) > 128
    lit |= frames[:, bottom - quarter - 14 : bottom - quarter, now + 2 : now + 6].max(axis=(1, 2, 3)) > 128
    lit &= frames[:, top + 2 : bottom - 2, now].min(axis=(1, 2)) > 128  # cards have no line
    seen = onsets(lit, int(0.1 * FPS)) / FPS
    audible = onsets(np.abs(sound) > 0.02, int(0.1 * 44100)) / 44100
    assert len(audible) == 8
    assert np.abs(seen - audible).max() <= 1 / FPS
    assert len(sound) / 44100 == pytest.approx(len(frames) / FPS, abs=1 / FPS)


def onsets(on, quiet):
    """Return the indices at which something begins after it was off for a time."""
    places = np.flatnonzero(on)
    return places[np.diff(places, prepend=-quiet - 1) > quiet].astype(float)


@needs_ffmpeg
def test_the_video_is_1280_by_720_at_30_frames_per_second_with_sound(mine, capfdbinary):
    assert charrnn_video(["mine", "--checkpoints", "newest"]) == 0
    assert capfdbinary.readouterr() == (b"evolution.mp4\n", b"")
    probe = ["ffprobe", "-v", "error", "-show_streams", "-of", "json", "evolution.mp4"]
    picture, sound = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)["streams"]
    assert (picture["width"], picture["height"], picture["r_frame_rate"]) == (1280, 720, "30/1")
    assert (picture["codec_name"], picture["pix_fmt"]) == ("h264", "yuv420p")
    assert (sound["codec_name"], sound["sample_rate"]) == ("aac", "44100")
    cards = 3 * 0.2
    assert float(picture["duration"]) == pytest.approx(cards + 2 * (1 + video_clips.GAP), abs=0.1)
    assert sorted(os.listdir()) == ["evolution.mp4", "mine"]


@needs_ffmpeg
def test_runs_at_different_rates_become_one_video(mine, write_wav, tone):
    shutil.copytree("mine", "high")
    config = {**mine.config(), "rate": 22050}
    Run(Path("high")).write_config(config)
    for path in Path("high/samples").glob("*.wav"):
        write_wav(path, tone, 22050)
    flags = ["--size", "320x180", "--fps", "10", "--checkpoints", "newest", "-o", "a.mp4"]
    assert charrnn_video(["mine", "high", *flags]) == 0
    frames, sound = read_film("a.mp4", video_frames.Layout(320, 180))
    assert len(frames) == 4 * 2 + 4 * (10 + 3)
    assert len(sound) / 44100 == pytest.approx(len(frames) / 10, abs=0.1)


def frames_of(summary, samples, size=(640, 360)):
    """Return the part of a run and its frames."""
    part = video_clips.part_of(summary, "name", samples, FPS, 0)
    return part, [frame.copy() for frame in video._clips(part, video_frames.Layout(*size), FPS)]


def test_the_loss_graph_scrolls_to_each_checkpoint_during_its_clip(mine, write_wav, tone):
    write_wav(mine.samples_folder / "00000200_t0.80.wav", tone[:2205])
    summary = run_summary.RunSummary(mine)
    part = video_clips.part_of(summary, "name", summary.samples, FPS, 0)
    assert [clip.before for clip in part.clips] == [0, 100, 200, 300]
    assert part.clips[0].frames < part.clips[1].frames  # the same distance, in less time
    seen = []
    layout = video_frames.Layout(640, 360)
    graph = video_frames.LossGraph(layout, part)
    frame = np.zeros((360, 640, 3), np.uint8)
    for step in (0, 200, 400):
        graph.show(frame, step)
        left, top, right, bottom = layout.loss
        line = (frame[top:bottom, left:right] == video_frames.rgb(video_frames.THEME.ink)).all(axis=(0, 2))
        seen.append(int(np.flatnonzero(line).mean()))
    assert seen[0] < 3
    assert seen[0] < seen[1] <= seen[2]
    assert seen[2] >= right - left - 3 or seen[2] == pytest.approx(
        video_frames.ITERATION_POSITION * (right - left), abs=2
    )


def test_the_waveform_is_shown_before_it_is_audible(mine, write_wav, tone):
    for path in mine.samples_folder.glob("*_t0.80.wav"):
        path.unlink()
    write_wav(mine.samples_folder / "00000200_t1.00.wav", np.full(11025, 128, np.uint8))
    summary = run_summary.RunSummary(mine)
    part, frames = frames_of(summary, summary.samples)
    left, top, right, bottom = video_frames.Layout(640, 360).wave
    now = left + round(video_frames.SAMPLE_POSITION * (right - left))
    before = frames[part.clips[1].first - FPS // 2][top : top + (bottom - top) // 3]
    assert before[:, now + 8 : right].max() > 100  # half a second before the tone it is to the right of the line
    assert before[:, left : now - 8].max() < 100


def test_the_spectrum_has_its_peak_at_the_tone(mine, write_wav):
    t = np.arange(11025) / 11025
    for path in mine.samples_folder.glob("*.wav"):
        write_wav(path, (128 + 60 * np.sin(2 * np.pi * 1000 * t)).astype(np.uint8))
    summary = run_summary.RunSummary(mine)
    _, frames = frames_of(summary, summary.samples[:1])
    left, top, right, bottom = video_frames.Layout(640, 360).spectrum
    lit = (frames[15][top:bottom, left:right] == video_frames.rgb(video_frames.THEME.colors[0])).all(axis=2).sum(axis=0)
    place = lit.argmax() / (right - left)
    half = video_frames.window_length(11025) // 2
    assert place == pytest.approx(np.log(1000 / 5512.5 * half / 2) / np.log(half / 2), abs=0.06)


def test_only_loud_noise_is_attenuated(mine, write_wav):
    write_wav(mine.samples_folder / "00000200_t0.80.wav", np.random.default_rng(0).integers(0, 256, 11025, np.uint8))
    write_wav(mine.samples_folder / "00000200_t1.00.wav", np.full(11025, 130, np.uint8))
    summary = run_summary.RunSummary(mine)
    part = video_clips.part_of(summary, "name", summary.samples[:2], FPS, 0)
    loud, quiet = part.sound[:11025], part.sound[part.clips[1].first * 11025 // FPS + 1 :]
    assert np.sqrt(np.mean(loud**2)) == pytest.approx(video_clips.MAX_LEVEL, rel=0.01)
    assert quiet.max() == pytest.approx(2 / 128)
    assert len(part.sound) == pytest.approx(part.frames * 11025 / FPS, abs=1)


def test_every_card_and_caption_fits_at_any_size(mine):
    mine.write_config({**mine.config(), "inputs": ["a very long name of a recording " * 5 + ".wav"] * 9})
    summary = run_summary.RunSummary(mine)
    part = video_clips.part_of(summary, "a name that is long, too " * 4, summary.samples, FPS, 0)
    for size in ((1280, 720), (320, 180), (720, 1280)):
        layout = video_frames.Layout(*size)
        pictures = [
            video_frames.title_card(layout, "A title that is much too long for a card of this size" * 2, ["words"]),
            video_frames.run_card(layout, part, "network 1 of 1"),
            video_frames.end_card(layout, [part] * 9),
            video_frames.captions(layout, part, part.clips[0]).frame(),
        ]
        for picture in pictures:
            assert picture.shape == (size[1], size[0], 3)
            assert (picture[:, -1] == video_frames.rgb(video_frames.THEME.paper)).all()


def test_a_missing_ffmpeg_is_reported(mine, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert charrnn_video(["mine"]) == 1
    assert "no ffmpeg on the PATH" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="a shell script replaces ffmpeg")
def test_an_error_of_ffmpeg_is_reported_and_leaves_no_file(mine, monkeypatch, capsys):
    Path("bin").mkdir()
    Path("bin/ffmpeg").write_text("#!/bin/sh\necho 'Unknown encoder libx264' >&2\nexit 1\n")
    Path("bin/ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path('bin').resolve()}:{os.environ['PATH']}")
    assert charrnn_video(["mine", "-o", "a.mp4"]) == 1
    assert "Unknown encoder libx264" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["bin", "mine"]


def test_a_full_disk_under_the_temporary_files_is_named(mine, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(video, "ffmpeg", lambda: "ffmpeg")
    monkeypatch.setattr(tempfile, "tempdir", os.getcwd())
    monkeypatch.setattr(video, "_write_sound", full)
    assert charrnn_video(["mine", "-o", "a.mp4"]) == 1
    error = capsys.readouterr().err
    assert os.getcwd() + os.sep + "tmp" in error
    assert "No space left on device" in error
    assert os.listdir() == ["mine"]


@needs_ffmpeg
def test_ctrl_c_ends_ffmpeg_and_leaves_no_file(mine, monkeypatch, capsys):
    started = []
    real = subprocess.Popen

    def start(*args, **kwargs):
        started.append(real(*args, **kwargs))
        return started[-1]

    def interrupt(*_):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(video_frames, "run_card", interrupt)
    assert charrnn_video(["mine", "-o", "a.mp4"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert os.listdir() == ["mine"]
    assert started[0].returncode is not None


@needs_ffmpeg
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("mine --checkpoints 7", "checkpoint 7"),
        ("cut", "cut/samples/00000200_t0.80.wav"),
        ("odd", "8,000 Hz"),
        ("mute", "mute/samples"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_file(mine, arguments, message, capsys, write_wav):
    for name in ("cut", "odd", "mute"):
        shutil.copytree("mine", name)
    write_wav("cut/samples/00000200_t0.80.wav", b"")
    write_wav("odd/samples/00000400_t1.00.wav", [128] * 100, 8000)
    shutil.rmtree("mute/samples")
    before = sorted(os.listdir())
    assert charrnn_video(arguments.split()) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine", "-o", "a.avi"], "a.avi"),
        (["mine", "--size", "1281x720"], "1281x720"),
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        charrnn_video(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
