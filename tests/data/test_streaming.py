"""Files larger than memory are read and trained on in constant memory. The large files are sparse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from charrnn.data.batches import ContiguousBatches
from charrnn.data.corpus import open_corpus
from charrnn.data.vocab import Vocab
from charrnn.storage.csv_log import LOG_COLUMNS, CsvLog, read_rows

GB = 1 << 30
PEAK = 900  # MB of memory of a process, about 400 of them for torch's libraries
TRAIN = """
import sys
from charrnn.commands.train import charrnn_train
code = charrnn_train(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(code)
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")


@pytest.fixture
def sparse(tmp_path):
    """``sparse(path, size)`` makes a file of zeros that takes no disk space, and removes it after the test."""
    made = []

    def make(path, size):
        path.touch()
        made.append(path)
        try:
            os.truncate(path, size)
        except OSError as error:
            pytest.skip(f"no file of {size:,} bytes fits in {path.parent}: {error}")
        if path.stat().st_blocks * 512 > 1 << 20:
            pytest.skip(f"the file system of {path.parent} makes no files with holes")
        return path

    yield make
    for path in made:
        path.unlink(missing_ok=True)


def peak_of_training(*args):
    """Return the peak memory of charrnn-train in MB."""
    done = subprocess.run([sys.executable, "-c", TRAIN, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split("VmHWM:")[1].split()[0]) // 1024


SMALL = "--rnn-size 16 --layers 1 --wordvec-size 8 --precision fp32 --threads 1 --test-frac 0 -q".split()


@pytest.mark.slow
@needs_proc
def test_50_gb_of_ids_are_trained_on(tmp_path, sparse):
    (tmp_path / "a.txt").write_text("\0" * 20_000)
    run, size = tmp_path / "run", 50 * GB
    peak_of_training(tmp_path / "a.txt", *SMALL, "--val-frac", "0", "--max-iterations", "2", "--run-dir", run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"symbols": size, "val_frac": 1e-6}))
    sparse(run / "corpus.bin", size)
    assert peak_of_training("--resume", run, "--max-iterations", "100", "-q") < PEAK
    rows = read_rows(run / "log.csv")
    assert len(rows) == 100
    assert float(rows[-1]["epoch"]) < 1e-5
    assert len(read_rows(run / "val.csv")) == 1


@pytest.mark.slow
@needs_proc
def test_a_text_of_a_gigabyte_is_prepared(tmp_path, sparse):
    file, run = sparse(tmp_path / "a.txt", GB), tmp_path / "run"
    assert peak_of_training(file, *SMALL, "--val-frac", "1e-6", "--max-iterations", "2", "--run-dir", run) < PEAK
    assert (run / "corpus.bin").stat().st_size == GB
    (run / "corpus.bin").unlink()


@needs_proc
def test_pages_of_a_corpus_that_were_read_are_released(tmp_path, sparse, monkeypatch):
    monkeypatch.setattr("charrnn.data.batches.RELEASE", 1 << 20)

    def mapped():
        return int(Path("/proc/self/status").read_text().split("RssFile:")[1].split()[0]) // 1024

    corpus = open_corpus(sparse(tmp_path / "c", 1 << 27), Vocab.of_alphabet("braille"), ("c",))
    before = mapped()
    batches = ContiguousBatches(corpus.split(0.1, 0)["train"], 8, 1 << 14)
    most = 0
    for position in range(0, batches.row_length, 1 << 14):
        batches.at(position, 1 << 14)
        most = max(most, mapped() - before)
    assert most < 64  # MB, of the 115 that were read


def test_released_pages_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr("charrnn.data.batches.RELEASE", 100)
    ids = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8)
    ids.tofile(tmp_path / "c")
    mapped = ContiguousBatches(open_corpus(tmp_path / "c", Vocab.of_alphabet("braille"), ("c",)).ids, 4, 10)
    plain = ContiguousBatches(ids, 4, 10)
    for _ in range(2):
        for position in range(0, plain.row_length, 10):
            for a, b in zip(mapped.at(position, 10), plain.at(position, 10), strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_log_is_continued_without_being_read_into_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "log.csv"
    rows = "".join(f"{i},0.5,1.5,2.1,0.002,0.7,10000,{i}\n" for i in range(1, 20_001))
    path.write_text(",".join(LOG_COLUMNS) + "\n" + rows)
    tracemalloc.start()
    CsvLog(path, LOG_COLUMNS, 19_990).close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(rows)  # dictionaries would take about twenty times as much
    assert read_rows(path)[-1]["iteration"] == "19990"
