"""What all commands share: exit codes, messages, and files that appear whole or not at all."""

import errno
import io
import os
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bytecodec import InputError, console


def ends_with(error: BaseException | None) -> int:
    """The exit code of a command whose work ends so."""

    @console.command
    def some_name(argv: Sequence[str] | None = None) -> None:
        if error is not None:
            raise error

    return some_name([])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0, ""),
        (KeyboardInterrupt(), 130, "some-name: interrupted.\n"),
        (console.Terminated(), 143, ""),
        (InputError("a.txt is wrong."), 1, "some-name: a.txt is wrong.\n"),
        (MemoryError(), 1, "some-name: there is not enough memory for this.\n"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
            1,
            "some-name: there is not enough memory for this.\n",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "a.txt"),
            1,
            "some-name: there is no a.txt. Check the path.\n",
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", b"a"), 1, "some-name: a: Is a directory.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.txt"),
            1,
            "some-name: a.txt: No space left on device. Free some space, or write elsewhere; "
            "files that existed before are as they were.\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "a.txt"),
            1,
            "some-name: a.txt: Permission denied. Check who may read and write there, or name another place.\n",
        ),
    ],
)
def test_each_way_to_end_has_its_exit_code_and_sentence(
    error: BaseException | None, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(error) == code
    assert capsys.readouterr() == ("", said)


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        ends_with(ZeroDivisionError())
    with pytest.raises(RuntimeError):
        ends_with(RuntimeError("another one"))


def test_a_command_may_name_its_exit_code() -> None:
    @console.command
    def some_name(argv: Sequence[str] | None = None) -> int:
        return 130

    assert some_name([]) == 130


def test_sigterm_unwinds_the_stack_and_the_handler_before_it_comes_back() -> None:
    before, unwound = signal.getsignal(signal.SIGTERM), []

    @console.command
    def some_name(argv: Sequence[str] | None = None) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            unwound.append(True)

    assert some_name([]) == 143
    assert unwound == [True]
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_interruption_is_noted_first_and_raised_when_it_comes_again() -> None:
    before = signal.getsignal(signal.SIGINT)
    with console.Interruption() as interruption:
        assert not interruption
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption
        assert interruption.exit_code == 143
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_parser_shows_examples_and_defaults_and_takes_no_abbreviations(capsys: pytest.CaptureFixture[str]) -> None:
    parser = console.Parser("name", "Does it.", "name in out\nname - -")
    parser.add_argument("--length", default=7, help="how long")
    parser.add_argument("--flag", action="store_true", help="a flag")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    said = capsys.readouterr().out
    assert said.endswith("Examples:\n  name in out\n  name - -\n")
    assert "how long (default: 7)" in said
    assert "a flag\n" in said
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--len", "3"])
    assert caught.value.code == 2


# Output.


def test_a_file_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with console.open_output(str(path)) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError, console.Terminated])
def test_a_file_is_as_it_was_when_the_block_fails(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(error), console.open_output(str(path)) as file:  # noqa: PT012
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_permissions_are_those_of_the_file_that_is_replaced_or_the_usual_ones(tmp_path: Path) -> None:
    path = tmp_path / "a"
    before = os.umask(0o027)
    try:
        with console.open_output(str(path)):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    with console.open_output(str(path)):
        pass
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_a_link_goes_on_pointing_where_it_did(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with console.open_output(str(tmp_path / "link")) as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_device_is_written_in_place() -> None:
    assert console.is_special_file(os.devnull)
    with console.open_output(os.devnull) as file:
        file.write(b"gone")
    assert console.is_special_file(os.devnull)


def test_places_that_cannot_be_written_to_are_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "no" / "a")
    with pytest.raises(InputError) as refused, console.open_output(missing):
        pass
    assert str(refused.value) == f"cannot write {missing}: there is no folder {tmp_path / 'no'}. Make it first."
    with pytest.raises(IsADirectoryError) as failed, console.open_output(str(tmp_path)):
        pass
    assert failed.value.filename == str(tmp_path)


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_text_but_nothing_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(screen))
    with console.open_output("-", binary=False) as file:
        file.write(b"text")
    with pytest.raises(InputError, match="standard output is a terminal"), console.open_output("-") as file:
        file.write(b"binary")
    assert screen.getvalue() == b"text"


def test_closed_standard_streams_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(InputError, match=r"^standard output is closed"), console.open_output("-"):
        pass
    with pytest.raises(InputError, match=r"^standard input is closed"), console.open_input("-"):
        pass
    assert ends_with(InputError("said to nobody")) == 1
    with console.progress(3, "B") as bar:
        bar.update(1)


# Input and messages.


def test_input_comes_from_a_file_or_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"file")
    with console.open_input(str(tmp_path / "a")) as file:
        assert file.read() == b"file"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"pipe")))
    with console.open_input("-") as file:
        assert file.read() == b"pipe"


def test_a_terminal_as_input_is_pointed_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(b"typed")))
    with console.open_input("-") as file:
        assert file.read() == b"typed"
    assert capsys.readouterr().err == (
        "reading from the terminal: end with Ctrl-D, or see --help for files and pipes.\n"
    )


def test_the_same_file_under_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(InputError, match="is the input itself: name another output"):
        console.refuse_same_file(str(tmp_path / "a"), str(tmp_path / "link"))
    console.refuse_same_file(str(tmp_path / "a"), str(tmp_path / "new"))
    console.refuse_same_file("-", "-")
    console.refuse_same_file(os.devnull, os.devnull)


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console.log("one")
    console.log("two", quiet=True)
    assert capsys.readouterr() == ("", "one\n")


def test_progress_is_hidden_where_no_person_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress(10, "B") as bar:
        bar.update(10)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "words"), [(3, "3.0 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h"), (2e5, "2.3 days")]
)
def test_durations_are_in_the_words_that_fit(seconds, words):
    assert console.duration(seconds) == words
