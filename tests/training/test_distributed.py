"""Several processes learn what one process learns, resume exactly, and end together."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_runs
import torch
from tiny_runs import PLAIN, text, tiny_model

from bytecodec.console import FAILED
from bytecodec.errors import InputError
from charrnn.storage import checkpoint as files
from charrnn.storage.csv_log import TIME_COLUMNS, read_rows
from charrnn.storage.run_dir import Run
from charrnn.training import distributed, own_sound
from charrnn.training.distributed import SINGLE_PROCESS
from charrnn.training.evaluate import evaluate
from charrnn.training.recipe import Settings

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")

STOP = 11  # an iteration between two checkpoints
PARTS = {"train": text(300), "val": text(123, 1)}  # 123: 50 rows of 2, and 22 symbols that fill no row
LENGTHS = (2, 40, 51, 123, 5000)
RANDOM = {  # networks whose training draws random numbers
    "dropout": {"dropout": 0.3},
    "own sound": {"vocab_size": 256, "context": 3, "prediction": "lpc", "noise": 0.5},
}


def trainer(folder, world=SINGLE_PROCESS, rows=4, network=PLAIN):
    settings = Settings(batch_size=rows, seq_length=5, learning_rate=0.01, max_iterations=16, checkpoint_every=7)
    return tiny_runs.trainer(folder, settings, network=network, parts=PARTS, world=world)


def finish(folder, world=SINGLE_PROCESS, **kwargs):
    trainer(folder, world, **kwargs).train()
    world.all_reduce_max(0)  # wait until the files are complete


def stop(folder, world=SINGLE_PROCESS, rank=0, **kwargs):
    """Train until the process of a rank asks for a stop."""
    made = trainer(folder, world, **kwargs)
    made.train(lambda: world.rank == rank and made.state.iteration >= STOP)
    world.all_reduce_max(0)


def operations(world):
    """Return the results of a process of a group in each collective operation."""
    size, rank = world.size, world.rank
    tensors = [torch.full((2, 3), float(rank)), torch.tensor(rank + 0.5), torch.arange(5.0) * 10**rank]
    world.all_reduce_weighted_mean(tensors, (rank + 1) / sum(range(1, size + 1)))
    own = slice(rank * 4 // size, (rank + 1) * 4 // size)
    whole = torch.arange(8.0).reshape(4, 2)
    gathered = world.gather_state(((whole[own], -whole[own]), (whole[own].bfloat16(),)))
    return {
        "weighted_mean": [t.tolist() for t in tensors],
        "gathered": [[t.tolist() for t in layer] for layer in gathered],
        "dtype": str(gathered[1][0].dtype),
        "numbers": [world.all_reduce_max(rank), world.all_reduce_sum(rank + 1), world.broadcast(rank + 7)],
        "flags": [world.any(rank == size - 1), world.any(False)],
        "losses": [evaluate(tiny_model(), text(n), world=world) for n in LENGTHS],
    }


def runs(world, folder):
    """Train runs of all kinds in a folder; return what else a test needs."""
    rank = world.rank
    finish(folder / "even", world)
    finish(folder / "odd", world, rows=5)
    if world.size > 2:
        return {}
    for name in ("stopped", "to one"):
        stop(folder / name, world, rank=1)
    finish(folder / "stopped", world)
    for name, network in RANDOM.items():
        finish(folder / name, world, network=network)
        stop(folder / f"stopped {name}", world, network=network)
        finish(folder / f"stopped {name}", world, network=network)
    finish(folder / "from one", world)
    late = trainer(folder / "late", world)
    late.train(lambda: rank == 1 and late.state.iteration == 7)  # asked for in a validation
    other = trainer(folder / "other", world)
    with torch.no_grad():
        other.model.output.bias[0] += 1e-6 * rank
    with pytest.raises(InputError, match="the processes did not all read the same"):
        other.train()
    return {"late": (late.state.iteration, late.state.checkpointed)}


def set_environment(rank, size, port):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def run_process(rank, size, port, folder):
    set_environment(rank, size, port)
    torch.set_num_threads(1)
    own_sound.EVERY = 20  # 4 iterations
    with distributed.join() as world:
        found = operations(world) | runs(world, folder)
    (folder / f"{rank}.json").write_text(json.dumps(found))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(target, size, *args):
    """Start the processes of a group, and wait for them; return their exit codes."""
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
    """``group(size)`` is the folder of the runs of that many processes, and the results of each process."""
    done = {}

    def get(size):
        if size not in done:
            folder = tmp_path_factory.mktemp(f"of{size}")
            stop(folder / "from one")
            assert start(run_process, size, folder) == [0] * size
            done[size] = folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
        return done[size]

    return get


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The folder of the same runs of one process."""
    folder = tmp_path_factory.mktemp("single")
    finish(folder / "even")
    finish(folder / "odd", rows=5)
    return folder


several = pytest.mark.parametrize(
    "size", [pytest.param(2, marks=pytest.mark.integration), pytest.param(3, marks=pytest.mark.slow)]
)


def weights(folder):
    return files.load(Run(folder).checkpoints()[-1]).model.state_dict()


def numbers(path):
    return [[float(v) for name, v in row.items() if name not in TIME_COLUMNS] for row in read_rows(path)]


def assert_close(folder, other):
    a, b = weights(folder), weights(other)
    assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-5) for name in b)
    for log in ("log.csv", "val.csv"):
        assert np.allclose(numbers(folder / log), numbers(other / log), rtol=1e-4)


@several
def test_collective_operations_give_the_same_in_all_processes(group, size):
    share = np.arange(1, size + 1) / sum(range(1, size + 1))
    expected = [
        np.full((2, 3), share @ np.arange(size)),
        share @ np.arange(size) + 0.5,
        np.arange(5) * (share @ 10.0 ** np.arange(size)),
    ]
    losses = [evaluate(tiny_model(), text(n)) for n in LENGTHS]  # of a single process
    for found in group(size)[1]:
        assert all(np.allclose(a, b, rtol=1e-6) for a, b in zip(found["weighted_mean"], expected, strict=True))
        assert found["numbers"] == [size - 1, size * (size + 1) / 2, 7]
        assert found["flags"] == [True, False]
        assert found["losses"] == pytest.approx(losses, rel=1e-6)
    rows, main = np.arange(8.0).reshape(4, 2), group(size)[1][0]
    assert main["gathered"] == [[rows.tolist(), (-rows).tolist()], [rows.tolist()]]
    assert main["dtype"] == "torch.bfloat16"


@several
@pytest.mark.parametrize("rows", ["even", "odd"])
def test_several_processes_learn_and_log_what_one_does(group, single, size, rows):
    assert_close(group(size)[0] / rows, single / rows)
    learnt = weights(single / rows)["output.weight"] - tiny_model().output.weight
    assert learnt.abs().max() > 0.1


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["", *(f" {name}" for name in RANDOM)])
def test_two_processes_that_were_stopped_resume_exactly(group, kind):
    folder = group(2)[0]
    assert tiny_runs.result(folder / f"stopped{kind}") == tiny_runs.result(folder / (kind.strip() or "even"))


@pytest.mark.integration
def test_one_process_resumes_a_run_of_two_and_two_a_run_of_one(group, single):
    folder = group(2)[0]
    assert len(numbers(folder / "to one" / "log.csv")) == STOP
    finish(folder / "to one")
    assert_close(folder / "to one", single / "even")
    assert_close(folder / "from one", single / "even")


@pytest.mark.integration
def test_processes_draw_different_dropout(group):
    folder = group(2)[0]
    assert not np.allclose(numbers(folder / "dropout" / "log.csv"), numbers(folder / "even" / "log.csv"), rtol=1e-3)


@pytest.mark.integration
def test_a_stop_that_one_process_asks_for_in_a_validation_stops_all(group):
    for found in group(2)[1]:
        assert found["late"] == [7, 0]


def test_more_than_a_bucket_is_averaged_in_several(monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET", 3)
    sizes = []
    group = object.__new__(distributed._Group)
    group._torch = torch
    group._distributed = SimpleNamespace(all_reduce=lambda flat: sizes.append(len(flat)))
    tensors = [torch.full((n,), 2.0) for n in (1, 1, 1, 5, 2, 2, 1)]
    group.all_reduce_weighted_mean(tensors, 0.5)
    assert sizes == [3, 5, 4, 1]
    assert all((tensor == 1).all() for tensor in tensors)


def test_without_torchrun_there_is_a_single_process(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with distributed.join() as world:
        assert world is SINGLE_PROCESS
        assert world.is_main
        assert world.run_before_restart() is None


def test_incomplete_environment_variables_are_rejected(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(InputError, match="MASTER_PORT"), distributed.join():
        pass


def test_only_the_main_process_prints(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        with distributed.main_process_only():
            print(rank)
            print(rank, file=sys.stderr)
    assert capsys.readouterr() == ("0\n", "0\n")


def fail_or_hang(rank, size, port, folder, how):
    set_environment(rank, size, port)
    distributed.TIMEOUT = distributed.timedelta(seconds=3)
    message = ""
    try:
        with distributed.join() as world:
            world.all_reduce_max(0)
            if rank == 1:
                if how == "hangs":
                    time.sleep(8)
                    os._exit(0)
                raise InputError("this is why.")
            world.all_reduce_max(0)
    except InputError as error:
        message = str(error)
    finally:
        (folder / str(rank)).write_text(message)
    sys.exit(FAILED)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_the_first_process_that_fails_reports_its_error_and_the_others_end_silently(tmp_path, how):
    codes = start(fail_or_hang, 3, tmp_path, how)
    messages = [message for path in sorted(tmp_path.iterdir()) if (message := path.read_text())]
    if how == "fails":
        assert codes == [FAILED] * 3
        assert messages == [f"this is why. (Process 1 of 3, on {socket.gethostname()}.)"]
    else:
        assert codes[0] == codes[2] == FAILED
        assert len(messages) == 1
        assert "did not answer" in messages[0]
