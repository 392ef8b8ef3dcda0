"""Files, folders, pipes and standard input as inputs of the commands."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from input_files import LFS, M4A, files

import bytecodec
from bytecodec.errors import InputError
from charrnn.data.corpus import prepare_corpus
from charrnn.data.inputs import Unreadable, files_in
from charrnn.data.recordings import SoundOptions
from charrnn.frames import data as frame_data


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


def listed(folder):
    return [path.as_posix() for path in files_in(Path(folder), Unreadable())]


# Folders


def test_links_are_followed_and_hidden_files_and_folders_are_not_read():
    files("set/b.txt", "set/.hidden.txt", "set/.ipynb_checkpoints/a.txt", "set/.Trash/x/y.txt", "other/deep/c.txt")
    Path("set/linked").symlink_to(Path("other").resolve())
    Path("set/d.txt").symlink_to(Path("other/deep/c.txt").resolve())
    assert listed("set") == ["set/b.txt", "set/d.txt", "set/linked/deep/c.txt"]
    assert listed("set/.Trash") == ["set/.Trash/x/y.txt"]


def test_a_folder_is_read_once_however_many_links_lead_there():
    files("set/z/a.txt")
    for link, target in (("set/loop", "."), ("set/a", "z"), ("set/z/up", ".."), ("set/b", "z")):
        Path(link).symlink_to(target)
    assert listed("set") == ["set/z/a.txt"]


def test_files_that_are_skipped_in_a_folder_are_named(ids, write_wav, capsys):
    files("set/a.jpg", "set/b.txt", "set/c/d.md", "set/e.csv", "set/f.pdf")
    write_wav(Path("set/x.wav"), [1, 2, 3])
    assert len(ids("set").ids) == 3
    assert "skipped: a.jpg, b.txt, c/d.md and 2 more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("frames", "name", "content"),
    [(False, "b.wav", LFS), (True, "b.m4a", M4A), (False, "b.flac", ""), (True, "b.bin", M4A)],
)
def test_a_bad_recording_in_a_folder_is_an_error_before_any_is_read(ids, write_wav, monkeypatch, frames, name, content):
    files(f"set/{name}", content=content)
    for other in ("a.wav", "c.wav"):
        write_wav(Path("set") / other, [1, 2, 3])
    monkeypatch.setattr(bytecodec, "read_blocks", lambda *_, **__: pytest.fail("a recording was read"))
    with pytest.raises(InputError, match=name):
        ids("set", frames=frames)
    assert not Path("corpus").exists()


@pytest.mark.parametrize("frames", [False, True])
def test_bad_files_are_skipped_and_listed_on_request(ids, write_wav, capsys, frames):
    files("set/b.wav", content=LFS)
    files("set/c.m4a", "song.wma", content=M4A)
    Path("set/gone.wav").symlink_to("nowhere")
    write_wav(Path("set/a.wav"), [1, 2, 3])
    found = ids("set", "song.wma", "missing.wav", frames=frames, skip_unreadable=True)
    assert len(found.ids) == 3
    assert found.names == (str(Path("set/a.wav")),)
    bad = ("set/b.wav", "set/c.m4a", "set/gone.wav", "song.wma", "missing.wav")
    assert found.skipped == tuple(str(Path(name)) for name in bad)
    assert f"5 files could not be read and were skipped: {', '.join(found.skipped)}." in capsys.readouterr().err


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


def test_a_damaged_recording_of_a_set_with_one_gain_is_listed_once(ids, write_wav):
    write_wav(Path("a.wav"), [1, 2, 3])
    soundfile.write("b.flac", np.random.default_rng(1).uniform(-0.5, 0.5, 30_000), 11025)
    data = bytearray(Path("b.flac").read_bytes())
    data[20_000:20_100] = bytes(100)
    Path("b.flac").write_bytes(data)
    sound = SoundOptions(normalize=True, normalize_over="set")
    for frames in (False, True):
        assert ids("a.wav", "b.flac", frames=frames, skip_unreadable=True, sound=sound).skipped == ("b.flac",)


@pytest.mark.parametrize("frames", [False, True])
def test_a_recording_that_cannot_be_read_when_a_set_is_measured_is_listed_once(ids, write_wav, frames):
    write_wav(Path("mono.wav"), [1, 2, 3])
    soundfile.write("stereo.wav", np.full((5, 2), 0.5), 11025)
    sound = SoundOptions(channel=2, normalize=True, normalize_over="set")
    found = ids("mono.wav", "stereo.wav", frames=frames, skip_unreadable=True, sound=sound)
    assert (len(found.ids), found.names, found.skipped) == (5, ("stereo.wav",), ("mono.wav",))
    with pytest.raises(InputError, match=r"none of the inputs can be read: mono\.wav\."):
        ids("mono.wav", frames=frames, skip_unreadable=True, sound=sound)


def test_an_error_names_the_inputs_if_none_of_them_can_be_read(ids):
    files("a.m4a", "b.m4a", content=M4A)
    for frames in (False, True):
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
def test_a_pipe_in_a_folder_is_skipped(ids, capsys):
    files("set/a.txt")
    os.mkfifo("set/b.wav")
    assert len(ids("set").ids) == 3
    assert "b.wav" in capsys.readouterr().err


# Encodings


def test_a_byte_order_mark_overrides_the_given_encoding(ids):
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        files("a.txt", content="žluť 😀\n".encode(encoding))
        for given in ("utf-8", "latin-1"):
            assert ids("a.txt", encoding=given).vocab.characters == "\n lu\u0165\u017e\U0001f600"


def test_a_text_in_a_given_encoding_is_read(ids, monkeypatch):
    monkeypatch.setattr("charrnn.data.texts.BLOCK", 3)
    for encoding, text in [("latin-1", "Zwölf Jäger\n"), ("cp1252", "“Zwölf” €"), ("utf-16-le", "abc déf")]:
        files("a.txt", content=text.encode(encoding))
        found = ids("a.txt", encoding=encoding)
        assert found.vocab.decode(found.ids) == text


def test_the_encoding_of_a_text_that_is_not_utf8_is_advised(ids):
    cases = [
        ("Zwölf Jäger".encode("latin-1"), "--encoding latin-1"),
        ("“Zwölf”".encode("cp1252"), "--encoding cp1252"),
        ("Zwölf Jäger".encode("utf-16-le"), "--encoding utf-16-le"),
        ("Мир и мир, и ещё раз мир\n".encode("utf-16-be"), "--encoding utf-16-be"),
        ("Zwölf Jäger".encode("utf-32-be"), "--encoding utf-32-be"),
        ("㥿㦀㦁\r\n㦃".encode("utf-16-be"), "--encoding utf-16-be"),
    ]
    for content, advice in cases:
        files("a.txt", content=content)
        with pytest.raises(InputError, match=rf"a\.txt .*{advice}"):
            ids("a.txt")


def test_no_encoding_is_advised_for_damaged_utf8(ids):
    for content in (b"\x80\x81\0\x01\xff", "ä€ö".encode()[:-1], "日本語".encode() + b"\xff" + "日本".encode()):
        files("a.txt", content=content)
        with pytest.raises(InputError) as caught:
            ids("a.txt")
        assert "--encoding" not in str(caught.value)


def test_a_utf16_text_of_sound_with_windows_line_ends_is_read_as_sound(ids):
    files("a.txt", content="⠀⠁⣿\r\n⠂\r\n".encode("utf-16"))
    assert ids("a.txt").ids.tolist() == [0, 1, 255, 2]


def test_a_text_of_bintoutf8_is_read_with_its_table_and_rejected_without(ids):
    files("a.txt", content="\ufeffAB㤀\r\n\ufeff㤀A\n")
    assert ids("a.txt", table=bytecodec.Table({"A": 1, "B": 2, "㤀": 3})).ids.tolist() == [1, 2, 3, 3, 1]
    with pytest.raises(InputError, match="--table"):
        ids("a.txt")


def test_windows_line_ends_of_plain_text_are_kept_and_reported(ids, capsys):
    files("a.txt", content="ab\r\nab\r\n")
    assert ids("a.txt").vocab.characters == "\n\rab"
    assert "a.txt has Windows line ends" in capsys.readouterr().err


def test_a_text_of_sound_that_is_read_as_plain_text_is_reported(ids, capsys):
    files("a.txt", content="⠀⠁⣿\n")
    files("page.txt", content="<!doctype html>\n")
    assert ids("a.txt", "page.txt").vocab.alphabet is None
    assert "a.txt represents sound" in capsys.readouterr().err
    ids("a.txt")
    assert "represents sound" not in capsys.readouterr().err


def test_an_empty_text_among_others_is_reported(ids, capsys, write_wav):
    files("set/a.txt", "set/b.txt")
    files("set/c.txt", "empty", content="")
    assert len(ids("set").ids) == 6
    assert f"{Path('set/c.txt')} is empty" in capsys.readouterr().err
    assert len(ids(write_wav(Path("x.wav"), [1, 2, 3]).name, "empty").ids) == 3


# Pipes and errors while reading


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
