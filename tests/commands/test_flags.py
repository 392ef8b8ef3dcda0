"""The flags of all commands: help texts, and errors for wrong numbers."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
from pathlib import Path

import pytest

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parents[2] / "tools")
    import make_flags

PROBES = ("1", "5", "40", "1000", "0.5")  # one of them is in the range of any numeric flag
WRONG = ("-1e40", str(-(10**30)), "nan", "inf", "number", "", "9" * 5000)


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


def is_numeric(action):
    for text in PROBES if action.type else ():
        with contextlib.suppress(argparse.ArgumentTypeError):
            value = action.type(text)
            if isinstance(value, int | float) or (isinstance(value, list) and isinstance(value[0], int | float)):
                return True
    return False


PARSERS = {name: parser_of(command) for name, command in make_flags.COMMANDS.items()}
NUMERIC = {
    name: flags
    for name, parser in PARSERS.items()
    if (flags := [a.option_strings[0] for a in parser._actions if a.option_strings and is_numeric(a)])
}


def test_all_numeric_flags_are_found():
    assert sum(map(len, NUMERIC.values())) > 40
    assert "--rate" in NUMERIC["wav2utf8"]
    assert "--temperature" in NUMERIC["charrnn-sample"]
    assert "--port" in NUMERIC["charrnn-listen"]


@pytest.mark.parametrize("name", NUMERIC)
def test_the_error_for_a_wrong_number_names_the_flag_and_its_range(name, capsys):
    """Each flag is tested with three of the wrong values, and each value with many flags."""
    values = itertools.cycle(WRONG)
    for flag in NUMERIC[name]:
        for value in itertools.islice(values, 3):
            with pytest.raises(SystemExit) as ended:
                make_flags.COMMANDS[name]([f"{flag}={value}"])
            message = capsys.readouterr().err
            assert ended.value.code == 2
            assert f"argument {flag}" in message or f"/{flag}" in message
            assert "invalid" not in message
            assert re.search(r"\d", message.partition(flag)[2].replace(value, "") if value else message)


def test_help_shows_each_default_once():
    for name, parser in PARSERS.items():
        formatter = parser._get_formatter()
        for action in parser._actions:
            shown = formatter._expand_help(action) if action.help and action.help != argparse.SUPPRESS else ""
            assert shown.count("default") <= 1, f"{name}: {shown}"
            assert not re.search(r"default: (\[|\)|None|True|False)", shown), f"{name}: {shown}"


def test_the_usage_line_names_the_arguments_and_the_list_below_it_each_option():
    for name, parser in PARSERS.items():
        usage, _, rest = parser.format_help().partition("\n\n")
        assert usage.startswith(f"usage: {name} [options]")
        assert "--" not in usage
        for action in parser._actions:
            assert all(flag in rest for flag in action.option_strings)
            assert action.option_strings or action.metavar in usage
