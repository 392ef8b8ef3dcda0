"""Shapes that are computed from a configuration without torch are those of the network."""

import pytest

from charrnn.models import cells, config
from charrnn.models.char_rnn import build
from charrnn.models.config import ModelConfig, state_sizes, weight_shapes
from charrnn.storage.checkpoint import model_tensors


@pytest.mark.parametrize("cell", cells.CELLS)
def test_the_shapes_of_weights_and_state_are_those_of_the_network(cell):
    small = ModelConfig(7, 5, 6, 3, cell, layer_norm=cell in ("lstm", "gru"))
    model = build(small, 0)
    assert weight_shapes(small) == {name: tuple(tensor.shape) for name, tensor in model_tensors(model).items()}
    assert state_sizes(small) == tuple(tuple(t.shape[1] for t in layer) for layer in model.initial_state(4))


def test_the_cells_have_the_same_names():
    assert list(config.CELLS) == list(cells.CELLS)
    assert set(config.PROJECTED_CELLS) == {name for name, cell in cells.CELLS.items() if "proj_size" in cell.OPTIONS}
    assert set(config.RECURRENT_OUTPUT_CELLS) == set(cells.OUTPUTS)
    without = {name for name, cell in cells.CELLS.items() if "forget_bias" not in cell.OPTIONS}
    assert set(config.WITHOUT_FORGET_GATES) == without
