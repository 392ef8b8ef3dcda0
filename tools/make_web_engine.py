"""Compile the engine of pages (charrnn/web/kernel/engine.c) to WebAssembly, with clang of the package ziglang.

The modules are kept in the package, so that an installation needs no compiler. The same sources and the version of
ziglang in constraints.txt give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "charrnn/web/kernel/engine.c"
MODULES = ROOT / "charrnn/web/modules"
HASH = "sources.sha256"  # file with the hash of the sources of the modules
FLAGS = (
    "-target wasm32-wasi -mexec-model=reactor -O3 -std=gnu11 -ffp-contract=off -fno-math-errno -fvisibility=hidden "
    "-Wall -Wno-psabi -Wno-unused-function -msimd128 -mbulk-memory -s -Wl,-z,stack-size=65536"
)
RELAXED = "-mrelaxed-simd"
SHARED = "-matomics -Wl,--shared-memory,--import-memory,--max-memory=1073741824 -Wl,--export=__stack_pointer"
VARIANTS = {"plain": "", "relaxed": RELAXED, "relaxed-shared": f"{RELAXED} {SHARED}"}  # flags of each module


def compile_modules(folder: Path) -> None:
    """Write the modules and the hash of their sources to a folder."""
    for name, flags in VARIANTS.items():
        command = [sys.executable, "-m", "ziglang", "cc", *FLAGS.split(), *flags.split()]
        subprocess.run([*command, SOURCE.name, "-o", folder / f"{name}.wasm"], check=True, cwd=SOURCE.parent)
        (folder / f"{name}.wasm").chmod(0o644)
    (folder / HASH).write_text(f"{hash_of_sources()}\n")


def hash_of_sources() -> str:
    """Return a hash of the C sources and the compiler's flags."""
    files = [*sorted(SOURCE.parent.glob("*.[ch]")), *sorted((ROOT / "charrnn/engines/cpu/kernel").glob("*.h"))]
    contents = [file.read_bytes().replace(b"\r\n", b"\n") for file in files]
    return hashlib.sha256(b"\0".join([FLAGS.encode(), repr(VARIANTS).encode(), *contents])).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=MODULES, help="folder to write to")
    parser.add_argument("--check", action="store_true", help="only report whether the modules are those of the sources")
    args = parser.parse_args()
    if not args.check:
        compile_modules(args.folder)
    elif (args.folder / HASH).read_text().strip() != hash_of_sources():
        sys.exit("the sources have changed: run tools/make_web_engine.py")


if __name__ == "__main__":
    main()
