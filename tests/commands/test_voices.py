"""Bundled voices: networks that come with the package."""

from __future__ import annotations

import pytest
import soundfile

from charrnn.commands import listen
from charrnn.commands.convert import charrnn_convert
from charrnn.commands.eval import charrnn_eval
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.storage import checkpoint_format
from charrnn.storage.checkpoint import load
from charrnn.storage.run_dir import VOICES, find_voice, voice_names

MAX_BYTES = 2_500_000

every_voice = pytest.mark.parametrize("name", voice_names())


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_there_is_a_voice():
    assert "kathleen" in voice_names()


@every_voice
def test_a_voice_is_small_trained_and_measured(name):
    run = find_voice(name)
    assert sum(file.stat().st_size for file in run.path.rglob("*")) < MAX_BYTES
    checkpoint = checkpoint_format.load(run.path)
    assert {weights.dtype.name for weights in checkpoint.weights.values()} == {"float32"}
    assert checkpoint.calibration
    assert checkpoint.level < checkpoint.loudest
    levels = [one["level"] for one in run.free_running()["seeds"]]
    assert len(levels) > 2
    assert max(map(abs, levels)) < 2  # dB


@every_voice
def test_a_voice_is_sampled_without_a_run(name):
    assert charrnn_sample(["--voice", name, "--seconds", "0.5", "-o", "out.wav", "-q"]) == 0
    samples, rate = soundfile.read("out.wav")
    assert (len(samples), rate) == (5512, 11025)
    assert samples.any()


def test_a_voice_is_named_like_a_run(tmp_path):
    assert charrnn_convert(["kathleen", "voice.html", "-q"]) == 0
    assert (tmp_path / "voice.html").stat().st_size < MAX_BYTES
    assert load("kathleen").config == load(VOICES / "kathleen").config


def test_a_voice_is_not_resumed_and_nothing_is_written_to_it(capsys):
    before = sorted(VOICES.rglob("*"))
    assert charrnn_train(["--resume", "kathleen", "--max-iterations", "20000"]) == 1
    assert "--init-from kathleen" in capsys.readouterr().err
    assert charrnn_eval(["kathleen"]) == 1
    assert "name a FILE" in capsys.readouterr().err
    assert sorted(VOICES.rglob("*")) == before


def test_the_listening_page_offers_the_voices_if_there_is_no_run(capsys):
    assert [run.path.name for run in listen._default_runs(quiet=False)] == voice_names()
    assert "bundled voices" in capsys.readouterr().err


def test_names_of_voices_that_do_not_exist_are_rejected(capsys):
    assert charrnn_sample(["--voice", "nobody"]) == 1
    assert "kathleen" in capsys.readouterr().err
    assert charrnn_sample(["nobody"]) == 1
    assert "kathleen" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        charrnn_sample(["some-run", "--voice", "kathleen"])
    assert "two networks" in capsys.readouterr().err
