"""The flags of all commands: their help, and the refusal of wrong numbers."""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path

import pytest

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parents[2] / "tools")
    import make_flags

PROBES = ("1", "5", "40", "1000", "0.5")  # one of them is in the range of any numeric flag


def parser_of(command):
    """Return the parser of a command."""

    class Made(Exception):
        pass

    def stop(parser, *_):
        raise Made(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Made) as made:
            command([])
    return made.value.args[0]


def takes_numbers(action):
    for text in PROBES if action.type else ():
        with contextlib.suppress(argparse.ArgumentTypeError):
            value = action.type(text)
            if isinstance(value, int | float) or (isinstance(value, list) and isinstance(value[0], int | float)):
                return True
    return False


PARSERS = {name: parser_of(command) for name, command in make_flags.COMMANDS.items()}
NUMERIC = {
    f"{name} {action.option_strings[0]}": (name, action.option_strings[0])
    for name, parser in PARSERS.items()
    for action in parser._actions
    if action.option_strings and takes_numbers(action)
}


def test_all_numeric_flags_are_found():
    assert len(NUMERIC) > 40
    assert {"wav2utf8 --rate", "charrnn-sample --temperature", "charrnn-listen --port"} <= NUMERIC.keys()


@pytest.mark.parametrize("value", ["-1e40", str(-(10**30)), "nan", "inf", "number", "", "9" * 5000])
@pytest.mark.parametrize(("name", "flag"), NUMERIC.values(), ids=NUMERIC)
def test_the_message_for_a_number_out_of_range_has_the_range(name, flag, value, capsys):
    with pytest.raises(SystemExit) as ended:
        make_flags.COMMANDS[name]([f"{flag}={value}"])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert f"argument {flag}" in said or f"/{flag}" in said
    assert "invalid" not in said
    assert re.search(r"\d", said.partition(flag)[2].replace(value, "") if value else said)


@pytest.mark.parametrize("name", make_flags.COMMANDS)
def test_help_shows_each_default_once(name):
    parser = PARSERS[name]
    formatter = parser._get_formatter()
    for action in parser._actions:
        shown = formatter._expand_help(action) if action.help and action.help != argparse.SUPPRESS else ""
        assert shown.count("default") <= 1, shown
        assert not re.search(r"default: (\[|\)|None|True|False)", shown), shown
