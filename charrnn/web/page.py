"""Self-contained pages that play a network: one HTML file with the network, its engine and everything else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from bytecodec.errors import InputError
from bytecodec.pcm import bytes_to_int16
from charrnn.engines import engine
from charrnn.engines.cpu.engine import CpuEngine
from charrnn.models.config import BYTES
from charrnn.storage.checkpoint_format import StoredCheckpoint
from charrnn.web.memory_image import MemoryImage, build_memory_image

MAX_BYTES = 30_000_000  # of a page
MODULES = ("plain", "relaxed", "relaxed-shared")
#: Names of the scripts, each of which imports only those before it.
SCRIPTS = ("draw.js", "midi.js", "player.js", "controls.js", "text-writer.js", "page.js")
STREAMS = 2  # of the engine: 0 for playback, 1 for window.charrnn.sample


def make_page(checkpoint: StoredCheckpoint, title: str, trained_on: str = "", precision: str = "auto") -> str:
    """Return the HTML of a page that plays a network, or that shows the text of a network of text.

    Parameters
    ----------
    checkpoint
        Network of symbols.
    title
        Heading of the page.
    trained_on
        Description of the training data; "" if unknown.
    precision
        Precision of the weights, as for `charrnn.engines.engine`.

    Raises
    ------
    InputError
        The compiled engine does not support the network or was not built, or the page would have more than `MAX_BYTES`.
    """
    made = engine(checkpoint, "cpu", precision=precision)
    assert isinstance(made, CpuEngine)
    image = build_memory_image(made.packed, checkpoint.config, made.calibration, made.level_control, STREAMS)
    description = _description(checkpoint, title, trained_on, made.packed.precision)
    data = base64.b64encode(_pack(description, image)).decode()
    script, style = _bundle(), _read("page.css")
    # The scripts do not use eval. 'unsafe-eval' permits WebAssembly in browsers without 'wasm-unsafe-eval', and tests.
    policy = (
        f"default-src 'none'; script-src '{_csp_hash(script)}' data: 'unsafe-eval' 'wasm-unsafe-eval'; "
        f"worker-src blob:; style-src '{_csp_hash(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "style": style,
        "title": escape(title),
        "about": escape(_about(checkpoint, trained_on)),
        "player": _read("player.html"),
        "properties": "".join(
            f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in _properties(description)
        ),
        "data": data,
        "worker": _read("page-worker.js"),
        "worklet": _read("player-worklet.js"),
        "script": script,
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read("page.html"))
    if (size := len(page.encode())) > MAX_BYTES:
        raise InputError(
            f"the page would have {size / 1e6:.0f} MB, and must have at most {MAX_BYTES / 1e6:.0f} MB: use --precision "
            "int4, or a smaller network."
        )
    return page


def _description(checkpoint: StoredCheckpoint, title: str, trained_on: str, precision: str) -> dict[str, Any]:
    """Return the network's properties that the page uses, most of which are in window.charrnn.info."""
    config, loss = checkpoint.config, checkpoint.val_loss
    description: dict[str, Any] = {
        "title": title,
        "trainedOn": trained_on,
        "iterations": checkpoint.step,
        "cell": config.cell,
        "layers": config.layers,
        "rnnSize": config.rnn_size,
        "wordvecSize": config.wordvec_size,
        "vocabulary": config.vocab_size,
        "parameters": sum(weights.size for weights in checkpoint.weights.values()),
        "precision": precision,
        "rate": checkpoint.rate,
        "bitsPerSymbol": None if loss is None or not math.isfinite(loss) else round(loss / math.log(2), 4),
    }
    if checkpoint.rate:
        bytes_ = np.arange(BYTES, dtype=np.uint8)
        description["samples"] = bytes_to_int16(bytes_, checkpoint.encoding == "mulaw").tolist()
    else:
        description["characters"] = [checkpoint.vocab.decode(np.array([i])) for i in range(config.vocab_size)]
    return description


def _about(checkpoint: StoredCheckpoint, trained_on: str) -> str:
    """Return the line below the title."""
    parts = [f"trained on {trained_on}" if trained_on else "", f"{checkpoint.rate:,} Hz" if checkpoint.rate else "text"]
    return ", ".join(filter(None, parts))


def _properties(description: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the table of the network's properties."""
    layers, bits = description["layers"], description["bitsPerSymbol"]
    unit = "sample" if description["rate"] else "character"
    rows = [
        ("Trained on", description["trainedOn"]),
        ("Iterations", f"{description['iterations']:,}"),
        ("Network", f"{description['cell'].upper()}, {layers} layer{'s' * (layers > 1)} of {description['rnnSize']}"),
        ("Parameters", f"{description['parameters']:,} in {description['precision']}"),
        ("Validation", "" if bits is None else f"{bits:.3f} bits per {unit}"),
    ]
    return [(name, text) for name, text in rows if text]


def _pack(description: dict[str, Any], image: MemoryImage) -> bytes:
    """Return the page's data: the size of a JSON text, the text, and the parts at the offsets in it, compressed."""
    contents = {name: _module(name) for name in MODULES} | {"image": image.data}
    parts, offset = {}, 0
    for name, content in contents.items():
        parts[name] = (offset, len(content))
        offset += len(content)
    layout = {
        "pointers": image.pointers,
        "network": image.network,
        "streams": image.streams,
        "table": image.table,
    }
    text = json.dumps({"network": description, "layout": layout, "parts": parts}, allow_nan=False).encode()
    whole = len(text).to_bytes(4, "little") + text + b"".join(contents.values())
    return gzip.compress(whole, mtime=0)


def _bundle() -> str:
    """Return the page's scripts as one, each module in a function of its own that returns what it exports."""
    bundled = ['"use strict";\nconst modules = {};\n']
    for name in SCRIPTS:
        text = _read(name)
        exports = re.findall(r"^export (?:class|function|const) ([\w$]+)", text, re.MULTILINE)
        text = re.sub(r'^import (\{.*\}) from "\./(.+)";$', r'const \1 = modules["\2"];', text, flags=re.MULTILINE)
        text = re.sub(r"^export ", "", text, flags=re.MULTILINE)
        bundled.append(f'modules["{name}"] = (() => {{\n{text}\nreturn {{ {", ".join(exports)} }};\n}})();\n')
    return "".join(bundled)


def _csp_hash(text: str) -> str:
    """Return the source that allows an inline script or style in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _read(name: str) -> str:
    return resources.files("charrnn.web").joinpath("static", name).read_text(encoding="utf-8")


def _module(name: str) -> bytes:
    return resources.files("charrnn.web").joinpath("modules", f"{name}.wasm").read_bytes()
