"""Write the page of all flags from the commands' help: python tools/make_flags.py > docs/reference/flags.md."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable

from bytecodec import commands
from charrnn.commands.convert import charrnn_convert
from charrnn.commands.eval import charrnn_eval
from charrnn.commands.listen import charrnn_listen
from charrnn.commands.plot import charrnn_plot
from charrnn.commands.report import charrnn_report
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.commands.video import charrnn_video

COMMANDS: dict[str, Callable[..., int]] = {
    "wav2utf8": commands.wav2utf8,
    "utf82wav": commands.utf82wav,
    "bin2utf8": commands.bin2utf8,
    "utf82bin": commands.utf82bin,
    "charrnn-train": charrnn_train,
    "charrnn-sample": charrnn_sample,
    "charrnn-eval": charrnn_eval,
    "charrnn-convert": charrnn_convert,
    "charrnn-plot": charrnn_plot,
    "charrnn-report": charrnn_report,
    "charrnn-video": charrnn_video,
    "charrnn-listen": charrnn_listen,
}
INTRODUCTION = """# Flags

`python tools/make_flags.py > docs/reference/flags.md` writes this page. For all commands:

- `-h`, `--help` shows this help and examples, `--version` the version, and `-q`, `--quiet` prints errors only.
- Results go to standard output or to the named file; messages and progress bars go to standard error. `-` is standard
  input or output. Recordings, texts and CSV files can be read from standard input and named pipes; networks, runs,
  states and vocabularies only from files.
- Exit codes: 0 for success (including a closed pipe, and Ctrl-C on endless output); 2 for a wrong command line,
  whatever the files contain; 1 for any other error; 130 and 143 if interrupted by Ctrl-C or SIGTERM, with the work so
  far saved.
- An output file appears complete or not at all: it is written under a temporary name, then renamed. An existing file
  that is not a regular file, such as /dev/null, is written in place.
"""
COMMON = re.compile(r"^  (?:-h, --help|--version|-q, --quiet) .*\n", re.MULTILINE)


def help_of(command: Callable[..., int]) -> str:
    """Return what a command prints for --help, 100 columns wide."""
    os.environ["COLUMNS"] = "100"
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        command(["--help"])
    return out.getvalue().strip()


def section(name: str, text: str) -> str:
    """Return the section of a command: its help without examples and the flags that all commands have."""
    text = text.partition("\n\nExamples:")[0]
    return f"## {name}\n\n```\n{COMMON.sub('', text)}\n```"


if __name__ == "__main__":
    print(INTRODUCTION)
    print("\n\n".join(section(name, help_of(command)) for name, command in COMMANDS.items()))
