"""Settings, recipes and learning rate schedules."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.training.recipe import JSON_KEYS, RECIPES, Settings, learning_rate

COSINE = Settings(schedule="cosine", learning_rate=0.01)


def test_the_recipe_torch_rnn_has_its_settings():
    settings = Settings(**RECIPES["torch-rnn"])
    assert (settings.batch_size, settings.seq_length) == (50, 50)
    assert (settings.learning_rate, settings.schedule) == (2e-3, "steps")
    assert (settings.lr_decay_every, settings.lr_decay_factor) == (5, 0.5)
    assert (settings.grad_clip, settings.clip) == (5, "value")
    assert settings.warmup == settings.weight_decay == settings.early_stop == settings.ema_decay == 0
    assert settings.beta2 == 0.999
    assert not settings.smooth_init


@pytest.mark.parametrize("name", RECIPES)
def test_the_settings_of_a_recipe_are_the_same_after_config_json(name):
    settings = Settings(recipe=name, **RECIPES[name])
    assert Settings.from_json(settings.to_json()) == settings


def test_config_json_keeps_the_keys_of_renamed_fields_and_has_no_others():
    stored = Settings(smooth_init=True, ema_decay=0.5).to_json()
    assert (stored["smooth"], stored["average"]) == (True, 0.5)
    for name in JSON_KEYS:
        with pytest.raises(TypeError, match=name):
            Settings.from_json({name: 0})


@pytest.mark.parametrize(
    ("stored", "backend"),
    [
        ({"pad_units": 64}, "torch"),
        ({"gpu_layers": "overlapped"}, "torch"),
        ({"gpu_layers": "kernel-overlapped"}, "kernel"),
    ],
)
def test_settings_of_older_versions_are_read(stored, backend):
    assert Settings.from_json({"seed": 3} | stored) == Settings(seed=3, gpu_layers=backend)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000), st.integers(0, 50))
def test_a_cosine_falls_from_the_maximum_to_zero_and_stays_there(one, two, iteration, epoch):
    early, late = sorted((one, two))
    rates = [learning_rate(COSINE, iteration, epoch, progress) for progress in (0, early, late, 1)]
    assert rates[0] == 0.01
    assert rates[1] >= rates[2]
    assert rates[3] == pytest.approx(0, abs=1e-12)
    assert learning_rate(COSINE, 0, 0, 1.5) == pytest.approx(0, abs=1e-12)  # a time limit may be exceeded
    assert learning_rate(COSINE, 0, 0, early) == pytest.approx(0.01 * math.cos(math.pi * early / 2) ** 2)


@given(st.integers(1, 500))
def test_the_warm_up_rises_in_equal_steps(warmup):
    settings = Settings(schedule="steps", learning_rate=1.0, warmup=warmup)
    assert learning_rate(settings, 0, 0, 0) == pytest.approx(1 / warmup)
    assert learning_rate(settings, warmup - 1, 0, 0) == 1
    assert learning_rate(settings, warmup + 7, 0, 0) == 1


def test_the_warm_up_of_a_short_run_is_at_most_a_twentieth_of_it():
    settings = Settings(schedule="steps", learning_rate=1.0, warmup=100)
    assert learning_rate(settings, 1, 0, 1 / 40) == pytest.approx(0.5)
    assert learning_rate(settings, 2, 0, 2 / 40) == 1
    assert learning_rate(settings, 49, 0, 49 / 10000) == 0.5


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"schedule": "linear"}, "schedule"),
        ({"gpu_layers": "auto"}, "gpu_layers"),
        ({"batch_size": True}, "batch_size"),
        ({"weight_decay": "much"}, "weight_decay"),
        ({"ema_decay": 1}, "average"),
        ({"max_minutes": "soon"}, "max_minutes"),
        ({"precision": "int4"}, "int4"),
    ],
)
def test_a_wrong_setting_is_named(changes, word):
    with pytest.raises(ValueError, match=word):
        Settings(**changes)


@pytest.mark.parametrize(
    ("limits", "iterations"),
    [
        ({"max_epochs": 2}, 38),
        ({"max_epochs": 1e-12}, 1),
        ({"max_epochs": 3, "max_iterations": 5}, 5),
        ({"max_epochs": None, "max_minutes": 1}, None),
    ],
)
def test_a_run_ends_at_the_first_limit(limits, iterations):
    assert Settings(seq_length=5, **limits).iterations(5 * 19) == iterations


def test_tenths_of_epochs_are_not_rounded_up_because_of_binary_fractions():
    assert 1.1 * 100 > 110
    assert Settings(max_epochs=1.1, seq_length=1).iterations(100) == 110
