"""Write docs/flags.md from what the commands themselves say: python tools/make_flags.py > docs/flags.md."""

from __future__ import annotations

import contextlib
import io
import os
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

What each command says to `--help`; `python tools/make_flags.py > docs/flags.md` writes this page. Everywhere:

- Results go to standard output or the named file; messages and progress bars to standard error, and `-q` leaves out
  all but errors. `-` is standard input or output. Recordings, texts and CSV files are read from it, and from named
  pipes, by every command that takes them; networks, runs, states and vocabularies are read from files alone.
- Exit 0: done (a closed pipe, and Ctrl-C where output is endless, are ways of being done). 2: the command line is wrong
  whatever the files hold. 1: everything else that went wrong, in one or two sentences. 130 and 143: interrupted by
  Ctrl-C or SIGTERM, with what was done saved.
- An output file appears under its name whole or not at all: it is written beside it, then renamed. A file that exists
  and is no regular file, such as /dev/null, is written in place.
- `CHARRNN_THREADS` sets the default of `--threads`.
"""


def help_of(command: Callable[..., int]) -> str:
    """What a command prints for --help, 100 columns wide."""
    os.environ["COLUMNS"] = "100"
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        command(["--help"])
    return out.getvalue().strip()


if __name__ == "__main__":
    print(INTRODUCTION)
    print("\n\n".join(f"## {name}\n\n```\n{help_of(command)}\n```" for name, command in COMMANDS.items()))
