"""File names of any bytes: every command reads, writes and prints them."""

import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bytecodec.commands import utf82wav, wav2utf8
from bytecodec.console import Parser, log
from bytecodec.errors import InputError, printable
from bytecodec.files import open_output
from charrnn.commands.convert import charrnn_convert
from charrnn.commands.eval import charrnn_eval
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.storage.checkpoint_format import load
from charrnn.storage.run_dir import Run, new_run

if sys.platform == "win32":
    pytest.skip("its file systems take no such names", allow_module_level=True)

NAMES = {
    "not UTF-8": os.fsdecode(b"mod\x85 - la notte \xff"),
    "formula": r"Ba$$in _x^{2} \frac $a$",
    "underscore": "_x_",
    "control": "two\nlines\tand\r \x1b[31mred\x07\x85",
    "right to left": "a\u202e\u200fgpj.b",
    "emoji": "🎵 👩‍🚀",
    "CJK": "你好 こんにちは",
    "dash": "-rf --help",
    "quotes and tags": "'q\" <b>b< &amp; {{x}} %(s)s %d",
    "long": "é" * 120,
}
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
TINY = """
    --rnn-size 8 --layers 1 --wordvec-size 4 --batch-size 2 --seq-length 20 --max-iterations 2 --checkpoint-every 1
    --sample-seconds 0.02 --threads 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tone, write_wav):
    """A folder with a recording NAME.wav and a run runs/NAME, trained on it, for each odd name."""
    folder = tmp_path_factory.mktemp("odd")
    plain = write_wav(folder / "plain.wav", tone[:3000])
    assert charrnn_train([str(plain), *TINY.split(), "-q", "--run-dir", str(folder / "run")]) == 0
    config = json.loads((folder / "run" / "config.json").read_text())
    for name in NAMES.values():
        shutil.copy(plain, folder / f"{name}.wav")
        shutil.copytree(folder / "run", folder / "runs" / name)
        (folder / "runs" / name / "config.json").write_text(json.dumps(config | {"inputs": [f"{name}.wav"]}))
    return folder


@pytest.fixture(autouse=True)
def _in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


def all_names(pattern):
    return [pattern.format(name) for name in NAMES.values()]


def checked_messages(capfdbinary, lines=None):
    """Return the output on stderr, after a check that it is safe for a terminal."""
    said = capfdbinary.readouterr().err.decode("utf-8")
    assert not CONTROL.search(said)
    assert "Warning" not in said
    assert lines is None or said.count("\n") == lines
    return said


def test_files_with_any_name_are_read_and_written(capfdbinary):
    for name in NAMES.values():
        assert wav2utf8([f"./{name}.wav", f"./{name}.txt"]) == 0
        assert utf82wav([f"./{name}.txt", f"./{name}2.wav"]) == 0
        assert Path(f"{name}2.wav").stat().st_size == 3044
        more = ["--state-out", f"./{name}.state", "--start-file", f"./{name}.wav", "--threads", "1"]
        assert charrnn_sample([f"runs/{name}", "--seconds", "0.01", "-o", f"./{name}3.wav", *more]) == 0
        assert Path(f"{name}3.wav").stat().st_size > 100
        assert Path(f"{name}.state").stat().st_size > 100
        checked_messages(capfdbinary)


def test_a_run_is_trained_on_and_called_by_odd_names(tmp_path, folder, monkeypatch, capfdbinary):
    monkeypatch.chdir(tmp_path)
    run = f"{NAMES['not UTF-8']}{NAMES['control']}"
    inputs = [str(folder / name) for name in all_names("{}.wav")]
    plain = ["--context", "0", "--prediction", "none"]  # which can be converted to .onnx
    assert charrnn_train([*inputs, *TINY.split(), *plain, "--run-dir", run]) == 0
    assert capfdbinary.readouterr().out == os.fsencode(f"{run}\n")
    assert charrnn_train(["--resume", run, "--max-iterations", "3"]) == 0
    assert printable(run) in checked_messages(capfdbinary)
    assert charrnn_eval([run, inputs[0], "--threads", "1"]) == 0
    assert b"3,000 symbols" in capfdbinary.readouterr().out
    pytest.importorskip("onnx")
    assert charrnn_convert([run, f"{run}.onnx"]) == 0
    assert capfdbinary.readouterr().out == os.fsencode(f"{run}.onnx\n")


def test_a_default_run_is_named_after_any_input_in_plain_characters():
    for name in (*NAMES.values(), "é" * 127):
        path = new_run(None, f"{name}.wav")
        assert not CONTROL.search(path.name)
        assert len(path.name.encode()) < 110


def test_pictures_show_names_as_text(capfdbinary):
    pytest.importorskip("matplotlib")
    from charrnn.commands.plot import charrnn_plot
    from charrnn.viz.plots import escape_missing_glyphs

    formula = NAMES["formula"]
    Path("columns.csv").write_text(f"{formula},_{formula},{NAMES['emoji']}\n1,2,3\n2,3,4\n")
    for number, sources in enumerate((all_names("runs/{}"), all_names("./{}.wav")[:3], all_names("runs/{}")[:1])):
        output, title = f"{formula}{number}.svg", f"{number}{NAMES['control']}"
        assert charrnn_plot([*sources, "-o", output, "--title", title, "--width", "2000", "--height", "1200"]) == 0
        text = " ".join(ElementTree.parse(output).getroot().itertext())
        assert printable(title) in text
        for name in NAMES.values() if number == 0 else ():
            assert escape_missing_glyphs(printable(name, 80)) in text
    for output in ("c.svg", "c.png"):
        columns = ["--x", formula, "--y", f"_{formula},{NAMES['emoji']}"]
        assert charrnn_plot(["columns.csv", *columns, "-o", output, "--title", NAMES["CJK"]]) == 0
    text = " ".join(ElementTree.parse("c.svg").getroot().itertext())
    assert f"columns, _{formula}" in text
    assert checked_messages(capfdbinary) == ""


def test_the_report_shows_names_as_text(capfdbinary):
    pytest.importorskip("plotly")
    from charrnn.commands.report import charrnn_report

    class Texts(HTMLParser):
        found = ""

        def handle_data(self, data):
            self.found += data

    output = f"./{NAMES['not UTF-8']}.html"
    assert charrnn_report([*all_names("runs/{}"), "-o", output]) == 0
    text = Path(output).read_bytes().decode("utf-8")
    page = Texts()
    page.feed(text)
    for name in NAMES.values():
        assert printable(name, 80) in page.found
        assert printable(f"{name}.wav", 80) in page.found
    data = re.search(r'id="data">(.*?)</script>', text, re.S)[1]
    assert [curve["name"] for curve in json.loads(data)["curves"]] == [printable(name, 80) for name in NAMES.values()]
    assert checked_messages(capfdbinary) == ""


def test_the_video_shows_names(monkeypatch, capfdbinary):
    pytest.importorskip("matplotlib")
    from charrnn.commands.video import charrnn_video
    from charrnn.viz import video

    monkeypatch.setattr(video, "_encode", lambda *given: given[-1].write_bytes(b"%d" % len([*given[1]])))
    monkeypatch.setattr(video, "ffmpeg", lambda: "ffmpeg")
    more = ["--size", "320x180", "--fps", "5", "--checkpoints", "newest", "--title", NAMES["control"]]
    output = f"{NAMES['control']}.mp4"
    assert charrnn_video([*all_names("runs/{}"), "-o", output, *more]) == 0
    assert int(Path(output).read_text()) > 100
    assert checked_messages(capfdbinary) == ""


def test_the_listening_page_lists_names_as_text():
    pytest.importorskip("starlette")
    from charrnn.server.app import AppState

    listed = AppState([Run(Path(path)) for path in all_names("runs/{}")], 1, 1).listing()
    json.dumps(listed, ensure_ascii=False).encode("utf-8")
    assert [run["name"] for run in listed] == [printable(name, 80) for name in NAMES.values()]
    assert all(run["checkpoints"] == [1, 2] for run in listed)


def test_a_missing_file_and_a_wrong_command_line_are_one_line(capfdbinary):
    for name in NAMES.values():
        for main, argument in (
            (wav2utf8, f"./{name}no"),
            (charrnn_train, f"./{name}no"),
            (charrnn_sample, f"./{name}no"),
            (charrnn_eval, f"./{name}no"),
        ):
            assert main([argument]) == 1
            assert printable(name)[:50] in checked_messages(capfdbinary, lines=1)
        assert charrnn_convert([f"./{name}no.t7", "a.safetensors"]) == 1
        assert printable(name)[:50] in checked_messages(capfdbinary, lines=1)
        with pytest.raises(SystemExit, match="2"):
            Parser("p", "d", "e").parse_args(["--", name])
        assert printable(name, 100)[:50] in checked_messages(capfdbinary, lines=1)


def test_an_output_name_may_have_255_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"a" * 251 + ".wav", "é" * 125 + "b.wav", "你" * 83 + "bc.wav"}
    for name in names:
        assert len(os.fsencode(name)) == 255
        with open_output(name) as file:
            file.write(b"x")
        assert Path(name).read_bytes() == b"x"
    assert {path.name for path in tmp_path.iterdir()} == names


def test_an_output_name_of_more_bytes_is_refused_before_anything_is_written(tmp_path, tone_file, capsys):
    target = str(tmp_path / ("é" * 126 + ".txt"))
    assert wav2utf8([str(tone_file), target]) == 1
    said = capsys.readouterr().err
    assert "255 bytes" in said
    assert said.count("\n") == 1
    with pytest.raises(OSError, match="too long"), open_output(target):
        pytest.fail("it was opened")


def test_a_message_is_one_printable_line_of_bounded_length(capsys):
    error = InputError("\x1b[2J" + "x" * 100_000 + "\nforged: all is well")
    assert len(str(error)) <= 400
    assert str(error).startswith(r"\x1b[2Jxxx")
    assert str(error).endswith(r"x\nforged: all is well")
    log("\x1b" * 100_000 + "\n")
    said = capsys.readouterr().err
    assert len(said) < 1100
    assert said.count("\n") == 1
    assert "\x1b" not in said


@pytest.mark.parametrize("metadata", ["tensor", "kind", "cell", "setting", "rate", "header"])
def test_messages_on_a_hostile_checkpoint_are_short_and_printable(folder, metadata, capsys):
    long = "\x1b[31m\n" + "x" * 100_000
    data = (folder / "run" / "checkpoints" / "00000002.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    details = json.loads(head["__metadata__"]["charrnn"])
    if metadata == "tensor":
        head[long] = head.pop("output.bias")
    elif metadata in ("cell", "setting"):
        details["model"][{"cell": "cell", "setting": long}[metadata]] = long
    elif metadata in ("kind", "rate"):
        details[metadata] = long
    head["__metadata__"]["charrnn"] = json.dumps(details)
    text = json.dumps(head).encode() if metadata != "header" else b"{" + long.encode() + b"}"
    Path("hostile.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(InputError) as error:
        load("hostile.safetensors")
    assert len(str(error.value)) <= 400
    assert str(error.value).isprintable()
    for main in (charrnn_sample, charrnn_eval):
        assert main(["hostile.safetensors"]) == 1
        said = capsys.readouterr().err
        assert said.removesuffix("\n").isprintable()
        assert len(said) <= 450


def test_characters_that_are_not_printable_are_escaped():
    shown = {
        "plain ~ é 你 🎵 \u3000\u00a0": "plain ~ é 你 🎵 \u3000\u00a0",
        r"C:\new": r"C:\new",
        "a\n\r\t\0\x1b\x7f\x85": r"a\n\r\t\x00\x1b\x7f\u0085",
        "\u202e\u200f\u2028\U000e0001": r"\u202e\u200f\u2028\U000e0001",
        "👩\u200d🚀": "👩\u200d🚀",
        os.fsdecode(b"a\xff"): r"a\xff",
        "\ud800": r"\ud800",
        b"a\xffb": r"a\xffb",
        Path("a\nb"): r"a\nb",
        7: "7",
    }
    for text, expected in shown.items():
        assert printable(text) == expected
        assert printable(expected) == expected


def test_long_text_keeps_its_ends():
    assert printable("a" * 50 + "b" * 50, 11) == "aaaaa…bbbbb"
    assert printable("\x1b" * 9, 9) == r"\x1b…\x1b"
    assert printable("abc", 3) == "abc"
