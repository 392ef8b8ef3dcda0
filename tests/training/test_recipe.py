"""The recipes say how a run learns, and the schedules how fast at each moment."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.training.recipe import RECIPES, Settings, learning_rate

COSINE = Settings(schedule="cosine", learning_rate=0.01)


def test_torch_rnns_recipe_is_torch_rnns():
    settings = Settings(**RECIPES["torch-rnn"])
    assert (settings.batch_size, settings.seq_length) == (50, 50)
    assert (settings.learning_rate, settings.schedule) == (2e-3, "steps")
    assert (settings.lr_decay_every, settings.lr_decay_factor) == (5, 0.5)
    assert (settings.grad_clip, settings.clip) == (5, "value")
    assert settings.warmup == settings.weight_decay == settings.early_stop == settings.average == 0
    assert settings.beta2 == 0.999
    assert not settings.smooth


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_settings_survive_config_json(name):
    settings = Settings(recipe=name, **RECIPES[name])
    assert Settings(**settings.to_json()) == settings


def test_settings_that_older_versions_kept_are_understood_and_strange_ones_refused():
    assert Settings.from_json(Settings(gpu_layers="kernel").to_json()).gpu_layers == "kernel"
    assert Settings.from_json({"seed": 3}) == Settings(seed=3)
    assert Settings.from_json({"pad_units": 64}).gpu_layers == "torch"
    with pytest.raises(TypeError):
        Settings.from_json({"padding": 1})
    with pytest.raises(ValueError, match="gpu_layers is 'auto', and must be one of torch, kernel"):
        Settings(gpu_layers="auto")


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000), st.integers(0, 50))
def test_the_cosine_falls_from_the_rate_to_zero_whatever_the_epoch(one, two, iteration, epoch):
    early, late = sorted((one, two))
    rates = [learning_rate(COSINE, iteration, epoch, progress) for progress in (0, early, late, 1)]
    assert rates[0] == 0.01
    assert rates[1] >= rates[2]
    assert rates[3] == pytest.approx(0, abs=1e-12)
    assert learning_rate(COSINE, 0, 0, early) == pytest.approx(0.01 * math.cos(math.pi * early / 2) ** 2)


def test_a_length_that_is_overrun_does_not_make_the_rate_rise_again():
    assert learning_rate(COSINE, 0, 0, 1.5) == pytest.approx(0, abs=1e-12)


@given(st.integers(1, 500))
def test_the_warm_up_rises_in_equal_steps_to_the_rate(warmup):
    settings = Settings(schedule="steps", learning_rate=1.0, warmup=warmup)
    assert learning_rate(settings, 0, 0, 0) == pytest.approx(1 / warmup)
    assert learning_rate(settings, warmup - 1, 0, 0) == 1
    assert learning_rate(settings, warmup + 7, 0, 0) == 1


def test_the_warm_up_of_a_short_run_takes_no_more_than_a_twentieth_of_it():
    settings = Settings(schedule="steps", learning_rate=1.0, warmup=100)
    assert learning_rate(settings, 1, 0, 1 / 40) == pytest.approx(0.5)
    assert learning_rate(settings, 2, 0, 2 / 40) == 1
    assert learning_rate(settings, 49, 0, 49 / 10000) == 0.5


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"recipe": "secret"}, "recipe"),
        ({"schedule": "linear"}, "schedule"),
        ({"clip": "both"}, "clip"),
        ({"warmup": -1}, "warmup"),
        ({"early_stop": 0.5}, "early_stop"),
        ({"batch_size": True}, "batch_size"),
        ({"weight_decay": "much"}, "weight_decay"),
        ({"max_minutes": "soon"}, "max_minutes"),
        ({"precision": "int4"}, "int4"),
    ],
)
def test_what_config_json_may_not_hold_is_named(changes, word):
    with pytest.raises(ValueError, match=word):
        Settings(**changes)
