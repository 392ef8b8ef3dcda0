"""Compile the engine of pages (charrnn/web/kernel/engine.c) to WebAssembly, with clang of the package ziglang."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLAGS = (
    "-target wasm32-wasi -mexec-model=reactor -O3 -std=gnu11 -ffp-contract=off -fno-math-errno -fvisibility=hidden "
    "-Wall -Wno-psabi -Wno-unused-function -msimd128 -mbulk-memory -s -Wl,-z,stack-size=65536"
).split()
RELAXED = ["-mrelaxed-simd"]
SHARED = "-matomics -Wl,--shared-memory,--import-memory,--max-memory=1073741824 -Wl,--export=__stack_pointer".split()
MODULES = {"plain": [], "relaxed": RELAXED, "relaxed-shared": [*RELAXED, *SHARED]}


def compile_modules(folder: Path) -> None:
    """Write a file per module into a folder."""
    for name, flags in MODULES.items():
        source, target = ROOT / "charrnn/web/kernel/engine.c", folder / f"{name}.wasm"
        subprocess.run([sys.executable, "-m", "ziglang", "cc", *FLAGS, *flags, str(source), "-o", target], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "charrnn/web/modules")
    compile_modules(parser.parse_args().folder)
