"""Console commands: exit codes, messages, signals, help and progress bars."""

import errno
import os
import signal
import sys

import pytest

from bytecodec import InputError, console

MEMORY = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


def exit_code(error):
    """Return the exit code of a command that raises an error."""

    @console.command
    def some_name(argv=None):
        if error is not None:
            raise error

    return some_name([])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, ""),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0, ""),
        (KeyboardInterrupt(), 130, "interrupted"),
        (console.Terminated(), 143, ""),
        (InputError("a.txt is wrong."), 1, "a.txt is wrong."),
        (MemoryError(), 1, "there is not enough memory"),
        (RuntimeError(MEMORY), 1, "there is not enough memory"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.txt"), 1, "there is no a.txt"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", b"a"), 1, "a is a folder: name a file."),
        (OSError(errno.ENOSPC, "No space left on device", "a.txt"), 1, "a.txt: No space left on device. Free some"),
        (PermissionError(errno.EACCES, "Permission denied", "a.txt"), 1, "a.txt: Permission denied. Check"),
    ],
)
def test_each_error_has_its_exit_code_and_one_line(error, code, message, capsys):
    assert exit_code(error) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"some-name: {message}" if message else "")
    assert err.count("\n") == (1 if message else 0)


def test_a_fault_of_the_program_keeps_its_traceback():
    for error in (ZeroDivisionError(), RuntimeError("another one")):
        with pytest.raises(type(error)):
            exit_code(error)


def test_a_command_may_return_its_exit_code():
    @console.command
    def some_name(argv=None):
        return 130

    assert some_name([]) == 130


def test_sigterm_unwinds_the_stack_and_its_handler_is_restored():
    before, unwound = signal.getsignal(signal.SIGTERM), []

    @console.command
    def some_name(argv=None):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            unwound.append(True)

    assert some_name([]) == 143
    assert unwound == [True]
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_first_interruption_is_recorded_and_the_second_is_raised():
    before = signal.getsignal(signal.SIGINT)
    with console.Interruption() as interruption:
        assert not interruption
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption
        assert interruption.exit_code == 143
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_help_has_examples_and_defaults_and_flags_are_not_abbreviated(capsys):
    parser = console.Parser("name", "Does it.", "name in out\nname - -")
    parser.add_argument("--length", default=7, help="how long")
    parser.add_argument("--flag", action="store_true", help="a flag")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = capsys.readouterr().out
    assert text.endswith("Examples:\n  name in out\n  name - -\n")
    assert "how long (default: 7)" in text
    assert "a flag\n" in text
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--len", "3"])
    assert caught.value.code == 2


def test_quiet_suppresses_messages(capsys):
    console.log("one")
    console.log("two", quiet=True)
    assert capsys.readouterr() == ("", "one\n")


def test_progress_is_hidden_without_a_terminal(capsys):
    with console.progress(10, "B") as bar:
        bar.update(10)
    assert capsys.readouterr() == ("", "")


def test_a_closed_standard_error_does_not_matter(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    assert exit_code(InputError("not printed")) == 1
    with console.progress(3, "B") as bar:
        bar.update(1)


def test_durations_are_in_a_suitable_unit():
    durations = {3: "3.0 s", 89: "89 s", 600: "10 min", 9000: "2.5 h", 2e5: "2.3 days"}
    assert [console.duration(seconds) for seconds in durations] == [*durations.values()]
