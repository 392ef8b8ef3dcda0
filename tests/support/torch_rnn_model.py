"""Small checkpoints in the form of torch-rnn, and torch-rnn's equations in numpy, after its source."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from torch7_writer import Storage, Tensor, Thing, dumps

BUFFERS = {"gradInput": np.empty(0, "f4"), "output": np.empty(0, "f4"), "_type": "torch.FloatTensor", "train": True}


def layers(tokens, cell="lstm", sizes=(5, 6, 6), batchnorm=False, dropout=0.0, seed=0, dtype="f4"):
    """Return the layers of a LanguageModel with random weights: embeddings of sizes[0], then a layer per other size."""
    generator = np.random.default_rng(seed)

    def random(*shape):
        return generator.normal(0, 0.7, shape).astype(dtype)

    def layer(name, **fields):
        return Thing(f"nn.{name}", {**BUFFERS, **fields})

    found = [layer("LookupTable", weight=random(len(tokens), sizes[0]))]
    for d, h in pairwise(sizes):
        gates = 4 if cell == "lstm" else 1
        name = "LSTM" if cell == "lstm" else "VanillaRNN"
        found.append(layer(name, weight=random(d + h, gates * h), bias=random(gates * h), remember_states=True))
        if batchnorm:
            statistics = {"running_mean": random(h), "running_var": random(h) ** 2 + np.array(0.25, dtype), "eps": 1e-5}
            norm = layer("BatchNormalization", weight=random(h), bias=random(h), **statistics)
            found += [layer("View"), norm, layer("View")]
        if dropout:
            found.append(layer("Dropout", p=dropout, v2=True))
    v, h = len(tokens), sizes[-1]
    return [*found, layer("View"), layer("Linear", weight=random(v, h), bias=random(v)), layer("View")]


def checkpoint(tokens, layers, dropout=0.0, **fields):
    """Return the object that torch-rnn's train.lua writes; ``fields`` replace those of its LanguageModel."""
    model = {
        "net": Thing("nn.Sequential", {**BUFFERS, "modules": table(layers)}),
        "rnns": table(layers[1:2]),
        "idx_to_token": table(tokens),
        "token_to_idx": {token: i + 1.0 for i, token in enumerate(tokens)},
        "dropout": dropout,
        **fields,
    }
    return {
        "opt": {"batch_size": 50.0, "input_json": "../data/tiny.json"},
        "i": 12.0,
        "train_loss_history": {2.0: 1.25, 1.0: 5.5},
        "val_loss_history": {1.0: 1.5},
        "val_loss_history_it": {1.0: 12.0},
        "forward_backward_times": {},
        "model": Thing("nn.LanguageModel", {k: v for k, v in model.items() if v is not None}),
    }


def write(path, tokens, layers, dropout=0.0, **fields):
    """Write a checkpoint; returns the path."""
    path.write_bytes(dumps(checkpoint(tokens, layers, dropout, **fields)))
    return path


def flattened(layers, name="Float"):
    """Return the layers with their weights in one storage, as after Torch's getParameters()."""
    values = np.concatenate(
        [layer.fields[k].ravel() for layer in layers for k in ("weight", "bias") if k in layer.fields]
    )
    storage, at, found = Storage(values, name), 0, []
    for layer in layers:
        fields = dict(layer.fields)
        for key in ("weight", "bias"):
            if key in fields:
                shape = fields[key].shape
                fields[key] = Tensor(storage, shape, (shape[-1], 1)[-len(shape) :], at, name)
                at += np.prod(shape)
        found.append(Thing(layer.name, fields))
    return found


def log_probabilities(layers, ids):
    """Return log-probabilities (T-1,) of ids (T,), which count from 0, in nats, from the zero state."""
    states = {}
    result = []
    for this, following in pairwise(ids):
        x = None
        for i_layer, layer in enumerate(layers):
            x = step(layer, x, this, states, i_layer)
        result.append(x[following] - np.log(np.exp(x - x.max()).sum()) - x.max())
    return np.array(result)


def step(layer, x, symbol, states, i_layer):
    """Compute one layer in evaluation mode for one vector."""
    f = {key: value.astype(np.float64) for key, value in layer.fields.items() if isinstance(value, np.ndarray)}
    kind = layer.name.removeprefix("nn.")
    if kind == "LookupTable":
        return f["weight"][symbol]
    if kind == "LSTM":
        units = len(f["bias"]) // 4
        h, c = states.get(i_layer, (np.zeros(units), np.zeros(units)))
        a = np.concatenate([x, h]) @ f["weight"] + f["bias"]
        i, forget, o = (1 / (1 + np.exp(-a[k * units : (k + 1) * units])) for k in range(3))
        c = forget * c + i * np.tanh(a[3 * units :])
        states[i_layer] = h, c = o * np.tanh(c), c
        return h
    if kind == "VanillaRNN":
        h = states.get(i_layer, np.zeros(len(f["bias"])))
        states[i_layer] = np.tanh(np.concatenate([x, h]) @ f["weight"] + f["bias"])
        return states[i_layer]
    if kind == "BatchNormalization":
        deviation = np.sqrt(f["running_var"] + layer.fields["eps"])
        return (x - f["running_mean"]) / deviation * f.get("weight", 1) + f.get("bias", 0)
    if kind == "Dropout":
        return x if layer.fields.get("v2") else x * (1 - layer.fields["p"])
    return f["weight"] @ x + f["bias"] if kind == "Linear" else x


def table(values):
    """Return a Lua list."""
    return {i + 1.0: value for i, value in enumerate(values)}
