"""Help for tests of the codec's commands."""

import subprocess
import sys

import numpy as np
import soundfile

from bytecodec import WavWriter, commands

COMMANDS = ["wav2utf8", "utf82wav", "bin2utf8", "utf82bin"]
ALL_BYTES = bytes(range(256))
PROCESS_TIMEOUT = 60  # seconds that a process on a busy machine may take to start, or to end


def run(line):
    name, *arguments = line.split()
    command = getattr(commands, name)
    return command(arguments)


def shell(line, stdin=b"", **options):
    """Run commands for real, in bash; ``NAME`` is the command as it is installed."""
    for name in COMMANDS:
        call = f"{sys.executable} -c 'import sys; from bytecodec.commands import {name}; sys.exit({name}())'"
        line = line.replace(name.upper(), call)
    return subprocess.run(["bash", "-c", line], input=stdin, capture_output=True, check=False, **options)


def save_wav(name, values=ALL_BYTES, rate=11025):
    with open(name, "wb") as file, WavWriter(file, rate) as writer:
        writer.write(values)


def samples_in(name):
    samples, _ = soundfile.read(name, dtype="int16")
    return bytes((samples // 256 + 128).astype(np.uint8))
