"""Several processes learn what one learns, go on exactly, and end together, however one of them ends."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
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

from bytecodec.console import DONE, FAILED
from bytecodec.errors import InputError
from charrnn.data.vocab import Vocab
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig
from charrnn.storage import checkpoint as files
from charrnn.storage.checkpoint import Checkpoint
from charrnn.storage.csv_log import TIME_COLUMNS, read_rows
from charrnn.storage.run_dir import Run
from charrnn.training import distributed
from charrnn.training.distributed import SINGLE_PROCESS
from charrnn.training.evaluate import evaluate
from charrnn.training.recipe import Settings
from charrnn.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")

VOCAB = Vocab("abcde")
SETTINGS = Settings(batch_size=4, seq_length=5, learning_rate=0.01, max_iterations=16, checkpoint_every=7)
STOP = 11  # an iteration between two checkpoints


def text(n, seed=0):
    """Symbols of 0 to 4 in an order that can be learnt: up by one, or by two now and then."""
    return (np.cumsum(1 + (np.random.default_rng(seed).random(n) < 0.1)) % 5).astype(np.uint8)


PARTS = {"train": text(300), "val": text(123, 1)}  # 123: 50 rows of 2, and 22 symbols that fill no row


def trainer(folder, world=SINGLE_PROCESS, rows=4, dropout=0.0):
    """A trainer of a tiny network: a new one, or where the folder's resume file says."""
    folder.mkdir(exist_ok=True, parents=True)
    model = build(ModelConfig(len(VOCAB), wordvec_size=4, rnn_size=6, layers=2, dropout=dropout), seed=1)

    def package(step, epoch, train_loss):
        return Checkpoint(model, VOCAB, step=step, epoch=epoch, train_loss=train_loss)

    settings = Settings(**SETTINGS.to_json() | {"batch_size": rows})
    return Trainer(model, PARTS, settings, Run(folder), package, world=world)


def finish(folder, world=SINGLE_PROCESS, **kwargs):
    trainer(folder, world, **kwargs).train()
    world.all_reduce_max(0)  # the files are whole before anybody looks at them


def stop(folder, world=SINGLE_PROCESS, who=0, **kwargs):
    """Train until one process, ``who``, asks for a stop."""
    made = trainer(folder, world, **kwargs)
    made.train(lambda: world.rank == who and made.place.iteration >= STOP)
    world.all_reduce_max(0)


def work(world, folder):
    """What a process of a group does; returns what the tests look at."""
    size, rank = world.size, world.rank
    tensors = [torch.full((2, 3), float(rank)), torch.tensor(rank + 0.5), torch.arange(5.0) * 10**rank]
    world.average(tensors, (rank + 1) / sum(range(1, size + 1)))
    own = slice(rank * 4 // size, (rank + 1) * 4 // size)
    whole = torch.arange(8.0).reshape(4, 2)
    gathered = world.gather(((whole[own], -whole[own]), (whole[own].bfloat16(),)))
    model = build(ModelConfig(len(VOCAB), wordvec_size=4, rnn_size=6, layers=2), seed=1)
    found = {
        "average": [t.tolist() for t in tensors],
        "gathered": [[t.tolist() for t in layer] for layer in gathered],
        "dtype": str(gathered[1][0].dtype),
        "numbers": [
            world.all_reduce_max(rank),
            world.sum(rank + 1),
            world.broadcast(rank + 7),
            world.any(rank == size - 1),
        ],
        "none": world.any(False),
        "losses": [evaluate(model, text(n), world=world) for n in (2, 3, 40, 51, 123, 5000)],
    }
    finish(folder / "even", world)
    finish(folder / "odd", world, rows=5)
    if size == 2:
        finish(folder / "dropout", world, dropout=0.3)
        for name in ("stopped", "to one"):
            stop(folder / name, world, who=1)
        finish(folder / "stopped", world)
        stop(folder / "stopped dropout", world, dropout=0.3)
        finish(folder / "stopped dropout", world, dropout=0.3)
        finish(folder / "from one", world)
        late = trainer(folder / "late", world)
        late.train(lambda: rank == 1 and late.place.iteration == 7)  # asked for in a validation
        other = trainer(folder / "other", world)
        with torch.no_grad():
            other.model.output.bias[0] += 1e-6 * rank
        try:
            other.train()
        except InputError as error:
            found["other"] = str(error)
        found["late"] = late.place.iteration, late.place.checkpointed
    return found


def be_one(rank, size, port, folder):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with distributed.join() as world:
        found = work(world, folder)
    (folder / f"{rank}.json").write_text(json.dumps(found))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(target, size, *args):
    """Start processes of one group, and wait for them; returns their exit codes."""
    spawn = multiprocessing.get_context("spawn")
    port = free_port()
    processes = [spawn.Process(target=target, args=(rank, size, port, *args)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """``group(size)``: the folder of what so many processes trained, and what each found."""
    done = {}

    def get(size):
        if size not in done:
            folder = tmp_path_factory.mktemp(f"of{size}")
            stop(folder / "from one")
            assert start(be_one, size, folder) == [0] * size
            done[size] = folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
        return done[size]

    return get


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of the same, trained by one process."""
    folder = tmp_path_factory.mktemp("alone")
    finish(folder / "even")
    finish(folder / "odd", rows=5)
    return folder


SIZES = pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])


def weights(folder):
    return files.load(Run(folder).checkpoints()[-1]).model.state_dict()


def numbers(path):
    return [[float(v) for name, v in row.items() if name not in TIME_COLUMNS] for row in read_rows(path)]


def exactly(folder):
    """All that a run leaves behind but times."""
    run = Run(folder)
    facts, tensors = files.read_tensors(run.resume_file, "resume")
    return (
        numbers(run.log_file),
        numbers(run.val_file),
        {name: value for name, value in facts.items() if name != "seconds"},
        {name: tensor.tolist() for name, tensor in tensors.items()},
        json.loads(run.best_file.read_text()),
    )


@SIZES
def test_the_average_is_the_weighted_sum_of_what_each_had(group, size):
    share = np.arange(1, size + 1) / sum(range(1, size + 1))
    expected = [
        np.full((2, 3), share @ np.arange(size)),
        share @ np.arange(size) + 0.5,
        np.arange(5) * (share @ 10.0 ** np.arange(size)),
    ]
    for found in group(size)[1]:
        for a, b in zip(found["average"], expected, strict=True):
            assert np.allclose(a, b, rtol=1e-6)


def test_more_than_a_bucket_is_averaged_in_several(group, monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET", 3)
    sizes = []
    lonely = object.__new__(distributed._Group)
    monkeypatch.setattr(lonely, "_average", lambda bucket, weight: sizes.append([len(t) for t in bucket]))
    lonely.average([torch.zeros(n) for n in (1, 1, 1, 5, 2, 2, 1)], 1.0)
    assert sizes == [[1, 1, 1], [5], [2, 2], [1]]


@SIZES
def test_states_come_together_in_the_order_of_the_rows(group, size):
    leader = group(size)[1][0]
    whole = np.arange(8.0).reshape(4, 2)
    assert leader["gathered"] == [[whole.tolist(), (-whole).tolist()], [whole.tolist()]]
    assert leader["dtype"] == "torch.bfloat16"


@SIZES
def test_all_agree_on_numbers_and_flags(group, size):
    for found in group(size)[1]:
        assert found["numbers"] == [size - 1, size * (size + 1) / 2, 7, True]
        assert found["none"] is False


@SIZES
def test_all_get_the_loss_that_one_gets_whatever_the_length(group, size):
    model = build(ModelConfig(len(VOCAB), wordvec_size=4, rnn_size=6, layers=2), seed=1)
    expected = [evaluate(model, text(n)) for n in (2, 3, 40, 51, 123, 5000)]
    for found in group(size)[1]:
        assert found["losses"] == pytest.approx(expected, rel=1e-6)


@SIZES
@pytest.mark.parametrize("rows", ["even", "odd"])
def test_they_learn_the_weights_that_one_learns_from_the_same_rows(group, alone, size, rows):
    folder = group(size)[0]
    one, many = weights(alone / rows), weights(folder / rows)
    start_ = build(ModelConfig(len(VOCAB), wordvec_size=4, rnn_size=6, layers=2), seed=1).state_dict()
    for name, tensor in one.items():
        assert torch.allclose(many[name], tensor, rtol=0, atol=1e-5), name
    assert (one["output.weight"] - start_["output.weight"]).abs().max() > 0.1  # it has learnt


@SIZES
@pytest.mark.parametrize("log", ["log.csv", "val.csv"])
def test_they_log_what_one_logs(group, alone, size, log):
    one, many = numbers(alone / "even" / log), numbers(group(size)[0] / "even" / log)
    assert len(one) == (16 if log == "log.csv" else 3)
    assert np.allclose(one, many, rtol=1e-4)


@pytest.mark.parametrize("kind", ["", " dropout"])
def test_two_that_were_stopped_go_on_as_if_they_had_not_been(group, kind):
    folder = group(2)[0]
    assert exactly(folder / f"stopped{kind}") == exactly(folder / (kind.strip() or "even"))


def test_one_goes_on_with_what_two_began(group, alone):
    folder = group(2)[0] / "to one"
    assert len(numbers(folder / "log.csv")) == STOP
    finish(folder)
    assert_close(folder, alone / "even")


def test_two_go_on_with_what_one_began(group, alone):
    assert_close(group(2)[0] / "from one", alone / "even")


def assert_close(folder, other):
    a, b = weights(folder), weights(other)
    assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-5) for name in b)
    assert np.allclose(numbers(folder / "log.csv"), numbers(other / "log.csv"), rtol=1e-4)


def test_processes_draw_different_dropout(group):
    folder = group(2)[0]
    assert not np.allclose(numbers(folder / "dropout" / "log.csv"), numbers(folder / "even" / "log.csv"), rtol=1e-3)


def test_a_stop_that_one_process_asks_for_in_a_validation_stops_all(group):
    for found in group(2)[1]:
        assert found["late"] == [7, 0]


def test_processes_that_begin_with_other_weights_are_told(group):
    for found in group(2)[1]:
        assert "the processes did not all read the same" in found["other"]


def test_without_torchrun_one_is_alone(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with distributed.join() as world:
        assert world is SINGLE_PROCESS
        assert world.is_main
        assert world.gather(()) == ()
        assert world.run_before_restart() is None


def test_half_an_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with (
        pytest.raises(InputError, match="MASTER_PORT is '': start several processes with torchrun"),
        distributed.join(),
    ):
        pass


def test_only_the_leader_talks(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        with distributed.main_process_only():
            print(rank)
            print(rank, file=sys.stderr)
    assert capsys.readouterr() == ("0\n", "0\n")


def fail_or_hang(rank, size, port, folder, how):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.TIMEOUT = distributed.timedelta(seconds=3)
    sentence = ""
    try:
        with distributed.join() as world:
            world.all_reduce_max(0)
            if rank == 1:
                if how == "hangs":
                    time.sleep(8)
                    os._exit(0)
                raise InputError("this is why.") if how == "fails" else SystemExit(0)
            world.all_reduce_max(0)
    except InputError as error:
        sentence = str(error)
    finally:
        (folder / str(rank)).write_text(sentence)
    sys.exit(FAILED)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_the_first_to_fail_says_why_and_the_others_end_without_a_word(tmp_path, how):
    codes = start(fail_or_hang, 3, tmp_path, how)
    said = [path.read_text() for path in sorted(tmp_path.iterdir())]
    if how == "fails":
        assert codes == [FAILED] * 3
        assert [s for s in said if s] == [f"this is why. (Process 1 of 3, on {socket.gethostname()}.)"]
    else:
        assert codes[0] == codes[2] == FAILED
        assert len([s for s in said if s]) == 1
        assert any("did not answer" in s for s in said)


# ---- the whole command, under torchrun

SMALL = (
    "--rnn-size 12 --layers 2 --wordvec-size 6 --batch-size 5 --seq-length 8 --precision fp32 --threads 1 "
    "--val-frac 0.02 --checkpoint-every 20"
).split()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with 60,000 bytes of sound in sound.txt."""
    import bytecodec

    monkeypatch.chdir(tmp_path)
    data = np.random.default_rng(1).integers(100, 130, 60_000, dtype=np.uint8)
    Path("sound.txt").write_text(bytecodec.encode(data.tobytes()), encoding="utf-8")
    return tmp_path


class Job:
    """charrnn-train under torchrun, with what it says in a file."""

    def __init__(self, *args, torchrun=("--standalone", "--nproc-per-node", "2"), **kwargs):
        self.file = open(f"said-{time.monotonic_ns()}", "w+")  # noqa: SIM115
        command = [sys.executable, "-m", "torch.distributed.run", *torchrun, "-m", "charrnn.commands.train", *args]
        self.process = subprocess.Popen(command, stdout=self.file, stderr=subprocess.STDOUT, text=True, **kwargs)

    def end(self):
        """Wait for the end; returns torchrun's exit code and the lines of ours."""
        code = self.process.wait(timeout=120)
        return code, self.said()

    def said(self):
        return [line for line in Path(self.file.name).read_text().splitlines() if line.startswith("charrnn-train: ")]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.file.close()


def rank(job, number):
    """The process id of a rank of a job."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (path / "environ").read_bytes().split(b"\0")
            if parent == job.process.pid and b"RANK=%d" % number in environment:
                return int(path.name)
    raise AssertionError(f"there is no process of rank {number}")


def wait_for(path):
    for _ in range(600):
        if Path(path).exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"there is no {path} after a minute")


def losses(run):
    return [float(row["train_loss"]) for row in read_rows(Path(run, "log.csv"))]


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system has no /proc")


def test_torchrun_trains_what_one_process_trains(here):
    from charrnn.commands.train import charrnn_train

    flags = ["sound.txt", *SMALL, "--max-iterations", "25"]
    board = ["--tensorboard"] if importlib.util.find_spec("tensorboard") else []
    with Job(*flags, "--run-dir", "two", *board) as job:
        ended, text = job.end(), Path(job.file.name).read_text()
    assert ended == (DONE, []), text
    assert text.count("fp32 on cpu with 1 thread in each of 2 processes") == 1
    assert text.count("done after iteration 25") == 1
    assert [line for line in text.splitlines() if line == "two"] == ["two"]  # the path that is printed
    assert len(list(Path("two").glob("tensorboard/*"))) == len(board)  # one process writes
    assert charrnn_train([*flags, "--run-dir", "one", "-q"]) == 0
    assert np.abs(np.subtract(losses("one"), losses("two"))).max() < 1e-5
    a, b = weights(here / "one"), weights(here / "two")
    assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-5) for name in a)
    # and one process goes on with it
    assert charrnn_train(["--resume", "two", "--max-iterations", "30", "-q"]) == 0
    assert len(losses("two")) == 30
    assert json.loads(Path("two/config.json").read_text())["processes"] == 1


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("folder", [["--run-dir", "runs/sound-001"], []], ids=["named", "default"])
def test_a_process_that_is_killed_ends_all_and_a_restart_goes_on_from_the_last_save(here, victim, folder):
    flags = ["sound.txt", *SMALL, "--max-iterations", "1500", *folder]
    with Job(*flags, torchrun=["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]) as job:
        wait_for("runs/sound-001/checkpoints/00000020.safetensors")
        os.kill(rank(job, victim), signal.SIGKILL)
        code, said = job.end()
        text = Path(job.file.name).read_text()
    assert code == DONE
    assert all("another process of this training died" in line for line in said)
    assert len(said) <= 1
    assert text.count("goes on at iteration") == 1
    assert [path.name for path in Path("runs").iterdir()] == ["sound-001"]
    assert len(losses("runs/sound-001")) == 1500


@pytest.mark.slow
@needs_proc
def test_without_restarts_a_killed_process_ends_the_run_in_a_sentence_and_a_resume_goes_on(here):
    with Job("sound.txt", *SMALL, "--max-iterations", "100000", "--run-dir", "r") as job:
        wait_for("r/checkpoints/00000020.safetensors")
        os.kill(rank(job, 1), signal.SIGKILL)
        code, said = job.end()
        assert "charrnn/" not in Path(job.file.name).read_text()  # no traceback of ours
    assert code != DONE
    assert len(said) == 1
    assert "another process of this training died" in said[0]
    assert "--resume" in said[0]
    done = json.loads(Path("r/best.json").read_text())["iteration"]
    with Job("--resume", "r", "--max-iterations", str(done + 40)) as job:
        assert job.end() == (DONE, [])
    assert len(losses("r")) == done + 40


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("who", ["torchrun", 0, 1])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_any_of_them_saves_and_stops_all(here, who, number):
    with Job("sound.txt", *SMALL, "--max-iterations", "100000", "--run-dir", "r") as job:
        wait_for("r/checkpoints/00000020.safetensors")
        os.kill(job.process.pid if who == "torchrun" else rank(job, who), number)
        code, said = job.end()
        text = Path(job.file.name).read_text()
    assert code != DONE
    assert said == []
    assert text.count("all is saved") == 1
    facts, _ = files.read_tensors("r/resume.safetensors", "resume")
    assert facts["iteration"] == len(losses("r"))


@pytest.mark.slow
def test_two_agents_as_on_two_hosts_restart_together(here):
    port = free_port()
    hosts = [
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--rdzv-backend",
        "c10d",
        "--rdzv-id",
        "a",
        "--max-restarts",
        "1",
    ]
    hosts += ["--rdzv-endpoint", f"localhost:{port}", "--local-addr", "localhost"]
    flags = ["sound.txt", *SMALL, "--max-iterations", "1500", "--run-dir", "r"]
    with Job(*flags, torchrun=hosts) as one, Job(*flags, torchrun=hosts) as two:
        wait_for("r/checkpoints/00000020.safetensors")
        try:
            os.kill(rank(one, 1), signal.SIGKILL)
        except AssertionError:
            os.kill(rank(two, 1), signal.SIGKILL)
        assert {one.end()[0], two.end()[0]} == {DONE}
        assert sum(Path(job.file.name).read_text().count("goes on at iteration") for job in (one, two)) == 1
    assert len(losses("r")) == 1500


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["sound.txt", "--batch-size", "1"], "--batch-size 1 is too few rows for 2 processes: start at most 1."),
        (["nothing.txt"], "there is no nothing.txt. Check the path."),
        (["sound.txt", "--bogus"], "unrecognized arguments: --bogus. See charrnn-train --help."),
        (["--resume", "none"], "there is no run none, nor runs/none."),
    ],
)
def test_what_is_wrong_is_said_once(here, flags, said):
    with Job(*flags) as job:
        assert job.end() == (1, [f"charrnn-train: {said}"])
    assert not list(Path().glob("runs/*"))


@pytest.mark.slow
def test_a_full_disk_on_the_leader_ends_all_in_one_sentence(here):
    resource = pytest.importorskip("resource")

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, 80_000))

    flags = ["sound.txt", *SMALL, "--max-iterations", "100000", "--run-dir", "r"]
    with Job(*flags, preexec_fn=little_room) as job:
        code, said = job.end()
    assert code == FAILED
    assert len(said) == 1
    assert "log.csv" in said[0] or ".safetensors" in said[0]


@pytest.mark.slow
def test_the_cores_are_shared_out(here):
    with Job("sound.txt", "--rnn-size", "8", "--layers", "1", "--max-iterations", "2", "--run-dir", "r") as job:
        assert job.end() == (DONE, [])
    share = json.loads(Path("r/config.json").read_text())["threads"]
    command = "import torch; print(torch.get_num_threads())"
    plain = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    cores = int(subprocess.run([sys.executable, "-c", command], env=plain, capture_output=True, check=True).stdout)
    if "OMP_NUM_THREADS" in os.environ and os.environ["OMP_NUM_THREADS"] != "1":
        cores = int(os.environ["OMP_NUM_THREADS"])
    assert share == max(1, cores // 2)
