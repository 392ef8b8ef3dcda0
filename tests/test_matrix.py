"""Every command on every kind of run: its figures are those of the run's logs, or it rejects the run.

The kinds cover all pairs of new or resumed, validated or not, with samples or without, and each of these with symbols
and with frames. On a GPU, tools/gpu/check.py trains, resumes and samples.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from compiled_kernel import kernel_variants
from matrix_runs import CONVERTED, FRAME_UNIT, GAUSSIAN, KINDS, MSE, NETWORK, RATE, SOUND, make_runs

import charrnn
from bytecodec import InputError, decode
from charrnn.commands.convert import charrnn_convert
from charrnn.commands.eval import charrnn_eval
from charrnn.commands.listen import charrnn_listen
from charrnn.commands.plot import charrnn_plot
from charrnn.commands.report import charrnn_report
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.commands.video import charrnn_video
from charrnn.frames import model as frame_model
from charrnn.models.samples import OWN_SAMPLES
from charrnn.storage.checkpoint import load, read_tensors
from charrnn.storage.csv_log import read_rows
from charrnn.storage.run_dir import Run
from charrnn.viz.curves import csv_series
from charrnn.viz.run_summary import RunSummary

for extra in ("matplotlib", "plotly", "jinja2", "onnx", "starlette", "uvicorn", "websockets"):
    pytest.importorskip(extra)

every_kind = pytest.mark.parametrize("name", KINDS)
sound_text_and_frames = pytest.mark.parametrize("name", ["resumed", "text", "mse"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a run of each kind, and a checkpoint converted from torch-rnn."""
    folder = tmp_path_factory.mktemp("matrix")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_runs(patch)
    return folder


@pytest.fixture(autouse=True)
def _here(folder, tmp_path, monkeypatch):
    """Change to a new folder with links to the runs, which tests must not change."""
    monkeypatch.chdir(tmp_path)
    for path in folder.iterdir():
        Path(path.name).symlink_to(path)


def column(name: str, file: str, column: str) -> list[float]:
    return [float(row[column]) for row in read_rows(Path(name) / file)]


def rejection(capsys, main, *argv: str) -> str:
    """Return the message with which a command rejects its arguments."""
    capsys.readouterr()
    assert main([*argv]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@every_kind
def test_a_run_has_its_logs_samples_and_best_checkpoint(name):
    kind, bits = KINDS[name], column(name, "val.csv", "val_bits")
    assert len(column(name, "log.csv", "train_bits")) == 6
    assert len(bits) == (2 if kind.is_validated else 0)
    assert len(list(Path(name, "samples").glob("*.wav"))) == (2 if kind.has_samples else 0)
    best = Run(Path(name)).best()
    assert (best["iteration"] if best else None) == (3 * bits.index(min(bits)) + 3 if bits else None)


@every_kind
def test_a_run_of_linear_sound_has_learnt_from_its_own_sound(name):
    kind, (_, tensors) = KINDS[name], read_tensors(Run(Path(name)).resume_file, "resume")
    own = [tensor for key, tensor in tensors.items() if key.startswith("own.")]
    pieces = [tensor for tensor in own if tensor.shape[1] == OWN_SAMPLES]
    assert bool(own) == (len(pieces) == 1) == (not kind.is_text and not kind.is_frames)
    if pieces:
        kernel_variants()
        assert all(row.any() for row in pieces[0])


def test_the_losses_of_frame_predictors_are_far_from_their_bits():
    """Losses divided by ln 2 are far from the bits, so that the tests below detect a wrong conversion."""
    assert max(column("resumed-gaussian", "val.csv", "val_loss")) < 0
    assert min(column("resumed-gaussian", "val.csv", "val_bits")) > 0
    assert max(column("mse", "val.csv", "val_loss")) < 0.01
    assert min(column("mse", "val.csv", "val_bits")) > 1


def test_early_stop_ends_the_training_of_a_density(capsys):
    flags = "--max-iterations 40 --checkpoint-every 2 --learning-rate 0.3 --early-stop 1 --run-dir early".split()
    assert charrnn_train([*NETWORK, *GAUSSIAN, "--sample-seconds", "0", *flags]) == 0
    losses = column("early", "val.csv", "val_loss")
    assert len(losses) < 20
    assert losses[-1] >= losses[-2]
    assert (np.diff(losses[:-1]) < 0).all()
    assert "symbol" not in capsys.readouterr().err


@every_kind
def test_a_run_is_resumed(name):
    shutil.copytree(Path(name).resolve(), "mine")
    assert charrnn_train(["--resume", "mine", "--max-iterations", "8", "-q"]) == 0
    assert column("mine", "log.csv", "iteration") == list(range(1, 9))
    assert column("mine", "log.csv", "train_bits")[:6] == column(name, "log.csv", "train_bits")


@every_kind
def test_the_end_of_a_training_names_a_better_checkpoint_than_the_last(name, capsys):
    shutil.copytree(Path(name).resolve(), "mine")
    best = (Run(Path("mine")).best() or {}).get("iteration", 6)
    assert charrnn_train(["--resume", "mine"]) == 0
    assert ("charrnn-sample mine --checkpoint best" in capsys.readouterr().err) == (best != 6)


@every_kind
def test_a_training_starts_from_the_weights_of_a_run_of_its_kind(name):
    flags = [*NETWORK, *KINDS[name].flags, "--max-iterations", "1", "--learning-rate", "1e-12", "--run-dir", "new"]
    assert charrnn_train([*flags, "--init-from", name]) == 0
    read = frame_model.load if KINDS[name].is_frames else load
    for parameter, expected in zip(read("new").model.parameters(), read(name).model.parameters(), strict=True):
        np.testing.assert_allclose(parameter.detach(), expected.detach(), atol=1e-6)


@every_kind
def test_a_run_is_sampled_to_a_file_and_to_a_pipe(name, capfdbinary):
    kind = KINDS[name]
    command = [name, "--length", "50", "--threads", "1", "-q"]
    assert charrnn_sample([*command, "-o", "x.txt" if kind.is_text else "x.wav"]) == 0
    capfdbinary.readouterr()
    assert charrnn_sample(command) == 0
    piped = capfdbinary.readouterr().out
    if kind.is_text:
        assert len(Path("x.txt").read_text()) == 50
        assert piped == Path("x.txt").read_bytes()
    else:
        if not kind.is_frames:
            piped = decode(piped.decode())
        assert piped[-50:] == Path("x.wav").read_bytes()[-50:]
        assert soundfile.info("x.wav").frames == 50
        assert soundfile.info("x.wav").samplerate == RATE
        assert soundfile.info("x.wav").subtype == ("PCM_16" if kind.is_frames else "PCM_U8")


@pytest.mark.parametrize(
    ("name", "controlled"), [("symbols", True), ("resumed", True), ("text", False), (CONVERTED, False)]
)
def test_checkpoints_of_linear_sound_have_the_level_that_sampling_keeps(name, controlled):
    assert (load(name).level is not None) == controlled
    assert (charrnn.engine(name, threads=1).level_control is not None) == controlled
    assert not controlled or load(name).level == pytest.approx(load("symbols").level, rel=0.05)
    assert not controlled or 128 > load(name).loudest >= load(name).level


def test_a_frame_predictor_has_no_choices(capsys):
    with pytest.raises(SystemExit, match="2"):
        charrnn_sample(["mse", "--choices", "3"])
    assert "frame predictor" in capsys.readouterr().err


@every_kind
def test_charrnn_eval_gives_the_loss_that_training_logged(name, capsys):
    kind = KINDS[name]
    if not kind.is_validated:
        assert "val" in rejection(capsys, charrnn_eval, name, "--part", "val")
        return
    capsys.readouterr()
    assert charrnn_eval([name, "--part", "val", "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"{kind.unit} +{column(name, 'val.csv', 'val_bits')[-1]:.4f}\n", shown)
    assert re.search(kind.loss, shown)
    assert charrnn_eval([name, "--part", "val", "--json", "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"{found['bits']:.9g}" == f"{column(name, 'val.csv', 'val_bits')[-1]:.9g}"
    assert f"{found['loss']:.9g}" == f"{column(name, 'val.csv', 'val_loss')[-1]:.9g}"
    baselines = Run(Path(name)).config()["yardsticks"]
    assert baselines
    assert found.items() >= baselines.items()


@every_kind
def test_the_free_running_of_sound_is_measured_and_reported_and_text_is_rejected(name, capsys):
    kind = KINDS[name]
    shutil.copytree(Path(name).resolve(), "mine")
    command = ["mine", "--part", "train", "--free-running", "2", "--threads", "1", "--json"]
    if kind.is_text:
        assert "text" in rejection(capsys, charrnn_eval, *command)
        return
    capsys.readouterr()
    assert charrnn_eval(command) == 0
    found = json.loads(capsys.readouterr().out)["free_running"]
    assert found == Run(Path("mine")).free_running()
    assert len(found["seeds"]) == (1 if name == "mse" else 3)
    assert charrnn_report(["mine", "-o", "x.html", "-q"]) == 0
    page = Path("x.html").read_text(encoding="utf-8")
    assert "<caption>mine: iteration 6" in page
    mean = np.mean([one["peakiness"] for one in found["seeds"]])
    assert re.search(rf"peakiness, dB</th><td>{mean:.1f}</td>", page)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_frame_predictor_scores_a_part_of_its_data_and_of_a_file_equally(part, capsys):
    found = []
    for arguments in (["mse"], ["mse", "sound.wav"]):
        assert charrnn_eval([*arguments, "--part", part, "--json", "--threads", "1"]) == 0
        found.append(json.loads(capsys.readouterr().out))
        assert found[-1].pop("data") == "sound.wav"
    window = 40
    assert found[0] == found[1]
    assert found[0]["samples"] == {"train": 6400 - window, "val": 800}[part]
    assert found[0]["bits"] == frame_model.load("mse").model.bits(found[0]["loss"])
    soundfile.write("short.wav", np.arange(window, dtype=np.int16) * 99, RATE)
    assert f"{window + 1}" in rejection(capsys, charrnn_eval, "mse", "short.wav")


@sound_text_and_frames
def test_a_run_is_converted_to_onnx_or_rejected(name, capsys):
    if not KINDS[name].is_text:
        reason = "frame predictor" if KINDS[name].is_frames else "--prediction none"
        assert reason in rejection(capsys, charrnn_convert, name, "x.onnx")
        assert not Path("x.onnx").exists()
        return
    assert charrnn_convert([name, "x.onnx", "-q"]) == 0
    assert Path("x.onnx").stat().st_size > 1000


@every_kind
def test_the_losses_of_a_run_are_plotted(name):
    kind = KINDS[name]
    for unit, suffix, label in (("bits", "bits", kind.unit), ("nats", "loss", kind.loss)):
        (series,), _, _ = csv_series(Path(name) / "log.csv", name, unit=unit)
        assert re.fullmatch(label, series.unit)
        assert series.train.y.tolist() == column(name, "log.csv", f"train_{suffix}")
        assert (series.val.y.tolist() if series.val else []) == column(name, "val.csv", f"val_{suffix}")
        if kind.is_validated:
            (val,), _, _ = csv_series(Path(name) / "val.csv", name, unit=unit)
            assert (val.unit, val.train.y.tolist()) == (series.unit, series.val.y.tolist())
    assert charrnn_plot([name, "--unit", "nats", "-o", "x.svg", "--width", "300", "--height", "600"]) == 0
    assert re.search(f">loss, {kind.loss}<", Path("x.svg").read_text())


def test_sounds_of_symbols_and_of_frames_are_plotted_together():
    sounds = [str(next(Path(name, "samples").glob("*.wav"))) for name in ("symbols", "mse")]
    assert charrnn_plot([*sounds, "-o", "x.svg", "--width", "300", "--height", "600"]) == 0
    assert Path("x.svg").read_text().count(">kHz<") == len(sounds)


def test_losses_that_cannot_share_an_axis_or_are_below_0_on_a_logarithmic_one_are_rejected(capsys):
    assert "--unit bits" in rejection(capsys, charrnn_plot, "mse", "symbols", "-o", "x.svg")
    assert charrnn_plot(["mse", "symbols", "--unit", "bits", "--log-y", "-o", "x.svg"]) == 0
    assert re.search(rf">loss, {FRAME_UNIT} or {KINDS['symbols'].unit}<", Path("x.svg").read_text())
    assert ">FLAC" not in Path("x.svg").read_text()  # its bits per byte do not compare with those of 16-bit samples
    assert "above 0" in rejection(capsys, charrnn_plot, "gaussian", "--log-y", "-o", "y.svg")
    Path("a.csv").write_text("iteration,loss\n1,2\n2,0.5\n3,0\n4,-1\n")
    assert charrnn_plot(["a.csv", "--log-y", "-o", "x.png", "--width", "300", "--height", "600"]) == 0
    assert "2 values" in capsys.readouterr().err


def test_a_log_without_its_bits_is_not_converted_for_a_frame_predictor():
    Path("mine").mkdir()
    shutil.copy("mse/config.json", "mine")
    Path("mine/log.csv").write_text("iteration,train_loss\n1,0.001\n")
    with pytest.raises(InputError, match="train_bits"):
        csv_series(Path("mine/log.csv"), "mine", unit="bits")


@every_kind
def test_a_run_is_reported(name):
    kind, run = KINDS[name], Run(Path(name))
    assert charrnn_report([name, "-o", "x.html", "-q"]) == 0
    page = Path("x.html").read_text(encoding="utf-8")
    unit = kind.unit if kind.is_frames else rf"bits \w+ {'character' if kind.is_text else 'sample'}"
    bits, losses = (column(name, "val.csv", f"val_{what}") for what in ("bits", "loss"))
    shown = min(bits) if bits else np.mean(column(name, "log.csv", "train_bits"))
    assert re.search(f"<strong>{shown:.2f}</strong> {unit}<", page)
    (curve,) = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])["curves"]
    for found, expected in (
        (curve["low"], column(name, "log.csv", "train_bits")),
        (curve["loss"]["low"], column(name, "log.csv", "train_loss")),
        (curve["val"]["bits"], bits),
        (curve["val"]["loss"], losses),
    ):
        assert found == pytest.approx(expected, rel=1e-6)
    assert curve["flac"] == run.config()["yardsticks"].get("flac")
    model = frame_model.load(name).model if kind.is_frames else load(name).model
    body = page.replace("\n", " ")
    assert f"<td>{model.number_of_parameters():,}</td>" in body
    reads_samples = not kind.is_frames and model.config.reads_samples
    assert ("context 31, prediction lpc-long, noise 2.0" in body) == reads_samples
    assert "None" not in re.sub(r"<script.*?</script>", "", body)
    assert body.count("<audio controls") == (0 if kind.is_text else 1) + 2 * kind.has_samples


@sound_text_and_frames
def test_the_original_in_the_report_is_the_training_data(name):
    original = RunSummary(Run(Path(name))).original(0.05)
    if KINDS[name].is_text:
        assert original is None
        return
    part, start = original
    sound = soundfile.read("sound.wav")[0][round(start * RATE) :][:400]
    assert start == (0.8 if KINDS[name].is_validated else 0)
    np.testing.assert_allclose(part, sound, atol=1e-7 if KINDS[name].is_frames else 1 / 256 + 1e-7)


@pytest.mark.parametrize("name", ["symbols", "text", "mse", "gaussian"])
def test_the_film_of_a_run_shows_its_figures_or_is_rejected(name, monkeypatch, capsys):
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is not on the PATH")
    from charrnn.viz import video, video_frames

    kind, written, drawn = KINDS[name], [], []
    if not kind.has_samples:
        assert "sound" in rejection(capsys, charrnn_video, name, "-o", "x.mp4")
        return
    write, spread = video_frames.Pen.text, video_frames.spread
    monkeypatch.setattr(video_frames.Pen, "text", lambda *a, **b: written.append(a[3]) or write(*a, **b))
    monkeypatch.setattr(
        video_frames, "spread", lambda points, edges: drawn.append(points.y.tolist()) or spread(points, edges)
    )
    for card in ("TITLE", "SETTINGS", "END"):
        monkeypatch.setattr(video, card, 0.2)
    assert charrnn_video([name, "-o", "x.mp4", "--size", "320x180", "--fps", "5", "-q"]) == 0
    unit, shown = kind.unit if kind.is_frames else r"bits \w+ sample", "\n".join(written)
    for bits in column(name, "val.csv", "val_bits"):
        assert re.search(f"loss {bits:.2f} {unit} ·", shown)
    assert re.search(f"loss, {unit}", shown)
    assert drawn == [column(name, "log.csv", "train_bits")]


@pytest.fixture(scope="module")
def page(folder):
    """Serve the listening page of all runs."""
    from listening import Served

    with Served([Run(folder / name) for name in KINDS]) as one:
        yield one


@every_kind
def test_the_listening_page_shows_the_curve_and_plays_the_run(name, page):
    from listening import PLAY

    kind, number = KINDS[name], list(KINDS).index(name)
    about = json.loads(page.ask("/api/runs")[1])["runs"][number]
    assert (about["name"], about["kind"]) == (name, "frames" if kind.is_frames else "symbols")
    assert about["checkpoints"] == [3, 6]
    curve = json.loads(page.ask(f"/api/curves?run={number}")[1])
    assert re.fullmatch(kind.unit, curve["unit"])
    assert curve["low"] == pytest.approx(column(name, "log.csv", "train_bits"), rel=1e-3)
    assert curve["val"]["bits"] == pytest.approx(column(name, "val.csv", "val_bits"), rel=1e-3)
    with page.socket_to() as connection:
        connection.send(json.dumps(PLAY | {"run": number}))
        answer = json.loads(connection.recv(timeout=30))
    assert (answer["type"], answer["step"], answer["isText"]) == ("playing", 6, kind.is_text)
    if kind.is_frames or kind.is_text:
        assert page.ask(f"/api/start?run={number}&name=sound.wav", Path("sound.wav").read_bytes())[0] == 400


@every_kind
def test_a_network_of_symbols_becomes_a_page_and_a_frame_predictor_is_rejected(name, capsys):
    if KINDS[name].is_frames:
        assert "frame predictor" in rejection(capsys, charrnn_convert, name, "x.html")
        return
    assert charrnn_convert([name, "x.html", "-q"]) == 0
    html = Path("x.html").read_text(encoding="utf-8")
    assert f"<h1>{name}</h1>" in html
    unit = "character" if KINDS[name].is_text else "sample"
    assert (f"bits per {unit}" in html) == KINDS[name].is_validated


def test_a_converted_checkpoint_is_sampled_scored_and_converted_but_is_not_a_run(capsys):
    assert charrnn_sample([CONVERTED, "--length", "50", "--threads", "1", "-q", "-o", "x.wav"]) == 0
    assert soundfile.info("x.wav").frames == 50
    assert "FILE" in rejection(capsys, charrnn_eval, CONVERTED)
    assert charrnn_eval([CONVERTED, "sound.wav", "--json", "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bits"] == pytest.approx(found["loss"] / np.log(2))
    assert charrnn_convert([CONVERTED, "x.onnx", "-q"]) == 0


@sound_text_and_frames
def test_no_output_replaces_a_checkpoint_of_the_run(name, capsys):
    file = Run(Path(name)).checkpoints()[-1].resolve()
    before = file.read_bytes()
    output = "link.txt" if name == "text" else "link.wav"
    for link in (output, "link.html"):
        Path(link).symlink_to(file)
    sample = (charrnn_sample, name, "--length", "9", "-q")
    assert "another type" in rejection(capsys, *sample, "-o", output)
    assert "no state" in rejection(capsys, *sample, "-o", f"new-{output}", "--state-out", str(file))
    assert "another type" in rejection(capsys, charrnn_report, name, "-o", "link.html", "-q")
    assert file.read_bytes() == before


def test_commands_for_runs_reject_a_converted_checkpoint(capsys):
    assert "is a file" in rejection(capsys, charrnn_train, "--resume", CONVERTED)
    assert CONVERTED in rejection(capsys, charrnn_plot, CONVERTED, "-o", "x.png")
    for main in (charrnn_report, charrnn_video, charrnn_listen):
        assert "is a file" in rejection(capsys, main, CONVERTED)


@pytest.mark.parametrize(("data", "old"), [(SOUND, "mse"), (MSE, "symbols")])
def test_training_does_not_start_from_a_network_of_another_kind(data, old, capsys):
    assert old in rejection(capsys, charrnn_train, *data, "--init-from", old, "--run-dir", "new", "-q")
    assert not Path("new").exists()
