"""charrnn-sample called by tests."""

from pathlib import Path

import pytest
import soundfile

from charrnn.commands.sample import charrnn_sample

PROGRAM = "import sys; from charrnn.commands.sample import charrnn_sample as run; sys.exit(run())"


def sample_text(*argv):
    """Return the text that charrnn-sample writes to x.txt."""
    assert charrnn_sample([*argv, "-q", "-o", "x.txt"]) == 0
    return Path("x.txt").read_text(encoding="utf-8")


def int16(path):
    """Return the int16 samples of a file."""
    return soundfile.read(path, dtype="int16")[0]


def error(capsys, *argv, code=1):
    """Return the message with which charrnn-sample exits."""
    capsys.readouterr()
    if code == 2:
        with pytest.raises(SystemExit) as exit_:
            charrnn_sample([*argv])
        assert exit_.value.code == 2
    else:
        exit_code = charrnn_sample([*argv, "-q"])
        assert exit_code == code
    message = capsys.readouterr().err
    assert message.startswith("charrnn-sample: ")
    assert message.count("\n") == 1
    return message.removeprefix("charrnn-sample: ")
