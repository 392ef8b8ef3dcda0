"""charrnn-listen, and its page in a browser."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import wave
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")
from browser import assert_accessible, opened_pages
from listening import PLAY, Served, sampled, samplers, wait_for
from websockets.sync.client import connect

from charrnn.commands.listen import charrnn_listen
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.server import app as listen_app
from charrnn.storage.run_dir import Run

ROOT = Path(__file__).parents[2]
KERNEL = ROOT / "charrnn/engines/cpu/kernel.library"


@pytest.fixture(scope="module")
def other_run(tmp_path_factory, trained_run):
    """A copy of `trained_run` under another name."""
    folder = tmp_path_factory.mktemp("runs") / "other"
    shutil.copytree(trained_run, folder)
    return Run(folder)


@pytest.fixture(scope="module")
def served(trained_run, other_run):
    with Served([Run(trained_run), other_run], listeners=2) as one:
        yield one


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("nowhere", 1, "no run nowhere"),
        ("--host 0.0.0.0", 2, "--token"),
        ("--token short", 2, "8 characters"),
        ("mine --host no.such.host.invalid --token 12345678", 1, "no host no.such.host.invalid"),
    ],
)
def test_what_cannot_be_served_is_rejected(arguments, code, message, tmp_path, monkeypatch, capsys, trained_run):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_run, "mine")
    try:
        done = charrnn_listen(arguments.split())
    except SystemExit as error:
        done = error.code
    assert done == code
    error = capsys.readouterr().err
    assert error.startswith("charrnn-listen: ")
    assert message in error


def test_a_port_in_use_is_rejected(trained_run, capsys):
    with listen_app.bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        assert charrnn_listen([str(trained_run), "--port", port]) == 1
    assert f"port {port} of 127.0.0.1 (Address already in use)" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_command_prints_its_address_and_ends_on_a_signal(trained_run, number, code):
    command = [sys.executable, "-m", "charrnn.commands.listen", str(trained_run), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        message = process.stderr.readline()
        address = re.fullmatch(r"serving tone at (http://\S+);.*\n", message)[1]
        with urllib.request.urlopen(address) as answer:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        process.send_signal(number)
        assert process.wait(20) == code
        assert process.stderr.read() == ""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
@pytest.mark.skipif(not KERNEL.exists(), reason="the compiled engine was not built")
def test_the_command_plays_without_loading_torch(trained_run):
    command = [sys.executable, "-m", "charrnn.commands.listen", str(trained_run), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            host = process.stderr.readline().split("/")[2]
            with connect(f"ws://{host}/api/live") as socket:
                socket.send(json.dumps(PLAY))
                assert '"playing"' in socket.recv(20)
                assert len(socket.recv(20)) > 16
            assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        finally:
            process.terminate()


# In a browser.


@pytest.fixture
def open_page(chromium, served):
    """``open_page(...)`` opens the page; see `opened_pages`. At the end of the test, no sampler may be running."""
    address = f"http://{served.host}/"
    with opened_pages(chromium, address, f"ws://{served.host}/") as opened:

        def open_one(*options, **named):
            page = opened(address, *options, **named)
            page.wait_for_selector("#play:not([disabled])")
            return page

        yield open_one
    wait_for(lambda: not samplers())


@pytest.fixture
def tolerant_page(chromium, served):
    """Open the page, which may log rejected requests, unlike the pages of `open_page`."""
    page = chromium.new_page()
    page.goto(f"http://{served.host}/")
    page.wait_for_selector("#play:not([disabled])")
    yield page
    page.close()
    wait_for(lambda: not samplers())


def played(page):
    text = page.locator("#played").inner_text()
    return float(text.removesuffix(" s")) if text.endswith(" s") else 0.0


def play_for(page, seconds):
    page.locator("#play").click()
    wait_for(lambda: played(page) > seconds, seconds + 30)


@pytest.mark.integration
def test_the_page_plays_shows_the_temperature_and_stops(open_page):
    page = open_page()
    play_for(page, 0.5)
    assert "tone, iteration 400" in page.locator("#message").inner_text()
    page.locator("#temperature").fill("0.6")
    wait_for(lambda: page.locator("#current-temperature").inner_text() == "0.60")
    dots = "(one) => new Set(one.getContext('2d').getImageData(one.width - 40, 0, 40, one.height).data).size"
    wait_for(lambda: page.locator("#spectrum").evaluate(dots) > 20)
    assert page.locator("#wave").evaluate(dots) > 2
    page.locator("#play").click()
    assert page.locator("#play").get_attribute("aria-pressed") == "false"
    wait_for(lambda: not samplers())


@pytest.mark.integration
def test_the_saved_sound_is_the_sampled_sound(open_page, trained, tmp_path):
    page = open_page()
    page.locator("#seed").fill("7")
    play_for(page, 1.0)
    page.locator("#play").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the last 30 seconds").click()
    assert download.value.suggested_filename == "tone-live.wav"
    download.value.save_as(tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (11025, 2, 1)
        kept = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert len(kept) > 11025
    np.testing.assert_array_equal(kept, sampled(trained, 7, len(kept)))


@pytest.mark.integration
def test_the_page_resamples_if_the_browser_does_not_support_the_rate(open_page):
    page = open_page(
        script="""window.AudioContext = class extends AudioContext {
            constructor(options) {
                if (options.sampleRate) throw new DOMException("no such rate", "NotSupportedError");
                super({ ...options, sampleRate: 48000 });
            }
        };"""
    )
    play_for(page, 1.0)
    first, began = played(page), time.monotonic()
    time.sleep(1.5)
    assert 0.5 < (played(page) - first) / (time.monotonic() - began) < 1.5


def drop(page, name, content):
    """Drop a file on the page."""
    script = """([base, name]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(atob(base), (c) => c.charCodeAt(0))], name));
        document.querySelector("#drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
    }"""
    page.evaluate(script, [base64.b64encode(content).decode(), name])


@pytest.mark.integration
def test_the_network_continues_a_dropped_recording(open_page, tone_file, tmp_path):
    page = open_page()
    drop(page, "my tone.wav", tone_file.read_bytes())
    text = page.locator("#drop-text")
    wait_for(lambda: "2.0 seconds of my tone.wav" in text.inner_text())
    play_for(page, 0.3)
    page.locator("#play").click()
    page.get_by_role("button", name="Remove the recording").click()
    assert text.inner_text().startswith("Drop a recording here")


@pytest.mark.integration
def test_a_dropped_file_that_cannot_be_read_is_reported_while_the_network_plays(tolerant_page, tone_file):
    page = tolerant_page
    drop(page, "my tone.wav", tone_file.read_bytes())
    play_for(page, 0.3)
    drop(page, "junk.wav", b"junk")
    wait_for(lambda: "junk.wav" in page.locator("#message").inner_text())
    time.sleep(1)  # the status of a playing network arrives several times per second
    assert "junk.wav" in page.locator("#message").inner_text()
    assert "2.0 seconds of my tone.wav" in page.locator("#drop-text").inner_text()


@pytest.mark.integration
def test_recordings_dropped_at_once_are_read_one_after_the_other(tolerant_page, tone_file):
    text, message = tolerant_page.locator("#drop-text"), tolerant_page.locator("#message")
    drop(tolerant_page, "one.wav", tone_file.read_bytes())
    drop(tolerant_page, "junk.wav", b"junk")
    wait_for(lambda: "junk.wav" in message.inner_text())
    assert "2.0 seconds of one.wav" in text.inner_text()
    drop(tolerant_page, "junk.wav", b"junk")
    drop(tolerant_page, "two.wav", tone_file.read_bytes())
    wait_for(lambda: "2.0 seconds of two.wav" in text.inner_text())


@pytest.mark.integration
def test_every_control_is_reached_and_used_by_keyboard(open_page):
    page = open_page()
    reached = set()
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"play", "temperature", "volume", "run", "checkpoint", "seed", "another", "file"} <= reached
    page.locator("#temperature").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#temperature-value").inner_text() == "0.99"
    page.keyboard.press("Space")
    wait_for(lambda: played(page) > 0.2)
    page.keyboard.press("Space")
    assert page.locator("#play").inner_text() == "Play"
    page.locator("#run").select_option(label="other")
    assert page.locator("h1").inner_text() == "other"


@pytest.mark.integration
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_the_page_is_accessible_and_fits_the_window(open_page, width, scheme):
    page = open_page(width, scheme)
    page.wait_for_selector("#curve .mean", state="attached")
    assert_accessible(page)


@pytest.mark.slow
def test_twenty_seconds_play_without_a_gap(chromium, trained_run):
    """May fail on a machine that is busy with other programs."""
    command = [sys.executable, "-m", "charrnn.commands.listen", str(trained_run), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        page = chromium.new_page()
        address = re.search(r"http://[^\s;]+", process.stderr.readline())
        if not address:
            process.kill()
        page.goto(address[0])
        page.locator("#play:not([disabled])").click()
        page.wait_for_function("() => parseFloat(document.querySelector('#played').textContent) > 20", polling=500)
        gaps = page.locator("#gaps").inner_text()
        page.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert gaps == "0"


@pytest.mark.integration
def test_the_page_writes_the_text_of_a_network_of_text(chromium, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poem.txt").write_text("O rose, thou art sick! " * 40, encoding="utf-8")
    network = "--rnn-size 8 --layers 1 --batch-size 4 --seq-length 10 --max-iterations 6 --threads 1 -q".split()
    assert charrnn_train(["poem.txt", "--run-dir", "poem", *network]) == 0
    assert charrnn_sample(["poem", "--length", "60", "-o", "drawn.txt", "-q"]) == 0
    with Served([Run(tmp_path / "poem")]) as served:
        own = (f"http://{served.host}/", f"ws://{served.host}/")
        with opened_pages(chromium, *own) as opened:
            page = opened(own[0])
            page.locator("#play:not([disabled])").click()
            wait_for(lambda: len(page.locator("#text").text_content()) > 60)
            assert page.locator("#wave").is_hidden()
            page.locator("#play").click()
            text = page.locator("#text").text_content()
            assert_accessible(page)
            with page.expect_download() as download:
                page.get_by_role("button", name="Save the text").click()
            assert download.value.suggested_filename == "poem-live.txt"
    assert text[:60] == (tmp_path / "drawn.txt").read_text(encoding="utf-8")


@pytest.mark.integration
def test_osc_messages_control_the_page(chromium, trained_run, tone_file):
    udp_client = pytest.importorskip("pythonosc.udp_client")
    command = [sys.executable, "-m", "charrnn.commands.listen", str(trained_run), "--port", "0", "--osc", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            port = int(re.search(r"127.0.0.1, port (\d+)", process.stderr.readline())[1])
            address = re.search(r"http://[^\s;]+", process.stderr.readline())[0]
            page = chromium.new_page()
            page.goto(address)
            page.locator("#play:not([disabled])").click()
            wait_for(lambda: played(page) > 0)
            with udp_client.SimpleUDPClient("127.0.0.1", port) as client:
                client.send_message("/temperature", 0.5)
                wait_for(lambda: page.locator("#current-temperature").inner_text() == "0.50")
                client.send_message("/stop", [])
                wait_for(lambda: page.locator("#play").inner_text() == "Play")
                client.send_message("/prime", str(tone_file))
                wait_for(lambda: "of tone.wav" in page.locator("#drop-text").inner_text())
                client.send_message("/seed", 9)
                client.send_message("/play", [])
                wait_for(lambda: page.locator("#play").inner_text() == "Stop")
                assert page.locator("#seed").input_value() == "9"
                client.send_message("/prime", "/nowhere/nothing.wav")
                assert "nothing.wav has no effect" in process.stderr.readline()
                client.send_message("/temperature", 3.0)
                assert "/temperature 3 has no effect" in process.stderr.readline()
            assert page.locator("#temperature-value").inner_text() == "0.50"
            page.close()
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
