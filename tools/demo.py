"""What `make demo` does: a recording in, a network trained for about three minutes, ten seconds of new sound out.

It runs the project's commands as one would type them and shows each. Run again, it goes on with the network
that is there while the recording and the settings are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

DEMO = Path("demo")
NETWORK = DEMO / "network"
MADE_FROM = DEMO / "made_from.json"
SETTINGS = {  # about two and a half minutes on two cores; a slower machine stops after three
    "rnn-size": 256,
    "layers": 2,
    "wordvec-size": 64,
    "max-epochs": 24,
    "max-minutes": 3,
}
SEGMENTS, SEGMENT_SECONDS = 4, 2.5


def main(recording: str) -> int:
    """Run the demo; returns the exit code of the first command that fails, or 0."""
    if not Path(recording).is_file():
        print(f"demo: there is no recording {recording}. Name one with `make demo INPUT=my.wav`.", file=sys.stderr)
        return 1
    DEMO.mkdir(exist_ok=True)
    wanted = {
        "recording": hashlib.sha256(Path(recording).read_bytes()).hexdigest(),
        "settings": SETTINGS,
    }
    made = read_json(MADE_FROM)
    if made.get("wanted") != wanted:
        remove_network()
        made = {"wanted": wanted, "trained": False, "takes": 0}
        run("wav2utf8", recording, str(DEMO / "in.txt"))
        write_json(MADE_FROM, made)
    if made["trained"]:
        print(f"The network in {NETWORK} was trained on this recording already: sampling anew.")
    elif (NETWORK / "config.json").exists():
        run("charrnn-train", "--resume", str(NETWORK))
    else:
        flags = [part for name, value in SETTINGS.items() for part in (f"--{name}", str(value))]
        run("charrnn-train", str(DEMO / "in.txt"), *flags, "--run-dir", str(NETWORK))
    made["trained"] = True
    made["takes"] += 1
    write_json(MADE_FROM, made)
    out = DEMO / "out.wav"
    cut = ["--segments", str(SEGMENTS), "--segment-seconds", str(SEGMENT_SECONDS)]
    run("charrnn-sample", str(NETWORK), *cut, "--seed", str(made["takes"]), "-o", str(out))
    print(
        f"\n{SEGMENTS * SEGMENT_SECONDS:g} seconds of a network's version of {recording}: {out}\n"
        "Play it, then try:\n"
        "  make demo                       another ten seconds from the same network\n"
        "  make demo INPUT=my.wav          your own recording\n"
        f"  . .venv/bin/activate; charrnn-sample {NETWORK} --seconds 0 | utf82wav | aplay\n"
        "                                  sound until Ctrl-C\n"
        f"  charrnn-train --resume {NETWORK} --max-minutes 30\n"
        "                                  let it learn for longer\n"
        "and see README.md for a network of the size of 2016's."
    )
    return 0


def run(command: str, *arguments: str) -> None:
    """Show a command and run it; ends the demo with its exit code where that is not 0."""
    print("$", command, *arguments, flush=True)
    program = Path(sys.executable).with_name(command)
    done = subprocess.run([program, *arguments], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def remove_network() -> None:
    """Forget a network that was made from another recording."""
    MADE_FROM.unlink(missing_ok=True)
    shutil.rmtree(NETWORK, ignore_errors=True)


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds, or nothing."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def write_json(path: Path, data: object) -> None:
    """Write JSON to a file, whole or not at all."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(data, indent=2) + "\n")
    os.replace(beside, path)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:  # the command that ran has said what there is to say
        sys.exit(130)
