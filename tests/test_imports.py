"""Who imports whom: each module is loaded in a fresh process, and what came with it is looked at."""

import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Imports each module named on the command line in a child of its own, and prints what that loaded. What is named
# before "--" is there from the beginning: torch takes long to load, and is the same for all.
PROBE = """
import importlib, json, os, sys
split = sys.argv.index("--")
for name in sys.argv[1:split]:
    importlib.import_module(name)
for name in sys.argv[split + 1:]:
    read, write = os.pipe()
    if os.fork() == 0:
        importlib.import_module(name)
        os.write(write, json.dumps(sorted(sys.modules)).encode())
        os._exit(0)
    os.close(write)
    print(json.dumps([name, json.loads(open(read).read())]))
    os.wait()
"""

TRITON = (  # in which these are written
    "charrnn.engines.cuda.persistent_kernel",
    "charrnn.engines.cuda.persistent",
    "charrnn.cuda.grid_barrier",
    "charrnn.cuda.lstm",
    "charrnn.cuda.lstm_kernels",
)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
pytestmark = needs_fork


def loaded_by(names, there=()):
    """For each module, the names of all modules that are loaded once it is."""
    command = [sys.executable, "-c", PROBE, *there, "--", *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {name: set(modules) for name, modules in map(json.loads, done.stdout.splitlines())}


def modules_of(package):
    found = [m.name for m in pkgutil.walk_packages([str(ROOT / package)], f"{package}.")]
    assert found
    if not importlib.util.find_spec("triton"):
        found = [name for name in found if name not in TRITON]
    return [package, *found]


def roots(modules):
    return {name.partition(".")[0] for name in modules}


@pytest.fixture(scope="module")
def codec():
    return loaded_by(modules_of("bytecodec"))


@pytest.fixture(scope="module")
def light():
    """Modules that have to start at once."""
    names = [
        "charrnn",
        "charrnn.storage.run_dir",
        "charrnn.data.vocab",
        "charrnn.data.corpus",
        "charrnn.runtime",
        "charrnn.training.recipe",
    ]
    names += [
        "charrnn.models.config",
        "charrnn.data.baselines",
        "charrnn.storage.torch7",
        "charrnn.frames.data",
        "charrnn.frames.audio_metrics",
        "charrnn.training.listener",
    ]
    names += [
        "charrnn.storage.onnx_export",
        "charrnn.engines.onnx",
        "charrnn.sampling.playback",
        "charrnn.storage.retention",
    ]
    return loaded_by(
        [
            *names,
            *(
                f"charrnn.commands.{name}"
                for name in ("train", "sample", "eval", "convert", "plot", "report", "video", "listen")
            ),
        ]
    )


@pytest.fixture(scope="module")
def pictures():
    pytest.importorskip("matplotlib")
    pytest.importorskip("plotly")
    pytest.importorskip("uvicorn")
    return loaded_by([name for name in modules_of("charrnn") if name.startswith("charrnn.viz")])


@pytest.fixture(scope="module")
def network():
    return loaded_by(modules_of("charrnn"), there=["torch", "scipy.stats"])


def test_the_codec_knows_neither_torch_nor_the_network(codec):
    assert "bytecodec.wav" in codec
    for name, modules in codec.items():
        assert not roots(modules) & {"torch", "charrnn", "matplotlib", "safetensors"}, name


def test_the_codec_starts_without_scipy(codec):
    """Only resampling takes it, and it takes longer to load than most files to convert."""
    for name in ("bytecodec", "bytecodec.commands", "bytecodec.alphabet", "bytecodec.console"):
        assert not roots(codec[name]) & {"scipy", "tqdm"}, name


def test_what_reads_runs_and_what_parses_flags_loads_no_torch(light):
    for name, modules in light.items():
        assert not roots(modules) & {"torch", "scipy", "safetensors", "matplotlib", "onnx", "sounddevice"}, name


def test_what_there_is_to_look_at_is_made_without_torch(pictures):
    for name, modules in pictures.items():
        assert not roots(modules) & {"torch", "scipy", "safetensors"}, name
        assert {m for m in modules if m.startswith("charrnn.")} <= {"charrnn.storage.run_dir", *pictures}, name
    assert not roots(pictures["charrnn.viz.curves"]) & {"matplotlib"}


def test_sampling_with_the_compiled_engine_loads_no_torch(trained_run, tmp_path):
    program = (
        "import sys; from charrnn.commands.sample import charrnn_sample\n"
        "code = charrnn_sample(sys.argv[1:]); print(*sorted(sys.modules)); sys.exit(code)"
    )
    flags = ["--engine", "cpu", "--seconds", "0.1", "-o", tmp_path / "out.wav", "--state-out", tmp_path / "state"]
    done = subprocess.run([sys.executable, "-c", program, trained_run, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not roots(done.stdout.split()) & {"torch", "scipy"}


def test_importing_charrnn_loads_almost_nothing(light):
    assert {m for m in light["charrnn"] if m.startswith("charrnn")} == {"charrnn"}


def test_training_and_sampling_do_not_import_each_other(network):
    sampling = {
        "charrnn.sampling.generate",
        "charrnn.sampling.stitch",
        "charrnn.engines",
        "charrnn.engines.eager",
        "charrnn.engines.cuda.engine",
    }
    for name in sampling:
        assert not network[name] & {"charrnn.training.trainer", "charrnn.training.evaluate", "charrnn.data.corpus"}, (
            name
        )
    for name in ("charrnn.training.trainer", "charrnn.training.evaluate", "charrnn.data.corpus"):
        assert not network[name] & sampling, name


@pytest.mark.parametrize(
    ("upstream", "downstream"),
    [
        ("charrnn.models.cells", "charrnn.models.char_rnn"),
        ("charrnn.models.char_rnn", "charrnn.engines"),
        ("charrnn.engines.eager", "charrnn.sampling.generate"),
        ("charrnn.sampling.generate", "charrnn.sampling.stitch"),
        ("charrnn.data.vocab", "charrnn.data.corpus"),
        ("charrnn.data.corpus", "charrnn.training.trainer"),
        ("charrnn.storage.checkpoint", "charrnn.training.trainer"),
        ("charrnn.storage.run_dir", "charrnn.storage.checkpoint"),
        ("charrnn.models.char_rnn", "charrnn.storage.checkpoint"),
        ("charrnn.storage.torch7", "charrnn.storage.torch_rnn"),
        ("charrnn.models.char_rnn", "charrnn.frames.model"),
        ("charrnn.frames.model", "charrnn.frames.noise"),
        ("charrnn.frames.model", "charrnn.frames.generate"),
        ("charrnn.sampling.generate", "charrnn.frames.generate"),
        ("charrnn.data.corpus", "charrnn.frames.data"),
        ("charrnn.storage.checkpoint", "charrnn.storage.torch_rnn"),
    ],
)
def test_nothing_downstream_is_imported_upstream(network, upstream, downstream):
    assert downstream not in network[upstream]


def test_nothing_imports_tools_or_the_commands(network, codec):
    for name, modules in (network | codec).items():
        assert "tools" not in roots(modules), name
        if not name.startswith("charrnn.commands"):
            assert not any(module.startswith("charrnn.commands") for module in modules), name
        if name != "bytecodec.commands":
            assert "bytecodec.commands" not in modules, name


@pytest.mark.parametrize("command", ["wav2utf8", "utf82wav", "bin2utf8", "utf82bin"])
def test_the_codecs_help_loads_no_scipy_and_no_torch(command):
    program = (
        f"import sys; from bytecodec.commands import {command} as command\n"
        "try: command(['--help'])\n"
        "finally: print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {command}")
    assert not roots(done.stderr.split()) & {"scipy", "torch", "charrnn", "tqdm"}


def test_encoding_bytes_loads_no_scipy():
    program = (
        "import sys; from bytecodec.commands import bin2utf8; bin2utf8(['-'])\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=b"\x00\x01", capture_output=True, check=True)
    assert done.stdout.decode() == "⠀⠁"
    assert not roots(done.stderr.decode().split()) & {"scipy", "torch", "charrnn"}
