"""What a GPU needs at least for an iteration or a symbol, by its data sheet or as measured on it, and the goals.

Arithmetic only: docs/benchmarks.md has it in words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from charrnn.config import ModelConfig, shapes

MEETING = 1.5e-6  # seconds that a meeting of all multiprocessors takes, a guess
CONFIG, STEPS = ModelConfig(256), 50  # of 2016


@dataclass(frozen=True)
class Card:
    """What a GPU can do at best.

    Attributes
    ----------
    flops
        Operations a second, dense bf16 or fp16.
    memory, cache
        Bytes a second; the cache is what weights are read from again and again.
    meeting
        Seconds of a barrier of all multiprocessors.
    """

    flops: float
    memory: float
    cache: float
    meeting: float = MEETING


SHEETS = {  # as torch calls them; others of the same family have other figures
    "NVIDIA H100 80GB HBM3": Card(989e12, 3.35e12, 3.35e12),
    "NVIDIA H200": Card(989e12, 4.8e12, 4.8e12),
}  # no data sheet has the cache: it is no slower than the memory

TRAINING_GOAL = 1.6e-3  # seconds an iteration of 50 x 50: two minutes for the 74,000 of 2016
FULL_GOAL, FULL = 12.5e6, 512  # symbols a second, eight times as many, with so many rows and more
SAMPLING_GOALS = {1: 44e3, 64: 2e6}  # symbols a second of so many streams in all


def measured(rows: Sequence[dict[str, Any]]) -> Card | None:
    """What the rows named "ceiling: ..." found; None where products or memory were not measured. In place of the cache
    the memory is taken, and in place of a barrier the guess."""
    found: dict[str, float] = {}
    for row in rows:
        if row["check"].startswith("ceiling:"):
            found |= row.get("figures", {})
    if not {"TFLOP/s", "GB/s of memory"} <= found.keys():
        return None
    memory = 1e9 * found["GB/s of memory"]
    cache, meeting = found.get("GB/s of L2"), found.get("us a meeting")
    return Card(
        1e12 * found["TFLOP/s"], memory, 1e9 * cache if cache else memory, 1e-6 * meeting if meeting else MEETING
    )


def weights(config: ModelConfig) -> int:
    """How many take part in products."""
    sizes = {name: shape for name, shape in shapes(config).items() if len(shape) == 2}
    return sum(math.prod(shape) for name, shape in sizes.items() if name != "embedding.weight")


def training(card: Card, rows: int, config: ModelConfig = CONFIG, steps: int = STEPS) -> float:
    """Seconds of an iteration: operations and Adam's memory, or the chain of steps that follow from each other, there
    and back, with the layers overlapped."""
    operations = 6 * weights(config) * rows * steps / card.flops
    moved = 7 * 4 * weights(config) / card.memory
    return max(operations + moved, 2 * (steps + config.layers - 1) * card.meeting)


def sampling(card: Card, streams: int, config: ModelConfig = CONFIG) -> float:
    """Seconds of a symbol of all streams: operations and reading the weights in bf16, or a meeting after each layer
    and one after the logits. A kernel that keeps the weights in its multiprocessors need not read them."""
    operations = 2 * weights(config) * streams / card.flops
    read = 2 * weights(config) / card.cache
    return max(operations + read, (config.layers + 1) * card.meeting)


def floors(card: Card) -> dict[str, float]:
    """Some of them, in words."""
    found = {f"ms an iteration of {rows} rows": 1e3 * training(card, rows) for rows in (50, 512, 2048)}
    found |= {f"us a symbol of {n} streams": 1e6 * sampling(card, n) for n in (1, 64)}
    return {name: round(value, 4) for name, value in found.items()}


def of_the_floor(row: dict[str, Any], card: Card | None) -> float | None:
    """What part of its time a row would have needed on a card, at least."""
    speed = row.get("figures", {}).get("symbols a second")
    if not speed or not card:
        return None
    if "rows" in row:
        return float(training(card, row["rows"]) * speed / (row["rows"] * STEPS))
    return float(sampling(card, row["streams"]) * speed / row["streams"]) if "streams" in row else None


def of_the_goal(row: dict[str, Any]) -> float | None:
    """How much of its goal a row has reached: 1 or more is good."""
    speed = row.get("figures", {}).get("symbols a second")
    if not speed:
        return None
    if row.get("rows") == 50:
        return float(TRAINING_GOAL * speed / (50 * STEPS))
    goal = FULL_GOAL if row.get("rows", 0) >= FULL else SAMPLING_GOALS.get(row.get("streams", 0))
    return float(speed / goal) if goal else None
