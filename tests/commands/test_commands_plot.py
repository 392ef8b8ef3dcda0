"""charrnn-plot."""

import builtins
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from PIL import Image

from bytecodec import WavWriter
from charrnn.commands.plot import charrnn_plot
from charrnn.viz.plots import PlotStyle, draw_sounds
from charrnn.viz.sound import picture_of_samples

LOSSES = "iteration,loss\n" + "".join(f"{n},{3 / n + n % 2}\n" for n in range(1, 2001))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text(LOSSES)


SMALL = ["--width", "400", "--height", "250"]


def pixels(name):
    with Image.open(name) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def has_color(name, color, tolerance=8):
    requested = [int(color[n : n + 2], 16) for n in (1, 3, 5)]
    return bool((np.abs(pixels(name) - requested).max(axis=2) <= tolerance).any())


def test_the_picture_is_written_next_to_the_file_in_the_given_size(capfdbinary):
    assert charrnn_plot(["a.csv", "--width", "700", "--height", "400"]) == 0
    assert capfdbinary.readouterr() == (b"a.png\n", b"")
    assert pixels("a.png").shape == (400, 700, 3)
    assert os.listdir() in (["a.csv", "a.png"], ["a.png", "a.csv"])


def test_the_widest_picture_is_16383_pixels(capsys):
    assert charrnn_plot(["a.csv", "--width", "16383", "--height", "150"]) == 0
    with Image.open("a.png") as image:
        assert image.size == (16383, 150)
    with pytest.raises(SystemExit):
        charrnn_plot(["a.csv", "--width", "16384"])
    assert "16383" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_the_suffix_selects_the_format_and_the_same_input_gives_the_same_file(kind, begin):
    assert charrnn_plot(["a.csv", "-o", f"b.{kind}", "--log-x", "--log-y", *SMALL]) == 0
    assert charrnn_plot(["a.csv", "-o", f"c.{kind}", "--log-x", "--log-y", *SMALL]) == 0
    written = Path(f"b.{kind}").read_bytes()
    assert written.startswith(begin)
    assert written == Path(f"c.{kind}").read_bytes()


def test_the_average_is_drawn_within_the_band():
    """Odd rows are 1 and even ones 0, so the band spans both and the mean is in the middle."""
    Path("b.csv").write_text("step,y\n" + "".join(f"{n},{n % 2}\n" for n in range(20000)))
    assert charrnn_plot(["b.csv", "--colors", "#ff0000", "--width", "600", "--height", "400"]) == 0
    column = pixels("b.png")[:, 300]
    red = np.flatnonzero(np.abs(column - [255, 0, 0]).max(axis=1) < 60)
    pink = np.flatnonzero((column[:, 0] > 240) & (column[:, 1] > 140) & (column[:, 1] < 215))
    assert 1 <= len(red) <= 4
    assert len(pink) > 300
    assert abs(red.mean() - (pink.min() + pink.max()) / 2) < 4


@pytest.mark.parametrize(("average", "scale"), [("mean", ["--log-x"]), ("median", ["--log-y"]), ("none", ["--log-x"])])
def test_averages_are_drawn_on_linear_and_logarithmic_scales(average, scale):
    name = f"{average}.png"
    assert charrnn_plot(["a.csv", "-o", name, "--average", average, "--width", "300", "--height", "200", *scale]) == 0
    assert has_color(name, "#1f5fd0", 60) or average == "none"


def test_runs_are_drawn_in_their_colors_with_validations_and_flac(trained_run):
    shutil.copytree(trained_run, "runs/other")
    colors = ["#ff0000", "#00aa00"]
    assert charrnn_plot([str(trained_run), "other", "-o", "b.svg", "--unit", "bits", "--colors", ",".join(colors)]) == 0
    svg = Path("b.svg").read_text()
    for text in (">tone<", ">other<", ">validation<", ">FLAC ", ">loss, bits per symbol<", ">iteration<", *colors):
        assert text in svg, text
    assert charrnn_plot(["runs/other/log.csv", "-o", "c.svg", "--x", "elapsed_seconds", "--theme", "dark"]) == 0
    svg = Path("c.svg").read_text()
    assert ">seconds trained<" in svg
    assert ">loss, nats per symbol<" in svg
    assert ">other: training, mean<" in svg


def test_the_picture_of_a_run_is_written_next_to_it(trained_run):
    shutil.copytree(trained_run, "runs/other")
    assert charrnn_plot(["runs/other", "--width", "300", "--height", "200"]) == 0
    assert Path("runs/other.png").exists()
    shutil.copytree(trained_run, "runs/v.2")
    assert charrnn_plot(["v.2", "--width", "300", "--height", "200"]) == 0
    assert Path("v.2.png").exists()


def test_columns_are_selected_by_name():
    Path("b.csv").write_text("a,b,c\n1,2,3\n2,3,4\n")
    assert charrnn_plot(["b.csv", "--x", "b", "--y", "a,c", "-o", "b.svg", "--title", "A <title>"]) == 0
    svg = Path("b.svg").read_text()
    for text in (">b, a<", ">b, c<", ">a, c<", ">b<", "A &lt;title&gt;"):
        assert text in svg, text


def test_rows_that_are_left_out_are_reported_unless_quiet(capsys):
    Path("a.csv").write_text(LOSSES + "half,")
    assert charrnn_plot(["a.csv", *SMALL]) == 0
    assert "a.csv: the last row is skipped" in capsys.readouterr().err
    assert charrnn_plot(["a.csv", "--quiet", *SMALL]) == 0
    assert capsys.readouterr().err == ""


def test_a_single_row_is_drawn():
    Path("b.csv").write_text("x,y\n5,2\n")
    assert charrnn_plot(["b.csv", *SMALL]) == 0
    assert charrnn_plot(["b.csv", "--log-x", "--log-y", *SMALL]) == 0


def test_a_recording_is_drawn_with_its_seams(tone):
    with Path("a.wav").open("wb") as file, WavWriter(file) as wav:
        for part in (tone[:11025], tone[11025:]):
            wav.cue()
            wav.write(part)
    assert charrnn_plot(["a.wav", "-o", "a.svg", *SMALL]) == 0
    svg = Path("a.svg").read_text()
    for text in (">a.wav<", ">kHz<", ">seconds<", ">dashed: start of a segment<"):
        assert text in svg, text
    assert svg.count("stroke-dasharray") == 2  # one seam, in waveform and spectrogram
    assert charrnn_plot(["a.wav", "a.wav", "--width", "500"]) == 0
    assert pixels("a.png").shape == (900, 500, 3)


def test_recordings_have_the_same_scales():
    pictures = [picture_of_samples(np.full(1000, level, np.float32), 11025, 10) for level in (0.5, 0.001)]
    wave, spectrum, *quiet = draw_sounds([("loud", pictures[0]), ("quiet", pictures[1])], PlotStyle()).axes
    assert wave.get_ylim() == quiet[0].get_ylim() == (-0.525, 0.525)
    assert spectrum.images[0].get_clim() == quiet[1].images[0].get_clim()


def test_silence_is_drawn(write_wav):
    write_wav("a.wav", [128] * 1000)
    assert charrnn_plot(["a.wav", *SMALL]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("missing", "no run missing"),
        ("a.csv --y iteration --unit bits", "--unit bits"),
        ("a.csv tone.wav", "two pictures"),
        ("low.csv --log-y", "--log-y"),
        ("nan.csv", "nan has no row"),
        ("a.csv -o no/a.png", "no folder no"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_file(arguments, message, capsys, write_wav):
    Path("low.csv").write_text("x,y\n-1,-2\n-3,-4\n")
    Path("nan.csv").write_text("x,y\n1,\n,2\n")
    write_wav("tone.wav", [128] * 9)
    before = sorted(os.listdir())
    assert charrnn_plot(arguments.split()) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.csv", "-o", "a.jpg"], ".png, .svg, .pdf"),
        (["a.csv", "--colors", "red,nocolor"], "'nocolor'"),
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        charrnn_plot(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_matplotlib_is_reported_with_the_remedy(monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "charrnn.viz" or name.startswith("matplotlib"):
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.figure")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert charrnn_plot(["a.csv"]) == 1
    assert "pip install 'charrnn-sound[plots]'" in capsys.readouterr().err


def test_ctrl_c_leaves_no_file(monkeypatch, capsys):
    from charrnn.viz import plots

    def interrupt(_figure, file, _kind):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(plots, "save", interrupt)
    assert charrnn_plot(["a.csv"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert os.listdir() == ["a.csv"]
