"""Imports: the order of the packages, no cycles, and what must start without heavy libraries."""

import ast
import json
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module imports only modules of its own line and of the lines above it (docs/explanation/architecture.md).
ORDER = (
    ("bytecodec",),
    ("charrnn.data", "charrnn.runtime", "charrnn.sockets", "charrnn.models.config"),
    ("charrnn.models",),
    ("charrnn.storage",),
    ("charrnn.cuda",),
    ("charrnn.engines", "charrnn.viz"),
    ("charrnn.sampling",),
    ("charrnn.training",),
    ("charrnn.frames", "charrnn.web"),
    ("charrnn.server",),
    ("charrnn.commands",),
)
HEAVY = {"torch", "scipy", "safetensors", "matplotlib", "onnx", "sounddevice"}
LIGHT = """
    charrnn charrnn.runtime charrnn.data.vocab charrnn.data.corpus charrnn.data.baselines charrnn.models.config
    charrnn.storage.run_dir charrnn.storage.csv_log charrnn.storage.torch7
    charrnn.storage.onnx_export charrnn.engines.onnx charrnn.sampling.playback charrnn.training.recipe
    charrnn.frames.data charrnn.sampling.audio_metrics charrnn.commands.train charrnn.commands.sample
    charrnn.commands.eval charrnn.commands.convert charrnn.commands.plot charrnn.commands.report
    charrnn.commands.video charrnn.commands.listen
""".split()

# Imports each module in a child process of its own and prints the names of all modules that are loaded then.
PROBE = """
import importlib, json, os, sys
for name in sys.argv[1:]:
    read, write = os.pipe()
    if os.fork() == 0:
        importlib.import_module(name)
        os.write(write, json.dumps(sorted(sys.modules)).encode())
        os._exit(0)
    os.close(write)
    print(json.dumps([name, json.loads(open(read).read())]))
    os.wait()
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def module_files():
    """All modules of the two packages, with their files."""
    files = [*(ROOT / "bytecodec").rglob("*.py"), *(ROOT / "charrnn").rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def import_graph():
    """For each module, the modules that it imports anywhere: at its top, in functions, and for type checking."""
    files = module_files()
    graph = {}
    for name, file in files.items():
        found = set()
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        # "from package import module" imports the module, not what the package's own file defines.
        parents = {module.rpartition(".")[0] for module in found & files.keys()}
        direct = {module for module in found if module in files and not (module in parents and is_empty(files[module]))}
        graph[name] = direct - {name}
    return graph


def is_empty(file):
    """Whether a package's __init__.py has nothing but a docstring."""
    return len(ast.parse(file.read_text("utf-8")).body) <= 1


def rank(module):
    """Index in ORDER of the longest prefix of a module's name."""
    matches = [
        (len(prefix), index)
        for index, line in enumerate(ORDER)
        for prefix in line
        if module == prefix or module.startswith(f"{prefix}.")
    ]
    return max(matches)[1] if matches else None


def loaded_by(names):
    """For each module, the names of all modules that are loaded once it is imported in a fresh process."""
    done = subprocess.run([sys.executable, "-c", PROBE, *names], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {name: set(modules) for name, modules in map(json.loads, done.stdout.splitlines())}


def roots(modules):
    return {name.partition(".")[0] for name in modules}


def test_every_module_belongs_to_a_package_of_the_order():
    assert [name for name in module_files() if rank(name) is None] == ["charrnn"]


def test_no_module_imports_a_later_package():
    wrong = [
        f"{name} imports {other}"
        for name, others in import_graph().items()
        for other in others
        if rank(name) is not None and rank(other) is not None and rank(other) > rank(name)
    ]
    assert not wrong


def test_there_are_no_import_cycles():
    graph = import_graph()
    del graph["charrnn"]  # maps public names to modules, and imports nothing until they are used
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"cycle: {error.args[1]}")


def test_sampling_and_training_loops_do_not_import_each_other():
    graph = import_graph()
    assert not {m for m in graph["charrnn.training.trainer"] if m.startswith(("charrnn.sampling", "charrnn.engines"))}
    for name, others in graph.items():
        if name.startswith(("charrnn.sampling", "charrnn.engines")):
            assert not {m for m in others if m.startswith("charrnn.training")}, name


@needs_fork
def test_the_codec_loads_no_torch_and_starts_without_scipy():
    names = [name for name in module_files() if name.startswith("bytecodec")]
    for name, modules in loaded_by(names).items():
        assert not roots(modules) & {"torch", "charrnn", "matplotlib", "safetensors"}, name
        if name in ("bytecodec", "bytecodec.commands", "bytecodec.alphabet", "bytecodec.console"):
            assert not roots(modules) & {"scipy", "tqdm"}, name


@needs_fork
def test_command_lines_and_readers_of_runs_start_without_heavy_libraries():
    for name, modules in loaded_by(LIGHT).items():
        assert not roots(modules) & HEAVY, name


@needs_fork
def test_pictures_and_the_listening_page_load_no_torch():
    for library in ("matplotlib", "plotly", "uvicorn"):
        pytest.importorskip(library)
    names = [name for name in module_files() if name.startswith(("charrnn.viz", "charrnn.server"))]
    for name, modules in loaded_by(names).items():
        assert not roots(modules) & {"torch", "scipy", "safetensors"}, name


def test_importing_charrnn_loads_none_of_its_modules():
    assert {m for m in loaded_by(["charrnn"])["charrnn"] if m.startswith("charrnn")} == {"charrnn"}


def test_sampling_with_the_compiled_engine_loads_no_torch(trained_run, tmp_path):
    program = (
        "import sys; from charrnn.commands.sample import charrnn_sample\n"
        "code = charrnn_sample(sys.argv[1:]); print(*sorted(sys.modules)); sys.exit(code)"
    )
    flags = ["--engine", "cpu", "--seconds", "0.1", "-o", tmp_path / "out.wav", "--state-out", tmp_path / "state"]
    done = subprocess.run([sys.executable, "-c", program, trained_run, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not roots(done.stdout.split()) & {"torch", "scipy"}


@pytest.mark.parametrize("command", ["wav2utf8", "utf82wav", "bin2utf8", "utf82bin"])
def test_help_of_the_codec_loads_no_scipy_and_no_torch(command):
    program = (
        f"import sys; from bytecodec.commands import {command} as command\n"
        "try: command(['--help'])\n"
        "finally: print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {command}")
    assert not roots(done.stderr.split()) & {"scipy", "torch", "charrnn", "tqdm"}
