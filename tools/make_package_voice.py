"""Bundle a run with the package as a voice: its newest checkpoint in float16, its settings, and some rows of its log.

    python tools/make_package_voice.py runs/kathleen-001 kathleen

The run keeps the name of its recording, but not the recording. data/README.md describes its origin.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from charrnn.storage.checkpoint_format import load, save_float16
from charrnn.storage.run_dir import VOICES, Run, find_run, write_json

LOG_STRIDE = 50  # one of as many rows of log.csv is kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=find_run, help="run to copy")
    parser.add_argument("name", help="name of the voice")
    args = parser.parse_args()
    measures = args.run.free_running()
    if measures is None:
        parser.error(f"{args.run.path} has no measures: run charrnn-eval --free-running first.")
    voice = Run(VOICES / args.name)
    shutil.rmtree(voice.path, ignore_errors=True)
    voice.checkpoints_folder.mkdir(parents=True)
    config = args.run.config()
    voice.write_config(config | {"inputs": [Path(name).name for name in config["inputs"]]})
    voice.write_free_running(measures | {"data": Path(measures["data"]).name})
    shutil.copyfile(args.run.val_file, voice.val_file)
    header, *rows = args.run.log_file.read_text().splitlines(keepends=True)
    voice.log_file.write_text(header + "".join(rows[::LOG_STRIDE]))
    newest = args.run.checkpoints()[-1]
    save_float16(voice.checkpoints_folder / newest.name, newest)
    best = {
        "iteration": int(newest.stem),
        "val_loss": load(newest).val_loss,
        "checkpoint": f"checkpoints/{newest.name}",
    }
    write_json(voice.best_file, best)
    print(f"{sum(file.stat().st_size for file in voice.path.rglob('*')):,} bytes in {voice.path}")


if __name__ == "__main__":
    main()
