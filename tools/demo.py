"""Run the demo of `make demo`: train a network on a recording for about three minutes and sample ten seconds from it.

The project's commands are shown and run as a user would type them. The next run samples from the same network again,
as long as the recording and the settings are unchanged.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from charrnn.storage.checkpoint_format import FORMAT

DEMO = Path("demo")
NETWORK = DEMO / "network"
MADE_FROM = DEMO / "made_from.json"
SETTINGS = {"preset": "quick", "max-iterations": 1600, "max-minutes": 8}  # about three minutes on two cores
SEGMENTS, SEGMENT_SECONDS = 4, 2.5


def main(recording: str) -> int:
    """Run the demo; return the exit code."""
    if not Path(recording).is_file():
        print(f"demo: there is no recording {recording}. Name one with `make demo INPUT=my.wav`.", file=sys.stderr)
        return 1
    DEMO.mkdir(exist_ok=True)
    source = {
        "recording": hashlib.sha256(Path(recording).read_bytes()).hexdigest(),
        "settings": SETTINGS,
        "format": FORMAT,
    }
    made = read_json(MADE_FROM)
    if made.get("source") != source:
        MADE_FROM.unlink(missing_ok=True)
        shutil.rmtree(NETWORK, ignore_errors=True)
        made = {"source": source, "is_trained": False, "samples": 0}
        run("wav2utf8", recording, str(DEMO / "in.txt"))
        MADE_FROM.write_text(json.dumps(made) + "\n")
    if made["is_trained"]:
        print(f"The network in {NETWORK} is already trained on this recording: sampling again.")
    elif (NETWORK / "config.json").exists():
        run("charrnn-train", "--resume", str(NETWORK))
    else:
        flags = [part for name, value in SETTINGS.items() for part in (f"--{name}", str(value))]
        run("charrnn-train", str(DEMO / "in.txt"), *flags, "--run-dir", str(NETWORK))
    made["is_trained"] = True
    made["samples"] += 1
    MADE_FROM.write_text(json.dumps(made) + "\n")
    out = DEMO / "out.wav"
    length = ["--segments", str(SEGMENTS), "--segment-seconds", str(SEGMENT_SECONDS)]
    run("charrnn-sample", str(NETWORK), *length, "--seed", str(made["samples"]), "-o", str(out))
    print(
        f"\n{SEGMENTS * SEGMENT_SECONDS:g} seconds of a network's version of {recording}: {out}\n"
        "Play it, then try:\n"
        "  make demo                       another ten seconds from the same network\n"
        "  make demo INPUT=my.wav          your own recording\n"
        f"  . .venv/bin/activate; charrnn-sample {NETWORK} --seconds 0 | utf82wav | aplay\n"
        "                                  sound until Ctrl-C\n"
        f"  charrnn-listen {NETWORK} kathleen   (after: make listen)\n"
        "                                  live in a browser, beside the bundled voice\n"
        f"  charrnn-train --resume {NETWORK} --max-minutes 30\n"
        "                                  longer training\n"
        "README.md describes how to train larger networks."
    )
    return 0


def run(command: str, *arguments: str) -> None:
    """Show a command and run it; exit with its code if it fails."""
    print("$", command, *arguments, flush=True)
    program = Path(sys.executable).with_name(command)
    done = subprocess.run([program, *arguments], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; {} if there is none, or if writing it was interrupted."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:  # the command that was interrupted has printed its message
        sys.exit(130)
