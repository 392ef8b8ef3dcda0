"""Pairwise combinations of test parameters."""

import itertools


def pairwise(*axes, allowed=lambda *row: True):
    """Return few rows that contain each pair of values of two axes, as far as `allowed(*row)` permits.

    Each row is the one that contains the most missing pairs.
    """
    rows = [row for row in itertools.product(*axes) if allowed(*row)]
    pairs = {row: set(itertools.combinations(enumerate(row), 2)) for row in rows}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        chosen.append(max(rows, key=lambda row: len(pairs[row] & missing)))
        missing -= pairs[chosen[-1]]
    return chosen
