"""What a run directory has to tell."""

import json
import shutil

import numpy as np
import pytest

from bytecodec import InputError
from charrnn.storage.run_dir import Run
from charrnn.viz.run_summary import RunSummary, chosen, distinguish, facts


@pytest.fixture
def run(sounding_run, tmp_path):
    """A copy of `sounding_run` that may be written to."""
    shutil.copytree(sounding_run, tmp_path / "mine")
    return Run(tmp_path / "mine")


def change(run, **values):
    run.write_config({**run.config(), **values})


def test_it_tells_what_was_trained_on_what(run):
    told = facts(RunSummary(run))
    assert told["Trained on"] == "tone.wav"
    assert told["That is"] == "2.0 s of sound at 11,025 Hz, linear"
    assert told["Kept for validation, test"] == "10% and 10%"
    assert told["Network"] == "LSTM, 2 layers of 48"
    assert told["Batch"] == "16 rows of 32 steps"
    assert told["Trained for"].startswith("400 iterations, ")


def test_parameters_are_those_of_the_network(run, trained):
    assert RunSummary(run).parameters == trained.model.number_of_parameters()
    for path in run.checkpoints():
        path.write_bytes(b"\xff" * 40)
    assert RunSummary(run).parameters is None


def test_samples_are_found_by_their_names_in_order(run):
    (run.samples_folder / "notes.wav").touch()
    found = [(s.step, s.temperature) for s in RunSummary(run).samples]
    assert found == [(200, 0.8), (200, 1.0), (400, 0.8), (400, 1.0)]


@pytest.mark.parametrize(
    ("which", "steps"),
    [(None, [200, 400]), ("200", [200]), ("newest", [400]), ("first,newest", [200, 400]), ("400, 200", [200, 400])],
)
def test_checkpoints_are_chosen(run, which, steps):
    assert [s.step for s in chosen(RunSummary(run), which)][::2] == steps


@pytest.mark.parametrize("which", ["300", "worst", "200,,400", "-1"])
def test_a_checkpoint_that_is_not_there_is_named(run, which):
    with pytest.raises(InputError, match=r"mine has no sound of checkpoint .*\. It has 200, 400\.$"):
        chosen(RunSummary(run), which)


def test_without_sounds_it_says_how_to_make_them(run):
    shutil.rmtree(run.samples_folder)
    with pytest.raises(InputError, match=r"train with --sample-seconds, or write one there with charrnn-sample, named"):
        chosen(RunSummary(run), None)


def test_the_moment_of_a_checkpoint_has_its_losses_and_time(run):
    story = RunSummary(run)
    moment = story.at(200)
    row = run.val_file.read_text().splitlines()[1].split(",")
    assert moment.val_bits == pytest.approx(float(row[3]))
    assert moment.train_bits == pytest.approx(story.train.y[99:200].mean(), rel=0.02)
    assert story.at(201).val_bits is None
    assert story.at(10**9).seconds == story.time[-1]
    assert story.best().val_bits == min(story.val.y)


def test_the_original_is_the_beginning_of_the_validation_part(run, tone):
    part, place = RunSummary(run).original(0.1)
    first = 22050 - 2 * 2205
    assert place == pytest.approx(first / 11025)
    np.testing.assert_allclose(part, (tone[first : first + 1102].astype(float) - 128) / 128)
    change(run, val_frac=0)
    assert RunSummary(run).original(0.1)[1] == 0
    change(run, symbols=7)
    assert RunSummary(run).original(0.1) is None
    run.corpus_file.unlink()
    assert RunSummary(run).original(0.1) is None


def test_a_run_in_its_first_moments_is_told_as_far_as_it_goes(run):
    run.val_file.unlink()
    story = RunSummary(run)
    assert (story.best(), len(story.val)) == (None, 0)
    run.log_file.unlink()
    with pytest.raises(InputError, match=r"has no log\.csv yet: let it train for a moment"):
        RunSummary(run)


def test_settings_that_are_missing_do_not_keep_the_rest_from_being_told(run):
    run.config_file.write_text(json.dumps({"rate": 11025}))
    assert facts(RunSummary(run))["Network"] == "NETWORK, ? layers of ?"
    assert RunSummary(run).original(1) is None


@pytest.mark.parametrize(("key", "value"), [("model", [1]), ("rate", "high"), ("inputs", "a.wav"), ("val_frac", "x")])
def test_a_config_that_was_changed_is_named(run, key, value):
    change(run, **{key: value})
    with pytest.raises(InputError, match=rf"config\.json: {key} is "):
        RunSummary(run)


def test_a_damaged_val_csv_is_named(run):
    run.val_file.write_text("iteration,epoch\n1,2\n")
    with pytest.raises(InputError, match=r"val\.csv is not as charrnn-train wrote it"):
        RunSummary(run)


def test_runs_of_one_name_are_told_apart(tmp_path):
    assert distinguish(["a", "a", "b"], [tmp_path / "x", tmp_path / "y", tmp_path]) == [
        str(tmp_path / "x"),
        str(tmp_path / "y"),
        "b",
    ]
