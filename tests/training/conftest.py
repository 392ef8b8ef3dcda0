"""Fixtures for runs of a tiny network."""

import pytest
from tiny_runs import VARIANTS, finish, result

from charrnn.training import evaluate, own_sound


def shorten(patch):
    """Score one step at a time, so that a validation of 50 rows of 2 can be stopped; draw own sound often."""
    patch.setattr(evaluate, "STEPS", 1)
    patch.setattr(own_sound, "EVERY", 10)


@pytest.fixture
def short_intervals(monkeypatch):
    shorten(monkeypatch)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """``uninterrupted(variant)`` is the result of a run that was never stopped."""
    results = {}

    def get(variant):
        if variant not in results:
            settings, network = VARIANTS[variant]
            folder = tmp_path_factory.mktemp(variant)
            with pytest.MonkeyPatch.context() as patch:
                shorten(patch)
                finish(folder, settings, network=network)
            results[variant] = result(folder)
        return results[variant]

    return get
