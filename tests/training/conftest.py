"""Fixtures for runs of a tiny network."""

import pytest
from tiny_runs import VARIANTS, finish, result

from charrnn.training import evaluate


@pytest.fixture
def validations_of_two_steps(monkeypatch):
    """Score one step at a time: 120 symbols are 50 rows of 2, so that a validation can be stopped in the middle."""
    monkeypatch.setattr(evaluate, "STEPS", 1)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """``uninterrupted(variant)`` is the result of a run that was never stopped."""
    results = {}

    def get(variant):
        if variant not in results:
            settings, network = VARIANTS[variant]
            folder = tmp_path_factory.mktemp(variant)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(evaluate, "STEPS", 1)
                finish(folder, settings, network=network)
            results[variant] = result(folder)
        return results[variant]

    return get
