"""charrnn-report, and its page as a file and in a browser."""

import base64
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("plotly")
pytest.importorskip("jinja2")
import soundfile
from browser import assert_accessible, opened_pages
from PIL import Image

from charrnn.commands.report import charrnn_report
from charrnn.viz import report

MEASURES = dict.fromkeys(("level", "drift", "spectrum_distance", "peakiness", "silent", "clipped"), 0.25)
FREE_RUNNING = {
    "iteration": 400,
    "data": "/home/me/<b>.wav",
    "part": "train",
    "seconds": 60,
    "seeds": [{"seed": 0, **MEASURES, "level": -1.5}, {"seed": 1, **MEASURES, "level": -0.5}],
    "stretches": 9,
    "recording": {name: {"least": 0.125, "greatest": 0.5} for name in MEASURES},
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def pages(tmp_path_factory, sounding_run):
    """The page of one run, and that of two side by side."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(sounding_run, folder / "other <b>")
    (folder / "other <b>" / "samples" / "00000200_t0.80.wav").unlink()
    (folder / "other <b>" / "free_running.json").write_text(json.dumps(FREE_RUNNING))
    assert charrnn_report([str(sounding_run), "-o", str(folder / "one.html")]) == 0
    two = [str(sounding_run), str(folder / "other <b>"), "-o", str(folder / "two.html")]
    assert charrnn_report(two) == 0
    return folder


def body(path):
    """Return the page without the contents of its scripts."""
    return re.sub(r"(<script[^>]*>).*?</script>", r"\1</script>", path.read_text(encoding="utf-8"), flags=re.S)


def data_in(path):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])


def test_the_page_has_a_player_for_every_sound_and_for_the_original(pages, sounding_run):
    page = body(pages / "one.html")
    assert page.count("<audio") == 5
    for words in ("Iteration 200, temperature 0.8", "Iteration 400, temperature 1", "The original: tone.wav"):
        assert words in page
    assert "LSTM, 2 layers of 48" in page
    assert body(pages / "two.html").count("<audio") == 8


def test_the_page_is_self_contained(pages):
    for path in pages.glob("*.html"):
        page = body(path)
        assert set(re.findall(r'(?:src|href)="([a-z]*:?)', page)) <= {"data:", ""}
        assert "default-src 'none'" in page


def test_sound_is_kept_exactly(pages, sounding_run):
    page = body(pages / "one.html")
    coded = re.findall(
        r'aria-label="[^"]*Iteration 200, temperature 0.8[^"]*" src="data:audio/flac;base64,([^"]*)"', page
    )
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(coded[0])), dtype="int16")
    original, _ = soundfile.read(sounding_run / "samples" / "00000200_t0.80.wav", dtype="int16")
    assert rate == 11025
    np.testing.assert_array_equal(samples, original)


def test_a_spectrogram_is_bright_at_the_tone(pages):
    page = body(pages / "one.html")
    coded = re.findall(r'src="data:image/webp;base64,([^"]*)"', page)
    assert len(coded) == 5
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(coded[-1]))).convert("L")).astype(float)
    assert image.shape == (report.BINS, report.WIDTH)
    assert image[-12:].mean() > 1.3 * image[:50].mean()


def test_names_are_escaped(pages):
    page = body(pages / "two.html")
    assert "other &lt;b&gt;" in page
    assert "<b>" not in page


def test_short_curves_have_every_iteration(pages, sounding_run):
    (curve,) = data_in(pages / "one.html")["curves"]
    assert curve["iteration"] == list(range(1, 401))
    assert curve["val"]["iteration"] == [200, 400]
    assert curve["low"] == curve["high"]


def test_long_curves_are_thinned_and_keep_their_extremes(sounding_run):
    shutil.copytree(sounding_run, "long")
    rows = np.random.default_rng(0).normal(2, 0.1, 50_000)
    rows[12_345], rows[3] = 9, 0.5
    header = "iteration,epoch,train_loss,elapsed_seconds\n"
    Path("long/log.csv").write_text(header + "".join(f"{n},{n / 99},{y:.6g},{n / 7}\n" for n, y in enumerate(rows, 1)))
    assert charrnn_report(["long", "-q"]) == 0
    (curve,) = data_in(Path("report.html"))["curves"]
    assert 2000 < len(curve["iteration"]) < 2 * report.POINTS
    assert max(curve["high"]) == pytest.approx(9 / np.log(2), rel=1e-4)
    assert min(curve["low"]) == pytest.approx(0.5 / np.log(2), rel=1e-4)
    assert len(set(map(len, (curve[name] for name in ("iteration", "time", "low", "high", "mean"))))) == 1


def test_much_sound_is_stored_as_vorbis(sounding_run, monkeypatch):
    monkeypatch.setattr(report, "MAX_FLAC", 1000)
    assert charrnn_report([str(sounding_run), "--checkpoints", "best"]) == 0
    page = body(Path("report.html"))
    assert page.count("data:audio/ogg;base64,") == page.count("<audio") == 3


def test_a_run_without_samples_has_curves_and_a_hint(trained_run, capfdbinary):
    shutil.copytree(trained_run, "mine")
    assert charrnn_report(["mine"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == b"report.html\n"
    assert b"--sample-seconds" in err
    page = body(Path("report.html"))
    assert page.count("<audio") == 1  # the original
    assert "charrnn-train --sample-seconds 5" in page


def test_measures_of_free_running_are_shown_and_damaged_ones_are_reported(sounding_run, capsys):
    shutil.copytree(sounding_run, "mine")
    Path("mine/free_running.json").write_text(json.dumps(FREE_RUNNING))
    assert charrnn_report(["mine", "-q"]) == 0
    page = body(Path("report.html"))
    for words in (
        "2 seeds of 60 s; recording: 9 stretches of &lt;b&gt;.wav (train)",
        "level, dB</th><td>-1.0</td><td>-1.5 to -0.5</td><td>0.1 to 0.5</td>",
        "silent, %</th><td>25.0</td><td>25.0</td><td>12.5 to 50.0</td>",
    ):
        assert words in page
    assert re.search(r"mine: iteration 400, validation \d\.\d\d bits per sample<", page)
    for damaged in ("{", '{"seeds": []}', json.dumps(FREE_RUNNING | {"seeds": []})):
        Path("mine/free_running.json").write_text(damaged)
        capsys.readouterr()
        assert charrnn_report(["mine"]) == 0
        assert "mine/free_running.json" in capsys.readouterr().err
        assert "Free running" not in body(Path("report.html"))


def test_the_same_page_is_written_to_a_file_and_to_a_pipe(sounding_run, capfdbinary):
    assert charrnn_report([str(sounding_run)]) == 0
    capfdbinary.readouterr()
    assert charrnn_report([str(sounding_run), "-o", "-"]) == 0
    assert capfdbinary.readouterr().out == Path("report.html").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("mine --checkpoints 7", "checkpoint 7"),
        ("mine -o no/a.html", "no/a.html"),
        ("cut", "cut/samples/00000200_t0.80.wav"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_file(arguments, message, sounding_run, capsys, write_wav):
    for name in ("mine", "cut"):
        shutil.copytree(sounding_run, name)
    write_wav("cut/samples/00000200_t0.80.wav", b"")
    before = sorted(os.listdir())
    assert charrnn_report(arguments.split()) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert sorted(os.listdir()) == before


def test_a_name_that_is_not_of_html_exits_with_2_and_writes_nothing(sounding_run, capsys):
    with pytest.raises(SystemExit) as stop:
        charrnn_report([str(sounding_run), "-o", "x.pdf"])
    assert stop.value.code == 2
    assert ".html" in capsys.readouterr().err
    assert not os.path.exists("x.pdf")


# In a browser.


@pytest.fixture
def open_page(chromium, pages):
    """``open_page(name, ...)`` opens a page; see `opened_pages`."""
    with opened_pages(chromium, pages.as_uri()) as opened:

        def open_one(name, *options):
            page = opened((pages / name).as_uri(), *options)
            page.wait_for_selector("#plot .main-svg")
            return page

        yield open_one


@pytest.mark.integration
def test_a_sound_plays_and_a_second_one_stops_the_first(open_page):
    page = open_page("one.html")
    played = page.evaluate("""async () => {
        const [first, second] = document.querySelectorAll("audio");
        const volume = first.volume;
        await first.play();
        await new Promise((done) => first.addEventListener("timeupdate", done, { once: true }));
        const length = second.currentTime === 0 && first.duration;
        await second.play();
        await new Promise((done) => setTimeout(done, 300));
        return { volume, length, first: first.paused, second: second.paused, at: second.currentTime };
    }""")
    assert played["volume"] == pytest.approx(0.35)
    assert played["length"] == pytest.approx(0.4)
    assert played["first"]
    assert not played["second"]
    assert played["at"] > 0
    assert page.locator(".sound.playing").count() == 1
    assert "Iteration 200, temperature 0.8" in page.locator("#now").inner_text()


@pytest.mark.integration
def test_all_play_in_order_at_the_volume_of_the_slider(open_page):
    page = open_page("one.html")
    page.locator("#volume").fill("0.1")
    assert set(page.evaluate("[...document.querySelectorAll('audio')].map((one) => one.volume)")) == {0.1}
    page.evaluate("for (const one of document.querySelectorAll('audio')) one.playbackRate = 8")
    page.get_by_role("button", name="Play all in order").click()
    last = "() => document.querySelector('#now').textContent.includes('Iteration 400, temperature 1,')"
    page.wait_for_function(last, timeout=20000)
    page.get_by_role("button", name="Play all in order").wait_for(timeout=20000)


@pytest.mark.integration
def test_curves_zoom_and_change_their_axes_by_keyboard(open_page):
    page = open_page("two.html")
    axis = "document.querySelector('#plot')._fullLayout.xaxis"
    assert page.evaluate(f"{axis}.type") == "linear"
    page.locator("input[name=xscale][value=linear]").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(f"{axis}.type") == "log"
    page.keyboard.press("ArrowLeft")
    wide = page.evaluate(f"{axis}.range")
    page.locator("button[data-zoom='0.5']").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"{axis}.range[1] < {wide[1]}")
    narrow = page.evaluate(f"{axis}.range")
    assert narrow[1] - narrow[0] == pytest.approx((wide[1] - wide[0]) / 2)
    first = "document.querySelector('#plot').data.find((one) => one.name).y[0]"
    bits = page.evaluate(first)
    page.locator("input[name=unit][value=nats]").focus()
    page.keyboard.press("Space")
    assert page.evaluate(first) == pytest.approx(bits * np.log(2))
    page.locator("input[name=x][value=time]").check(force=True)
    assert "training time" in page.locator("#plot").inner_text()


@pytest.mark.integration
def test_the_pointer_shows_values_of_the_curves(open_page):
    page = open_page("two.html")
    box = page.locator("#plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#plot .hoverlayer .legend", state="attached")
    assert "training" in page.locator("#plot .hoverlayer").text_content()


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("two.html", 1280, "light"), ("one.html", 360, "dark")],
)
@pytest.mark.integration
def test_the_page_is_accessible_and_fits_the_window(open_page, name, width, scheme):
    page = open_page(name, width, scheme)
    page.locator("summary").click()
    page.evaluate("for (const one of document.querySelectorAll('.sound')) one.style.contentVisibility = 'visible'")
    assert_accessible(page)


@pytest.mark.integration
def test_every_control_is_reached_by_keyboard(open_page):
    page = open_page("one.html")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(document.activeElement.id || document.activeElement.tagName).toLowerCase()"))
    assert {"audio", "summary", "input", "button", "volume", "all"} <= reached
