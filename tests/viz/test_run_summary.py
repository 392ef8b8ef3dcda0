"""The summary of a run directory."""

import json
import shutil

import numpy as np
import pytest

from bytecodec import InputError
from charrnn.storage.run_dir import Run
from charrnn.viz.run_summary import WINDOW, RunSummary, distinct_names, select_samples


@pytest.fixture
def run(sounding_run, tmp_path):
    """A copy of `sounding_run` that may be changed."""
    shutil.copytree(sounding_run, tmp_path / "mine")
    return Run(tmp_path / "mine")


def change(run, **values):
    run.write_config({**run.config(), **values})


def test_the_settings_describe_data_network_and_training(run):
    settings = RunSummary(run).settings()
    assert settings["Training data"] == "tone.wav"
    assert settings["Length"] == "2.0 s of sound at 11,025 Hz, linear"
    assert settings["Validation and test parts"] == "10 % and 10 %"
    assert settings["Network"] == "LSTM, 2 layers of 48"
    assert settings["Batch"] == "16 rows of 32 steps"
    assert settings["Samples as numbers"] == "context 31, prediction lpc-long, noise 2.0"
    assert settings["Trained for"].startswith("400 iterations, ")


def test_missing_settings_do_not_hide_the_others(run):
    run.config_file.write_text(json.dumps({"rate": 11025}))
    assert RunSummary(run).settings()["Network"] == "NETWORK, ? layers of ?"
    assert RunSummary(run).original(1) is None


def test_parameters_are_those_of_the_network(run, trained):
    assert RunSummary(run).parameters == trained.model.number_of_parameters()
    for path in run.checkpoints():
        path.write_bytes(b"\xff" * 40)
    assert RunSummary(run).parameters is None


def test_samples_are_found_by_name_in_order(run):
    (run.samples_folder / "notes.wav").touch()
    found = [(s.step, s.temperature) for s in RunSummary(run).samples]
    assert found == [(200, 0.8), (200, 1.0), (400, 0.8), (400, 1.0)]


@pytest.mark.parametrize(("which", "steps"), [(None, [200, 400]), ("newest", [400]), ("first, 400", [200, 400])])
def test_samples_of_checkpoints_are_selected(run, which, steps):
    assert [s.step for s in select_samples(RunSummary(run), which)][::2] == steps


@pytest.mark.parametrize("which", ["worst", "200,,400"])
def test_a_checkpoint_without_samples_is_rejected(run, which):
    with pytest.raises(InputError, match=r"no sample of checkpoint .*\. It has 200, 400\.$"):
        select_samples(RunSummary(run), which)


def test_a_run_without_samples_is_rejected_with_the_remedy(run):
    shutil.rmtree(run.samples_folder)
    with pytest.raises(InputError, match="--sample-seconds"):
        select_samples(RunSummary(run), None)


def test_a_train_point_has_its_losses_and_its_time(run):
    summary = RunSummary(run)
    point = summary.at(200)
    row = run.val_file.read_text().splitlines()[1].split(",")
    assert point.val_bits == pytest.approx(float(row[3]))
    assert point.train_bits == pytest.approx(summary.train.y[199 - WINDOW // 2 : 200].mean())
    assert summary.at(201).val_bits is None
    assert summary.at(10**9).seconds == summary.time[-1]
    assert summary.best().val_bits == min(summary.val.y)


def test_the_original_is_the_beginning_of_the_validation_part(run, tone):
    part, begin = RunSummary(run).original(0.1)
    first = 22050 - 2 * 2205
    assert begin == pytest.approx(first / 11025)
    np.testing.assert_allclose(part, (tone[first : first + 1102].astype(float) - 128) / 128)
    change(run, val_frac=0)
    assert RunSummary(run).original(0.1)[1] == 0
    change(run, symbols=7)
    assert RunSummary(run).original(0.1) is None
    run.corpus_file.unlink()
    assert RunSummary(run).original(0.1) is None


def test_a_run_without_validation_has_no_best_and_one_without_log_is_rejected(run):
    run.val_file.unlink()
    summary = RunSummary(run)
    assert (summary.best(), len(summary.val)) == (None, 0)
    run.log_file.unlink()
    with pytest.raises(InputError, match=r"no log\.csv yet"):
        RunSummary(run)


@pytest.mark.parametrize(("key", "value"), [("model", [1]), ("val_frac", "x")])
def test_a_damaged_config_is_rejected_by_key(run, key, value):
    change(run, **{key: value})
    with pytest.raises(InputError, match=rf"config\.json: {key} is "):
        RunSummary(run)


def test_a_damaged_validation_log_is_rejected(run):
    run.val_file.write_text("iteration,epoch\n1,2\n")
    with pytest.raises(InputError, match=r"val\.csv"):
        RunSummary(run)


def test_runs_with_the_same_name_are_distinguished_by_path(tmp_path):
    paths = [tmp_path / "x", tmp_path / "y", tmp_path]
    assert distinct_names(["a", "a", "b"], paths) == [str(tmp_path / "x"), str(tmp_path / "y"), "b"]
