"""Files, folders, pipes and standard input as inputs of the commands."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import bytecodec
from bytecodec.errors import InputError
from charrnn.commands.eval import charrnn_eval
from charrnn.commands.plot import charrnn_plot
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.data.corpus import SoundOptions, prepare_corpus
from charrnn.data.inputs import Unreadable, files_in, opened
from charrnn.frames import data as frame_data

TINY = "--rnn-size 4 --layers 1 --wordvec-size 2 --batch-size 1 --seq-length 4 --threads 1 --device cpu".split()
SMALL = [*TINY, "--max-iterations", "1"]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
M4A = b"\0\0\0\x20ftypM4A " + bytes(100)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ids():
    """``ids(*inputs)``: the corpus of a network of symbols, or of frames, from these inputs."""

    def make(*inputs, frames=False, sound=None, **more):
        sound = sound or SoundOptions()
        if frames:
            return frame_data.prepare(inputs, Path("corpus"), sound, quiet=False, **more)
        return prepare_corpus(inputs, Path("corpus"), sound, **more)

    return make


@pytest.fixture
def stdin(monkeypatch):
    """``stdin(data)`` sends bytes to standard input."""

    def send(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return send


def files(*names, content="abc"):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)


def listed(folder):
    return [path.as_posix() for path in files_in(Path(folder), Unreadable())]


# Folders


def test_links_are_followed_and_hidden_files_and_folders_are_not_read():
    files("set/b.txt", "set/.hidden.txt", "set/.ipynb_checkpoints/a.txt", "set/.Trash/x/y.txt", "other/deep/c.txt")
    Path("set/linked").symlink_to(Path("other").resolve())
    Path("set/d.txt").symlink_to(Path("other/deep/c.txt").resolve())
    assert listed("set") == ["set/b.txt", "set/d.txt", "set/linked/deep/c.txt"]


def test_a_folder_is_read_once_however_many_links_lead_there():
    files("set/z/a.txt")
    for link, target in (("set/loop", "."), ("set/a", "z"), ("set/z/up", ".."), ("set/b", "z")):
        Path(link).symlink_to(target)
    assert listed("set") == ["set/z/a.txt"]


def test_a_hidden_folder_that_is_named_is_read():
    files(".set/a.txt")
    assert listed(".set") == [".set/a.txt"]


@pytest.mark.parametrize("frames", [False, True])
def test_files_that_are_left_out_of_a_folder_are_named(ids, write_wav, capsys, frames):
    files("set/a.jpg", "set/b.txt", "set/c/d.md", "set/e.csv", "set/f.pdf")
    write_wav(Path("set/x.wav"), [1, 2, 3])
    assert len(ids("set", frames=frames).ids) == 3
    assert "left out: a.jpg, b.txt, c/d.md and 2 more" in capsys.readouterr().err


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize(("name", "content"), [("b.wav", LFS), ("b.m4a", M4A), ("b.flac", ""), ("b.bin", M4A)])
def test_a_bad_recording_in_a_folder_stops_before_any_is_read(ids, write_wav, monkeypatch, frames, name, content):
    files(f"set/{name}", content=content)
    for other in ("a.wav", "c.wav"):
        write_wav(Path("set") / other, [1, 2, 3])
    monkeypatch.setattr(bytecodec, "read_blocks", lambda *_, **__: pytest.fail("a recording was read"))
    with pytest.raises(InputError, match=name):
        ids("set", frames=frames)
    assert not Path("corpus").exists()


@pytest.mark.parametrize("frames", [False, True])
def test_bad_files_are_left_out_and_listed_on_request(ids, write_wav, capsys, frames):
    files("set/b.wav", content=LFS)
    files("set/c.m4a", "song.wma", content=M4A)
    Path("set/gone.wav").symlink_to("nowhere")
    write_wav(Path("set/a.wav"), [1, 2, 3])
    found = ids("set", "song.wma", "missing.wav", frames=frames, skip_unreadable=True)
    assert len(found.ids) == 3
    assert found.names == (str(Path("set/a.wav")),)
    bad = ("set/b.wav", "set/c.m4a", "set/gone.wav", "song.wma", "missing.wav")
    assert found.skipped == tuple(str(Path(name)) for name in bad)
    assert f"5 files could not be read and are left out: {', '.join(found.skipped)}." in capsys.readouterr().err


@pytest.mark.parametrize("frames", [False, True])
def test_a_recording_whose_damage_is_found_late_is_removed_from_the_corpus(ids, write_wav, monkeypatch, frames):
    for name in ("a.wav", "b.wav", "c.wav"):
        write_wav(Path(name), [ord(name[0])] * 3)
    read = bytecodec.read_blocks

    def damaged(file, *args, **more):
        yield from read(file, *args, **more)
        if file.name == "b.wav":
            raise InputError("b.wav is damaged")

    monkeypatch.setattr(bytecodec, "read_blocks", damaged)
    found = ids("a.wav", "b.wav", "c.wav", frames=frames, skip_unreadable=True)
    assert (len(found.ids), found.names, found.skipped) == (6, ("a.wav", "c.wav"), ("b.wav",))
    with pytest.raises(InputError, match=r"b\.wav"):
        ids("a.wav", "b.wav", frames=frames)


@pytest.mark.parametrize("prepared", [prepare_corpus, frame_data.prepare])
def test_a_damaged_recording_of_a_set_with_one_gain_is_listed_once(write_wav, prepared):
    write_wav(Path("a.wav"), [1, 2, 3])
    soundfile.write("b.flac", np.random.default_rng(1).uniform(-0.5, 0.5, 30_000), 11025)
    data = bytearray(Path("b.flac").read_bytes())
    data[20_000:20_100] = bytes(100)
    Path("b.flac").write_bytes(data)
    options = SoundOptions(normalize=True, normalize_over="set")
    assert prepared(["a.wav", "b.flac"], Path("corpus"), options, skip_unreadable=True).skipped == ("b.flac",)


@pytest.mark.parametrize("frames", [False, True])
def test_what_turns_out_to_be_unreadable_when_a_set_is_measured_is_listed_once(ids, write_wav, frames):
    write_wav(Path("mono.wav"), [1, 2, 3])
    soundfile.write("stereo.wav", np.full((5, 2), 0.5), 11025)
    sound = SoundOptions(channel=2, normalize=True, normalize_over="set")
    found = ids("mono.wav", "stereo.wav", frames=frames, skip_unreadable=True, sound=sound)
    assert (len(found.ids), found.names, found.skipped) == (5, ("stereo.wav",), ("mono.wav",))
    with pytest.raises(InputError, match=r"none of the inputs can be read: mono\.wav\."):
        ids("mono.wav", frames=frames, skip_unreadable=True, sound=sound)


@pytest.mark.parametrize("frames", [False, True])
def test_inputs_of_which_none_can_be_read_are_an_error_with_their_names(ids, frames):
    files("a.m4a", "b.m4a", content=M4A)
    with pytest.raises(InputError, match=r"a\.m4a, b\.m4a"):
        ids("a.m4a", "b.m4a", frames=frames, skip_unreadable=True)


def test_texts_do_not_replace_recordings_that_cannot_be_read(ids):
    files("only/song.m4a", content=M4A)
    files("only/notes.txt")
    with pytest.raises(InputError, match=r"song\.m4a is an MPEG-4"):
        ids("only")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_an_error():
    files("set/a/b.txt")
    Path("set/a").chmod(0)
    with pytest.raises(PermissionError):
        listed("set")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_a_folder_is_left_out_and_not_waited_for(ids, capsys):
    files("set/a.txt")
    os.mkfifo("set/b.wav")
    assert len(ids("set").ids) == 3
    assert "b.wav" in capsys.readouterr().err


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(ids, encoding):
    files("a.txt", content="žluť 😀\n".encode(encoding))
    for named in ("utf-8", "latin-1"):
        assert ids("a.txt", encoding=named).vocab.characters == "\n lu\u0165\u017e\U0001f600"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("latin-1", "Zwölf Jäger\n"), ("cp1252", "“Zwölf” €"), ("utf-16-le", "abc déf"), ("cp1251", "Мир")],
)
def test_another_encoding_is_read_on_request_in_blocks_of_any_size(ids, monkeypatch, encoding, text):
    files("a.txt", content=text.encode(encoding))
    monkeypatch.setattr("charrnn.data.texts.BLOCK", 3)
    found = ids("a.txt", encoding=encoding)
    assert found.vocab.decode(found.ids) == text


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        ("Zwölf Jäger".encode("latin-1"), "--encoding latin-1"),
        ("“Zwölf”".encode("cp1252"), "--encoding cp1252"),
        ("Zwölf Jäger".encode("utf-16-le"), "--encoding utf-16-le"),
        ("Мир и мир, и ещё раз мир\n".encode("utf-16-be"), "--encoding utf-16-be"),
        ("Zwölf Jäger".encode("utf-32-be"), "--encoding utf-32-be"),
        ("⡿⢀⢁\n⢃".encode("utf-16-le"), "--encoding utf-16-le"),
        ("㥿㦀㦁\r\n㦃".encode("utf-16-be"), "--encoding utf-16-be"),
    ],
)
def test_the_encoding_of_a_text_that_is_not_utf8_is_advised(ids, content, advice):
    files("a.txt", content=content)
    with pytest.raises(InputError, match=rf"a\.txt .*{advice}"):
        ids("a.txt")


@pytest.mark.parametrize(
    "content", [b"\x80\x81\0\x01\xff", "ä€ö".encode()[:-1], "日本語".encode() + b"\xff" + "日本".encode()]
)
def test_no_encoding_is_advised_for_damaged_utf8(ids, content):
    files("a.txt", content=content)
    with pytest.raises(InputError) as caught:
        ids("a.txt")
    assert "--encoding" not in str(caught.value)


def test_a_text_of_sound_from_a_windows_shell_is_sound(ids):
    files("a.txt", content="⠀⠁⣿\r\n⠂\r\n".encode("utf-16"))
    assert ids("a.txt").ids.tolist() == [0, 1, 255, 2]


def test_joined_texts_with_a_table_are_read_by_it_or_refused_for_want_of_it(ids):
    files("a.txt", content="\ufeffAB㤀\r\n\ufeff㤀A\n")
    assert ids("a.txt", table=bytecodec.Table({"A": 1, "B": 2, "㤀": 3})).ids.tolist() == [1, 2, 3, 3, 1]
    with pytest.raises(InputError, match="--table"):
        ids("a.txt")


@pytest.mark.parametrize("name", ["klingon", "base64", "rot13", ""])
def test_an_unknown_encoding_is_a_wrong_command_line(name, capsys):
    files("a.txt")
    with pytest.raises(SystemExit, match="2"):
        charrnn_train(["a.txt", "--encoding", name])
    assert "--encoding" in capsys.readouterr().err


def test_windows_line_ends_of_prose_are_kept_and_mentioned(ids, capsys):
    files("a.txt", content="ab\r\nab\r\n")
    assert ids("a.txt").vocab.characters == "\n\rab"
    assert "a.txt has Windows line ends" in capsys.readouterr().err


def test_a_text_of_sound_that_plain_text_makes_plain_is_mentioned(ids, capsys):
    files("a.txt", content="⠀⠁⣿\n")
    files("page.txt", content="<!doctype html>\n")
    assert ids("a.txt", "page.txt").vocab.alphabet is None
    assert "a.txt stands for sound" in capsys.readouterr().err
    ids("a.txt")
    assert "stands for sound" not in capsys.readouterr().err


def test_an_empty_text_among_others_is_mentioned(ids, capsys, write_wav):
    files("set/a.txt", "set/b.txt")
    files("set/c.txt", "empty", content="")
    assert len(ids("set").ids) == 6
    assert f"{Path('set/c.txt')} is empty" in capsys.readouterr().err
    assert len(ids(write_wav(Path("x.wav"), [1, 2, 3]).name, "empty").ids) == 3


# Standard input and pipes


def test_training_reads_standard_input_and_other_commands_read_its_run(stdin, capsys):
    stdin(bytecodec.encode(bytes(range(200))).encode())
    assert charrnn_train(["-", *SMALL]) == 0
    config = json.loads(Path("runs/stdin-001/config.json").read_text())
    assert (config["inputs"], config["symbols"], config["rate"]) == (["standard input"], 200, 11025)
    assert charrnn_train(["--resume", "stdin-001", "--max-iterations", "2"]) == 0
    assert charrnn_eval(["runs/stdin-001", "--part", "all"]) == 0
    assert "standard input, all: 200 symbols" in capsys.readouterr().out


def test_a_frame_predictor_learns_from_standard_input(stdin, tone_file):
    stdin(tone_file.read_bytes())
    flags = [flag for flag in SMALL if flag not in ("--wordvec-size", "2")]
    assert charrnn_train(["-", *flags, "--frames", "--frame-taps", "2"]) == 0
    assert json.loads(Path("runs/stdin-001/config.json").read_text())["inputs"] == ["standard input"]


@pytest.mark.parametrize("kind", ["sound", "text"])
def test_eval_and_the_start_of_sampling_read_standard_input(stdin, trained_run, tone, tone_file, capsys, kind):
    sent = tone_file.read_bytes() if kind == "sound" else bytecodec.encode(tone).encode()
    stdin(sent)
    assert charrnn_eval([str(trained_run), "-", "--json", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == "standard input"
    made = []
    for name in ("-", str(tone_file)):
        stdin(sent)
        assert charrnn_sample([str(trained_run), "--start-file", name, "--length", "20", "--threads", "1", "-q"]) == 0
        made.append(capsys.readouterr().out)
    assert made[0] == made[1] != ""


def test_plot_draws_what_comes_through_standard_input(stdin, tone_file, trained_run, capsys):
    pytest.importorskip("matplotlib")
    for sent in (tone_file.read_bytes(), (trained_run / "log.csv").read_bytes()):
        stdin(sent)
        assert charrnn_plot(["-", "--width", "200", "--height", "150"]) == 0
        assert capsys.readouterr().out == "stdin.png\n"
    stdin(b"\n")
    assert charrnn_plot(["-"]) == 1
    assert "charrnn-plot: standard input " in capsys.readouterr().err


@pytest.mark.parametrize("sent", [b"", M4A, b"\x80\x81\0\x01\xff"])
def test_errors_in_standard_input_name_it(stdin, sent, capsys):
    stdin(sent)
    assert charrnn_train(["-", *SMALL]) == 1
    error = capsys.readouterr().err
    assert "standard input" in error
    assert os.sep + "input" not in error
    assert not Path("runs/stdin-001").exists()


def test_standard_input_can_be_named_once(capsys):
    with pytest.raises(SystemExit, match="2"):
        charrnn_train(["-", "-"])
    assert "standard input" in capsys.readouterr().err


def test_a_network_cannot_come_through_standard_input(capsys, stdin):
    stdin(b"")
    files("a.txt")
    for call in (lambda: charrnn_sample(["-"]), lambda: charrnn_train(["a.txt", "--init-from", "-", *SMALL])):
        assert call() == 1
        assert "- is standard input" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no pipes with names here")
def test_a_pipe_with_a_name_is_read_like_a_file():
    read, write = os.pipe()
    os.write(write, b"abc" * 20)
    os.close(write)
    try:
        assert charrnn_train([f"/dev/fd/{read}", *SMALL]) == 0
    finally:
        os.close(read)
    assert json.loads(Path("runs/pipe-001/config.json").read_text())["symbols"] == 60


def test_a_device_is_refused(capsys):
    if not Path("/dev/zero").exists():
        pytest.skip("no devices here")
    with pytest.raises(InputError, match="/dev/zero is a device"), opened("/dev/zero"):
        pass


# Whole commands


def test_train_and_eval_go_on_past_what_cannot_be_read(write_wav, tone, capsys):
    files("set/b.wav", content=LFS)
    write_wav(Path("set") / "a.wav", tone[:2000])
    assert charrnn_train(["set", *SMALL]) == 1
    assert "set/b.wav is a Git LFS pointer" in capsys.readouterr().err.replace(os.sep, "/")
    assert charrnn_train(["set", *SMALL, "--skip-unreadable"]) == 0
    config = json.loads(Path("runs/set-001/config.json").read_text())
    assert (config["symbols"], config["skipped"]) == (2000, [str(Path("set/b.wav"))])
    assert charrnn_train(["--resume", "set-001", "--max-iterations", "2"]) == 0
    assert charrnn_eval(["runs/set-001", "set", "--skip-unreadable"]) == 0
    assert charrnn_eval(["runs/set-001", "set"]) == 1


def test_a_name_that_is_not_utf8_is_a_name_like_others(tone_file, capfd):
    odd = os.fsdecode(b"mod\x85 - la notte.wav")
    try:
        shutil.copy(tone_file, odd)
    except (OSError, UnicodeError):
        pytest.skip("the file system takes no such name")
    assert charrnn_train([odd, *SMALL, "-q"]) == 0
    Path(odd).write_bytes(M4A)
    assert charrnn_train([odd, *SMALL, "-q"]) == 1
    assert "la notte.wav" in capfd.readouterr().err


def test_a_latin_1_text_is_trained_on_scored_and_started_from(capsys):
    files("a.txt", content=("Zwölf Jäger " * 20).encode("latin-1"))
    assert charrnn_train(["a.txt", *SMALL]) == 1
    assert "--encoding latin-1" in capsys.readouterr().err
    assert charrnn_train(["a.txt", *SMALL, "--encoding", "latin-1", "-q"]) == 0
    assert charrnn_eval(["runs/a-001", "a.txt", "--encoding", "latin-1", "-q"]) == 0
    start = ["runs/a-001", "--start-file", "a.txt", "--length", "5", "-q"]
    assert charrnn_sample(start) == 1
    assert charrnn_sample([*start, "--encoding", "latin-1"]) == 0


def test_a_file_that_vanishes_while_it_is_read_is_named(ids, monkeypatch, write_wav):
    for name in ("a.wav", "b.wav"):
        write_wav(Path(name), [1, 2, 3])
    read = bytecodec.read_blocks

    def vanishing(*args, **more):
        Path("b.wav").unlink(missing_ok=True)
        yield from read(*args, **more)

    monkeypatch.setattr(bytecodec, "read_blocks", vanishing)
    with pytest.raises(FileNotFoundError, match=r"b\.wav"):
        ids("a.wav", "b.wav")


def test_a_file_and_its_pipe_give_the_same_corpus(ids, stdin, tone_file):
    whole = np.array(ids(str(tone_file)).ids)
    stdin(tone_file.read_bytes())
    np.testing.assert_array_equal(ids("-").ids, whole)
