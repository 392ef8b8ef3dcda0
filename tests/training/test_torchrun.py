"""charrnn-train under torchrun."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import bytecodec
from bytecodec.console import DONE, FAILED
from charrnn.commands.train import charrnn_train
from charrnn.storage import checkpoint as files
from charrnn.storage.csv_log import read_rows
from charrnn.storage.run_dir import Run

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
]
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system has no /proc")

SMALL = (
    "--rnn-size 12 --layers 2 --wordvec-size 6 --batch-size 5 --seq-length 8 --precision fp32 --threads 1 "
    "--val-frac 0.02 --checkpoint-every 20"
).split()
TWO = ["--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with 60,000 bytes of sound in sound.txt."""
    monkeypatch.chdir(tmp_path)
    data = np.random.default_rng(1).integers(100, 130, 60_000, dtype=np.uint8)
    Path("sound.txt").write_text(bytecodec.encode(data.tobytes()), encoding="utf-8")
    return tmp_path


class Job:
    """charrnn-train under torchrun, with its output in a file."""

    def __init__(self, *args, torchrun=TWO, **kwargs):
        self.file = open(f"output-{time.monotonic_ns()}", "w+")  # noqa: SIM115
        command = [sys.executable, "-m", "torch.distributed.run", *torchrun, "-m", "charrnn.commands.train", *args]
        self.process = subprocess.Popen(command, stdout=self.file, stderr=subprocess.STDOUT, text=True, **kwargs)

    def wait(self):
        """Wait for the end; return torchrun's exit code and the messages of charrnn-train."""
        code = self.process.wait(timeout=120)
        return code, [line for line in self.output().splitlines() if line.startswith("charrnn-train: ")]

    def output(self):
        return Path(self.file.name).read_text()

    def pid(self, rank):
        """Return the process id of a rank."""
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                environment = (path / "environ").read_bytes().split(b"\0")
                if parent == self.process.pid and b"RANK=%d" % rank in environment:
                    return int(path.name)
        raise AssertionError(f"there is no process of rank {rank}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.file.close()


def wait_for(path):
    for _ in range(600):
        if Path(path).exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"there is no {path} after a minute")


def losses(run):
    return [float(row["train_loss"]) for row in read_rows(Path(run, "log.csv"))]


def weights(folder):
    return files.load(Run(Path(folder)).checkpoints()[-1]).model.state_dict()


def test_torchrun_trains_what_one_process_trains(here):
    flags = ["sound.txt", *SMALL, "--noise", "0", "--max-iterations", "25"]  # noise depends on the process
    board = ["--tensorboard"] if importlib.util.find_spec("tensorboard") else []
    with Job(*flags, "--run-dir", "two", *board) as job:
        ended, text = job.wait(), job.output()
    assert ended == (DONE, []), text
    assert text.count("fp32 on cpu with 1 thread in each of 2 processes") == 1
    assert text.count("done after iteration 25") == 1
    assert [line for line in text.splitlines() if line == "two"] == ["two"]  # the path that is printed
    assert len(list(Path("two").glob("tensorboard/*"))) == len(board)  # one process writes
    assert charrnn_train([*flags, "--run-dir", "one", "-q"]) == 0
    np.testing.assert_allclose(losses("two"), losses("one"), rtol=1e-5)
    a, b = weights("one"), weights("two")
    assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-4) for name in a)
    # and one process can resume the run
    assert charrnn_train(["--resume", "two", "--max-iterations", "30", "-q"]) == 0
    assert len(losses("two")) == 30
    assert json.loads(Path("two/config.json").read_text())["processes"] == 1


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize(
    ("victim", "folder"), [(0, []), (1, ["--run-dir", "runs/sound-001"])], ids=["main, default", "other, named"]
)
def test_if_a_process_is_killed_all_end_and_a_restart_resumes_from_the_last_save(here, victim, folder):
    flags = ["sound.txt", *SMALL, "--max-iterations", "1500", *folder]
    with Job(*flags, torchrun=[*TWO, "--max-restarts", "1"]) as job:
        wait_for("runs/sound-001/checkpoints/00000020.safetensors")
        os.kill(job.pid(victim), signal.SIGKILL)
        code, messages = job.wait()
        text = job.output()
    assert code == DONE
    assert all("another process of this run died" in line for line in messages)
    assert len(messages) <= 1
    assert text.count("is resumed at iteration") == 1
    assert [path.name for path in Path("runs").iterdir()] == ["sound-001"]
    assert len(losses("runs/sound-001")) == 1500


@pytest.mark.slow
@needs_proc
def test_without_restarts_a_killed_process_is_reported_once_and_the_run_can_be_resumed(here):
    with Job("sound.txt", *SMALL, "--max-iterations", "100000", "--run-dir", "r") as job:
        wait_for("r/checkpoints/00000020.safetensors")
        os.kill(job.pid(1), signal.SIGKILL)
        code, messages = job.wait()
        assert "charrnn/" not in job.output()  # no traceback of ours
    assert code != DONE
    assert len(messages) == 1
    assert "another process of this run died" in messages[0]
    assert "--resume" in messages[0]
    done = json.loads(Path("r/best.json").read_text())["iteration"]
    with Job("--resume", "r", "--max-iterations", str(done + 40)) as job:
        assert job.wait() == (DONE, [])
    assert len(losses("r")) == done + 40


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize(("receiver", "number"), [("torchrun", signal.SIGINT), (0, signal.SIGTERM), (1, signal.SIGINT)])
def test_a_signal_to_any_process_saves_and_stops_all(here, receiver, number):
    with Job("sound.txt", *SMALL, "--max-iterations", "100000", "--run-dir", "r") as job:
        wait_for("r/checkpoints/00000020.safetensors")
        os.kill(job.process.pid if receiver == "torchrun" else job.pid(receiver), number)
        code, messages = job.wait()
        text = job.output()
    assert code != DONE
    assert messages == []
    assert text.count("everything is saved") == 1
    metadata, _ = files.read_tensors("r/resume.safetensors", "resume")
    assert metadata["iteration"] == len(losses("r"))


@pytest.mark.slow
@needs_proc
def test_two_agents_as_on_two_hosts_restart_together(here):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    hosts = "--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-id a --max-restarts 1 --local-addr localhost"
    hosts = [*hosts.split(), "--rdzv-endpoint", f"localhost:{port}"]
    flags = ["sound.txt", *SMALL, "--max-iterations", "1500", "--run-dir", "r"]
    with Job(*flags, torchrun=hosts) as one, Job(*flags, torchrun=hosts) as two:
        wait_for("r/checkpoints/00000020.safetensors")
        try:
            os.kill(one.pid(1), signal.SIGKILL)
        except AssertionError:
            os.kill(two.pid(1), signal.SIGKILL)
        assert {one.wait()[0], two.wait()[0]} == {DONE}
        assert sum(job.output().count("is resumed at iteration") for job in (one, two)) == 1
    assert len(losses("r")) == 1500


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["sound.txt", "--batch-size", "1"], "--batch-size 1 is too few rows for 2 processes"),
        (["sound.txt", "--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_an_error_is_reported_once(here, flags, message):
    with Job(*flags) as job:
        code, messages = job.wait()
    assert (code, len(messages)) == (1, 1)
    assert message in messages[0]
    assert not list(Path().glob("runs/*"))


@pytest.mark.slow
def test_a_full_disk_of_the_main_process_ends_all_with_one_message(here):
    resource = pytest.importorskip("resource")

    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, 80_000))

    flags = ["sound.txt", *SMALL, "--max-iterations", "100000", "--run-dir", "r"]
    with Job(*flags, preexec_fn=limit_file_size) as job:
        code, messages = job.wait()
    assert code == FAILED
    assert len(messages) == 1
    assert "log.csv" in messages[0] or ".safetensors" in messages[0]


@pytest.mark.slow
def test_the_cores_are_divided_between_the_processes(here):
    with Job("sound.txt", "--rnn-size", "8", "--layers", "1", "--max-iterations", "2", "--run-dir", "r") as job:
        assert job.wait() == (DONE, [])
    share = json.loads(Path("r/config.json").read_text())["threads"]
    command = "import torch; print(torch.get_num_threads())"
    plain = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    cores = int(subprocess.run([sys.executable, "-c", command], env=plain, capture_output=True, check=True).stdout)
    if "OMP_NUM_THREADS" in os.environ and os.environ["OMP_NUM_THREADS"] != "1":
        cores = int(os.environ["OMP_NUM_THREADS"])
    assert share == max(1, cores // 2)
