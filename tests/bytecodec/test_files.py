"""Files of commands: output that appears complete or not at all, and standard input and output."""

import io
import os
import stat
import sys

import pytest

from bytecodec import InputError
from bytecodec.console import Terminated
from bytecodec.files import is_special_file, open_input, open_output, refuse_same_file


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


def test_a_file_appears_complete_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "a"
    with open_output(str(path)) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError, Terminated])
def test_a_file_is_unchanged_when_the_block_fails(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(error), open_output(str(path)) as file:  # noqa: PT012
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="Linux only")
def test_an_existing_folder_that_accepts_no_files_is_not_reported_as_missing():
    with pytest.raises(InputError, match="/proc accepts no new files"), open_output("/proc/x.wav"):
        pass


def test_permissions_are_those_of_the_replaced_file_or_of_a_new_one(tmp_path):
    path = tmp_path / "a"
    before = os.umask(0o027)
    try:
        with open_output(str(path)):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    with open_output(str(path)):
        pass
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_a_link_is_kept_and_its_file_is_replaced(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with open_output(str(tmp_path / "link")) as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_link_to_a_file_of_another_type_is_rejected(tmp_path):
    network = tmp_path / "network.safetensors"
    network.write_bytes(b"weights")
    (tmp_path / "sound.wav").symlink_to(network)
    with pytest.raises(InputError, match="link to"), open_output(str(tmp_path / "sound.wav")):
        pass
    assert network.read_bytes() == b"weights"


def test_a_device_is_written_directly():
    with open_output(os.devnull) as file:
        file.write(b"gone")
    assert is_special_file(os.devnull)


def test_an_output_that_cannot_be_written_is_reported_with_its_path(tmp_path):
    with pytest.raises(InputError, match=f"there is no folder {tmp_path / 'no'}"), open_output(f"{tmp_path}/no/a"):
        pass
    with pytest.raises(IsADirectoryError) as failed, open_output(str(tmp_path)):
        pass
    assert failed.value.filename == str(tmp_path)


def test_a_terminal_receives_text_but_no_binary_output(monkeypatch):
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(screen))
    with open_output("-", binary=False) as file:
        file.write(b"text")
    with pytest.raises(InputError, match="terminal"), open_output("-") as file:
        file.write(b"binary")
    assert screen.getvalue() == b"text"


def test_closed_standard_streams_are_reported(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="standard output is closed"), open_output("-"):
        pass
    with pytest.raises(InputError, match="standard input is closed"), open_input("-"):
        pass


def test_input_is_a_file_or_standard_input(tmp_path, monkeypatch, capsys):
    (tmp_path / "a").write_bytes(b"file")
    with open_input(str(tmp_path / "a")) as file:
        assert file.read() == b"file"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"pipe")))
    with open_input("-") as file:
        assert file.read() == b"pipe"
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(b"typed")))
    with open_input("-") as file:
        assert file.read() == b"typed"
    assert "Ctrl-D" in capsys.readouterr().err


def test_an_output_that_is_the_input_under_another_name_is_rejected(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(InputError, match="the input itself"):
        refuse_same_file(str(tmp_path / "a"), str(tmp_path / "link"))
    refuse_same_file(str(tmp_path / "a"), str(tmp_path / "new"))
    refuse_same_file("-", "-")
    refuse_same_file(os.devnull, os.devnull)
