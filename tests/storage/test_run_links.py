"""Links and names in a run: nothing outside its folder is read or written."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from bytecodec.errors import InputError
from charrnn.commands.eval import charrnn_eval
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.storage.run_dir import Run, all_runs, checkpoint_path

if sys.platform == "win32":
    pytest.skip("links need rights there", allow_module_level=True)

FILES = (
    *("best.json", "checkpoints", "samples", "config.json", "log.csv", "val.csv"),
    *("corpus.bin", "resume.safetensors", "lock", "free_running.json"),
)


@pytest.fixture
def run(tmp_path, monkeypatch, sounding_run):
    """A run under ./runs, and a copy outside it that links can lead to."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sounding_run, "outside")
    shutil.copytree(sounding_run, "runs/mine")
    for folder in ("outside", "runs/mine"):
        Path(folder, "lock").touch()
        Path(folder, "free_running.json").touch()
    return Run(Path("runs/mine"))


def link(run, name):
    """Replace a file or folder of the run by a link to its copy outside."""
    path = run.path / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(Path("outside", name).resolve())


def contents(folder):
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def refusal(capsys, main, *arguments):
    assert main([*map(str, arguments)]) == 1
    return capsys.readouterr().err


def test_training_is_not_resumed_through_a_link(run, capsys):
    before = contents("outside")
    for name in FILES:
        shutil.move(run.path / name, "original")
        (run.path / name).symlink_to(Path("outside", name).resolve())
        message = refusal(capsys, charrnn_train, "--resume", run.path, "--max-iterations", 401, "-q")
        assert f"{name} of the run mine" in message
        (run.path / name).unlink()
        shutil.move("original", run.path / name)
    assert contents("outside") == before


@pytest.mark.parametrize("name", ["log.csv", "corpus.bin", "samples", "samples/00000200_t1.00.wav"])
def test_no_page_or_picture_shows_files_outside_the_run(run, name, capsys):
    pytest.importorskip("plotly")
    from charrnn.commands.plot import charrnn_plot
    from charrnn.commands.report import charrnn_report
    from charrnn.commands.video import charrnn_video

    link(run, name)
    message = f"{name} of the run mine leads out of the run"
    assert message in refusal(capsys, charrnn_report, run.path, "-o", "r.html")
    if name != "corpus.bin":
        assert message in refusal(capsys, charrnn_video, run.path, "-o", "v.mp4")
    if name == "log.csv":
        assert message in refusal(capsys, charrnn_plot, run.path, "-o", "p.png")
    assert not any(Path(output).exists() for output in ("r.html", "v.mp4", "p.png"))


def test_no_checkpoint_or_corpus_is_read_through_a_link(run, capsys):
    link(run, "corpus.bin")
    assert "corpus.bin of the run mine leads out" in refusal(capsys, charrnn_eval, run.path, "--threads", 1)
    link(run, "checkpoints/00000400.safetensors")
    for which in ("newest", "400"):
        with pytest.raises(InputError, match="leads out of the run"):
            checkpoint_path(run.path, which)
    assert "leads out of the run" in refusal(capsys, charrnn_sample, run.path)
    assert checkpoint_path(run.path, "200").is_file()


def test_the_best_checkpoint_is_a_file_in_the_run(run):
    for checkpoint in ("../../outside/checkpoints/00000400.safetensors", "/etc/passwd", "a\0b", ".."):
        run.best_file.write_text(json.dumps({"iteration": 400, "val_loss": 1, "checkpoint": checkpoint}))
        with pytest.raises(InputError, match="leads out of the run"):
            checkpoint_path(run.path, "best")
    run.best_file.write_text(json.dumps({"iteration": 400, "val_loss": 1, "checkpoint": "checkpoints"}))
    with pytest.raises(InputError, match="checkpoints"):
        checkpoint_path(run.path, "best")


def test_a_run_may_be_a_link_and_links_within_it_are_followed(run, capsys):
    shutil.move("runs/mine", "elsewhere")
    os.symlink(os.path.realpath("elsewhere"), "runs/mine")
    shutil.move("elsewhere/corpus.bin", "elsewhere/data.bin")
    os.symlink("data.bin", "elsewhere/corpus.bin")
    assert charrnn_eval([str(run.path), "--threads", "1"]) == 0
    assert charrnn_train(["--resume", "mine", "--max-iterations", "401", "-q"]) == 0


def test_a_run_whose_config_is_a_link_out_of_it_does_not_hide_other_runs(run):
    shutil.copytree(run.path, "runs/a")
    (run.path / "config.json").unlink()
    (run.path / "config.json").symlink_to(Path("outside/config.json").resolve())
    messages = []
    assert [found.path.name for found in all_runs(messages.append)] == ["a"]
    assert len(messages) == 1
    assert "runs/mine is skipped" in messages[0]


HOSTILE_CONFIGS = (
    '"\\udc85"', "[" * 100_000, "{}", '{"inputs": ["\\udc85\\u001b"], "model": {"layers": {"\\udc85": 1}}}',
    '{"inputs": [[]], "model": {"cell": "\\u0000", "layers": NaN, "rnn_size": 1e999}, "rate": 1e999}',
    '{"inputs": 5, "model": [], "rate": true}', '{"yardsticks": {"flac": 1' + "0" * 400 + "}}", "\udc85", "",
    '{"inputs": ["' + "x" * 100_000 + '"], "model": {"cell": "' + "y" * 100_000 + '"}}',
)  # fmt: skip


def test_a_hostile_config_hides_no_other_run_of_the_listening_page(run):
    listening = pytest.importorskip("listening")
    shutil.copytree(run.path, "runs/other")
    (run.path / "best.json").write_text('{"iteration": 1' + "0" * 999 + ', "checkpoint": "\\udc85"}')
    for config in HOSTILE_CONFIGS:
        (run.path / "config.json").write_bytes(config.encode(errors="surrogateescape"))
        with listening.Served([run, Run(Path("runs/other"))]) as served:
            status, answer = served.ask("/api/runs")
            assert status == 200
            listed = json.loads(answer)["runs"]
            assert served.ask("/api/curves?run=0")[0] == 200
        assert listed[1]["network"] == "LSTM, 2 layers of 48"
        assert len(answer) < 2000
        assert "\x1b" not in listed[0]["inputs"]
