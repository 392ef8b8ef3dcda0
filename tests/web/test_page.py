"""Pages that play a network by themselves: what they contain, and in a browser the symbols that they draw."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import assert_accessible, opened_pages
from compiled_kernel import kernel_variants
from engine_inputs import perturbed
from listening import wait_for
from pairwise import pairwise

import bytecodec
from bytecodec import InputError
from charrnn.commands.convert import charrnn_convert
from charrnn.commands.sample import charrnn_sample
from charrnn.data.vocab import Vocab
from charrnn.engines import engine
from charrnn.models.config import ModelConfig
from charrnn.sampling.generate import generate
from charrnn.storage import checkpoint_format
from charrnn.storage.checkpoint import Checkpoint, save
from charrnn.web import page as pages

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools/make_web_engine.py"

kernel_variants()  # skips without a kernel, which packs the networks

NETWORKS = pairwise(
    ("lstm", "lstmp", "gru", "rnn"),
    ("fp32", "bf16", "int4", "int4.5", "int5", "int6", "int7"),
    (False, True),  # layer normalisation
    ("text", "symbols", "context", "lpc", "lpc-long"),  # what the network reads
    ("relaxed", "plain", "relaxed-shared"),
)
NO_RELAXED = """
    const { validate } = WebAssembly;
    let calls = 0;
    WebAssembly.validate = (bytes) => (calls += 1) > 1 && validate(bytes); // the first module has relaxed SIMD
"""


def network(folder, cell="lstm", layer_norm=True, reads="lpc", **metadata):
    """Return the stored checkpoint of an untrained network whose symbols depend on all of its weights."""
    config = ModelConfig(
        vocab_size=300 if reads == "text" else 256,
        cell=cell,
        rnn_size=24,
        layers=2,
        wordvec_size=5,
        proj_size=10 if cell == "lstmp" else None,
        layer_norm=layer_norm,
        context=7 if reads not in ("text", "symbols") else 0,
        prediction=reads if reads.startswith("lpc") else "none",
    )
    vocab = Vocab("".join(map(chr, range(0x100, 0x22C)))) if reads == "text" else Vocab.of_alphabet("braille")
    sound = {} if reads == "text" else {"rate": 11025, "encoding": "linear"}
    level = {"level": 20.0, "loudest": 22.0, "calibration": 0.97} if config.predictors else {}
    made = Checkpoint(perturbed(config, sharpness=3), vocab, val_loss=1.5, **sound | level | metadata)
    save(folder / "network.safetensors", made)
    return checkpoint_format.load(folder / "network.safetensors")


@pytest.fixture(scope="module")
def isolated_server(tmp_path_factory):
    """Serve a folder with cross-origin isolation, with which pages have two threads; return the folder and its URL."""
    folder = tmp_path_factory.mktemp("isolated")

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self):
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def open_page(chromium, tmp_path, isolated_server):
    """``open_page(html, is_isolated=False, ...)`` opens a page and waits until it is loaded; see `opened_pages`.

    It is opened from disk, or with cross-origin isolation from a server.
    """
    with opened_pages(chromium, f"file://{tmp_path}/", isolated_server[1]) as opened:

        def open_one(html, is_isolated=False, **options):
            folder, address = isolated_server if is_isolated else (tmp_path, f"file://{tmp_path}")
            (folder / "page.html").write_text(html, encoding="utf-8")
            page = opened(f"{address}/page.html", **options)
            page.wait_for_selector("#play:not([disabled])")
            return page

        yield open_one


def drawn(page, seed, temperature, length):
    request = {"seed": seed, "temperature": temperature, "length": length}
    return page.evaluate("async (request) => Array.from(await window.charrnn.sample(request))", request)


def expected(checkpoint, precision, seed, temperature, length):
    made = engine(checkpoint, "cpu", precision=precision, threads=1)
    return np.concatenate([*generate(made, length, temperature, seed)], axis=1)[0].tolist(), made.restarts


def test_a_page_contains_its_texts_escaped_and_loads_nothing(tmp_path):
    html = pages.make_page(network(tmp_path), 'a <b> & "c"', "<script>x</script>.wav")
    assert "<title>a &lt;b&gt; &amp; &quot;c&quot;</title>" in html
    assert "<b>" not in html
    assert "<script>x" not in html
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", html)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none';")
    assert "connect-src" not in policy  # so that default-src applies


def test_the_modules_are_those_of_the_sources():
    subprocess.run([sys.executable, TOOL, "--check"], check=True)


@pytest.mark.slow
def test_the_modules_are_compiled_again_byte_by_byte(tmp_path):
    pytest.importorskip("ziglang")
    wanted = re.search(r"^ziglang==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    if version("ziglang") != wanted:
        pytest.skip(f"the modules were compiled by ziglang {wanted}, and {version('ziglang')} is installed")
    subprocess.run([sys.executable, TOOL, tmp_path], check=True)
    for file in (ROOT / "charrnn/web/modules").iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


def test_a_page_that_would_be_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "MAX_BYTES", 50_000)
    with pytest.raises(InputError, match="use --precision"):
        pages.make_page(network(tmp_path), "a page")


def test_cells_that_the_kernel_does_not_have_are_refused(tmp_path):
    with pytest.raises(InputError, match="lstmor"):
        pages.make_page(network(tmp_path, "lstmor"), "a page")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("cell", "precision", "layer_norm", "reads", "module"),
    [pytest.param(*row, marks=[pytest.mark.slow] if i % 4 else []) for i, row in enumerate(NETWORKS)],
)
def test_a_page_draws_the_symbols_of_the_compiled_engine(
    open_page, tmp_path, cell, precision, layer_norm, reads, module
):
    checkpoint = network(tmp_path, cell, layer_norm, reads)
    html = pages.make_page(checkpoint, "a page", precision=precision)
    page = open_page(html, module == "relaxed-shared", script=NO_RELAXED if module == "plain" else "")
    assert page.evaluate("window.charrnn.info.engine") == module
    for seed, temperature, length in ((5, 0.9, 700), (2**53 - 1, 0.0, 3), (0, 2.0, 300)):
        assert drawn(page, seed, temperature, length) == expected(checkpoint, precision, seed, temperature, length)[0]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("milliseconds", "blocks", "threads"),
    [
        pytest.param("20", 20, [2, 2], id="two are faster"),
        pytest.param("90", 20, [1, 1], id="two are slower"),
        pytest.param("calls > 70 ? 900 : 20", 20, [2, 1], id="two become slower"),
        pytest.param("calls > 100 ? 1 : 900", 88, [1, 2], id="two become faster"),
    ],
)
def test_a_page_uses_the_faster_number_of_threads(open_page, tmp_path, milliseconds, blocks, threads):
    checkpoint = network(tmp_path)
    clock = f"""
        let threads = 1, calls = 0, time = 0;
        const performance = {{ now: () => (calls += 1, time += threads === 2 ? {milliseconds} : 30) }};
        const useWorkers = (count) => (threads = count, engine.exports.use_workers(count));
    """
    html = pages.make_page(checkpoint, "a page").replace("engine.exports.use_workers(", "useWorkers(")
    page = open_page(patched(html, "let engine = null", f"{clock}\nlet engine = null"), is_isolated=True)
    used = [page.evaluate("window.charrnn.info.threads")]
    assert drawn(page, 3, 1.0, 256 * blocks) == expected(checkpoint, "auto", 3, 1.0, 256 * blocks)[0]
    used.append(page.evaluate("window.charrnn.info.threads"))
    assert used == threads


@pytest.mark.integration
def test_a_page_without_shared_memory_uses_one_thread(open_page, tmp_path):
    script = """
        const { Memory } = WebAssembly;
        WebAssembly.Memory = function (options) {
            if (options.shared) throw new RangeError("could not allocate memory");
            return new Memory(options);
        };
    """
    page = open_page(pages.make_page(network(tmp_path), "a page"), is_isolated=True, script=script)
    info = page.evaluate("window.charrnn.info")
    assert (info["engine"], info["threads"]) == ("relaxed", 1)


@pytest.mark.integration
def test_a_page_draws_what_charrnn_sample_draws_from_a_trained_network(open_page, trained_run, tmp_path):
    output = tmp_path / "drawn.txt"
    flags = ["--length", "20000", "--seed", "5", "--temperature", "0.9", "-q", "-o", str(output)]
    assert charrnn_sample([str(trained_run), *flags]) == 0
    assert charrnn_convert([str(trained_run), str(tmp_path / "tone.html"), "-q"]) == 0
    page = open_page((tmp_path / "tone.html").read_text(encoding="utf-8"))
    assert bytes(drawn(page, 5, 0.9, 20000)) == bytecodec.decode(output.read_text(encoding="utf-8"))
    info = page.evaluate("window.charrnn.info")
    assert (info["rate"], info["rnnSize"], info["trainedOn"]) == (11025, 48, "tone.wav")
    assert info["timesRealTime"] > 0


@pytest.mark.integration
def test_a_stream_that_is_too_loud_restarts_in_a_page_as_in_the_engine(open_page, tmp_path):
    checkpoint = network(tmp_path, level=1.0, loudest=1.0)
    ids, restarts = expected(checkpoint, "fp32", 1, 1.0, 5000)
    assert restarts
    page = open_page(pages.make_page(checkpoint, "loud", precision="fp32"))
    assert drawn(page, 1, 1.0, 5000) == ids


@pytest.mark.integration
def test_requests_at_once_are_answered_one_after_the_other(open_page, tmp_path):
    checkpoint = network(tmp_path)
    page = open_page(pages.make_page(checkpoint, "a page"))
    script = (
        "async (all) => (await Promise.all(all.map((one) => window.charrnn.sample(one)))).map((ids) => Array.from(ids))"
    )
    requests = [{"seed": seed, "temperature": 1, "length": length} for seed, length in ((1, 600), (2, 1), (3, 300))]
    found = page.evaluate(script, requests)
    assert found == [expected(checkpoint, "auto", one["seed"], 1, one["length"])[0] for one in requests]


@pytest.mark.integration
def test_a_wrong_request_is_rejected(open_page, tmp_path):
    page = open_page(pages.make_page(network(tmp_path), "a page"))
    for request, key in (
        ({"seed": -1}, "RangeError: seed is -1:"),
        ({"seed": 2**54}, "RangeError: seed is "),
        ({"temperature": "1"}, 'RangeError: temperature is "1": it must be a number'),
        ({"length": 1.5}, "RangeError: length is 1.5:"),
        ({"lenght": 5}, "TypeError: lenght is no option"),
        ("abc", "TypeError: 0 is no option"),
    ):
        error = page.evaluate("(request) => window.charrnn.sample(request).catch((error) => `${error}`)", request)
        assert error.startswith(key)


@pytest.mark.integration
def test_a_seed_that_is_none_is_refused(open_page, tmp_path):
    page = open_page(pages.make_page(network(tmp_path), "a page"))
    page.locator("#seed").fill("1.5")
    page.locator("#play").click()
    assert page.locator("#message").inner_text().startswith("The seed is 1.5:")
    assert page.locator("#play").inner_text() == "Play"
    page.locator("#another").click()
    page.locator("#play").click()
    wait_for(lambda: seconds_played(page) > 0)
    page.locator("#seed").fill("-1")
    page.locator("#seed").press("Enter")
    assert page.locator("#message").inner_text().startswith("The seed is -1:")
    assert page.locator("#play").inner_text() == "Stop"


@pytest.mark.integration
def test_a_request_that_does_not_fit_into_memory_fails_alone(open_page, tmp_path):
    checkpoint = network(tmp_path)
    page = open_page(
        pages.make_page(checkpoint, "a page"),
        script="""
        const { Worker } = globalThis;
        globalThis.Worker = class extends Worker {
            postMessage(message, ...rest) {
                super.postMessage(message.length === 12345 ? { ...message, length: 2 ** 60 } : message, ...rest);
            }
        };
    """,
    )
    page.locator("#play").click()
    requests = [{"seed": 1, "length": 600}, {"length": 12345}, {"seed": 2, "length": 300}]
    script = (
        "(all) => Promise.all(all.map((one) => charrnn.sample(one).then((ids) => ids.length, (error) => `${error}`)))"
    )
    first, failed, last = page.evaluate(script, requests)
    assert (first, last) == (600, 300)
    assert failed.startswith("RangeError: length is ")
    wait_for(lambda: seconds_played(page) > 0.5)


@pytest.mark.integration
def test_a_page_plays_saves_and_stops(open_page, tmp_path):
    checkpoint = network(tmp_path)
    page = open_page(pages.make_page(checkpoint, "A voice / 1", precision="int7"))
    page.locator("#seed").fill("7")
    page.locator("#play").click()
    wait_for(lambda: seconds_played(page) > 1)
    page.locator("#temperature").fill("0.6")
    wait_for(lambda: page.locator("#current-temperature").inner_text() == "0.60")
    page.locator("#play").click()
    assert page.locator("#play").inner_text() == "Play"
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the last 30 seconds").click()
    assert download.value.suggested_filename == "A voice - 1-live.wav"
    download.value.save_as(tmp_path / "a.wav")
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    first = np.array(expected(checkpoint, "int7", 7, 1.0, 4000)[0])
    assert rate == 11025
    np.testing.assert_array_equal(samples[:4000] // 256 + 128, first)


@pytest.mark.integration
def test_a_page_that_is_slower_than_real_time_renders_ahead(open_page, tmp_path):
    checkpoint = network(tmp_path, rate=768_000)
    page = open_page(pages.make_page(checkpoint, "slow"))
    assert "slower than real time" in page.locator("#message").inner_text()
    page.locator("#play").click()
    wait_for(lambda: float(page.locator("progress").get_attribute("value")) > 0)
    assert "seconds ahead" in page.locator("#message").inner_text()
    page.locator("#play").click()
    assert page.locator("progress").is_hidden()


@pytest.mark.integration
@pytest.mark.slow
def test_a_page_that_is_too_slow_once_plays_every_sample(open_page, tmp_path):
    checkpoint = network(tmp_path)
    clock = "let time = 0;\nconst performance = { now: () => (time += 23.2) };"  # 256 symbols in real time
    stall = "if (playback.drawn === 51200) for (const end = Date.now() + 6000; Date.now() < end; );"
    html = patched(
        pages.make_page(checkpoint, "slow", precision="int7"), "let engine = null", f"{clock}\nlet engine = null"
    )
    html = patched(html, "if (mustPlay()) {", f"{stall}\nif (mustPlay()) {{")
    page = open_page(html)
    top = page.locator("#play").bounding_box()["y"]
    page.locator("#play").click()
    wait_for(lambda: page.locator("#gaps").inner_text() == "1")
    assert page.locator("#play").bounding_box()["y"] == top
    wait_for(lambda: seconds_played(page) > 5.5)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the last 30 seconds").click()
    download.value.save_as(tmp_path / "a.wav")
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert len(samples) > 5.5 * 11025
    first = np.array(expected(checkpoint, "int7", 0, 1.0, len(samples))[0])
    np.testing.assert_array_equal(samples // 256 + 128, first)


@pytest.mark.integration
def test_a_page_of_a_network_of_text_writes_it(open_page, tmp_path):
    checkpoint = network(tmp_path, reads="text")
    page = open_page(pages.make_page(checkpoint, "poem"))
    assert page.locator("#wave").is_hidden()
    page.locator("#play").click()
    wait_for(lambda: len(page.locator("#text").text_content()) > 60)
    page.locator("#play").click()
    ids = expected(checkpoint, "auto", 0, 1.0, 60)[0]
    assert page.locator("#text").text_content()[:60] == checkpoint.vocab.decode(np.array(ids))
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the text").click()
    assert download.value.suggested_filename == "poem-live.txt"


@pytest.mark.integration
def test_a_controller_turns_the_temperature_and_a_note_starts_a_new_seed(open_page, tmp_path):
    page = open_page(
        pages.make_page(network(tmp_path), "MIDI"),
        script="""
            const input = { name: "Keys" };
            navigator.requestMIDIAccess = async () => ({ inputs: new Map([["1", input]]) });
            window.midi = (...data) => input.onmidimessage({ data });
        """,
    )
    page.locator("#midi").click()
    wait_for(lambda: page.locator("#midi").inner_text() == "MIDI: Keys")
    page.evaluate("midi(0xb0, 1, 127)")
    assert page.locator("#temperature-value").inner_text() == "2.00"
    page.evaluate("midi(0xb3, 74, 0)")
    assert page.locator("#temperature-value").inner_text() == "0.00"
    page.evaluate("midi(0xb0, 1, 64)")
    page.evaluate("midi(0xb0, 123, 0)")  # all notes off, which is no controller
    assert page.locator("#temperature-value").inner_text() == "1.01"
    page.evaluate("midi(0x90, 60, 0)")  # the end of a note
    assert page.locator("#seed").input_value() == "0"
    page.evaluate("midi(0x90, 60, 100)")
    assert page.locator("#seed").input_value() != "0"


@pytest.mark.integration
@pytest.mark.parametrize(("width", "color_scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("reads", ["lpc", "text"])
def test_a_page_is_accessible_and_fits_the_window(open_page, tmp_path, width, color_scheme, reads):
    page = open_page(pages.make_page(network(tmp_path, reads=reads), "a page"), width=width, color_scheme=color_scheme)
    assert_accessible(page)
    page.locator("#temperature").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#temperature-value").inner_text() == "0.99"
    page.keyboard.press("Space")
    assert page.locator("#play").inner_text() == "Stop"


def patched(html, old, new):
    """Return a page with other code in its worker, which the content security policy allows."""
    assert html.count(old) == 1
    return html.replace(old, new)


def seconds_played(page):
    text = page.locator("#played").inner_text()
    return float(text.removesuffix(" s")) if text.endswith(" s") else 0.0
