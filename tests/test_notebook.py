"""Test the notebook of examples/: execute it with small settings."""

import os
from pathlib import Path

import nbformat
import numpy as np
import pytest
import soundfile
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "train_a_voice.ipynb"
SMALL = {
    "RECORDING": str(ROOT / "data" / "voice.wav"),
    "NETWORK": "--rnn-size 16 --layers 1 --wordvec-size 8",
    "LIMIT": "--max-iterations 40",
}


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(notebook))


@pytest.mark.integration
def test_the_notebook_trains_and_plays_and_exports_and_can_be_executed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel of this environment
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PATH", os.defpath)  # the notebook finds the commands without an activated environment

    first = execute(tmp_path)

    assert "40 iterations" in first["Train"]
    sound, rate = soundfile.read(tmp_path / "runs" / "voice.wav")
    assert (len(sound), rate) == (20 * 11025, 11025)
    assert np.ptp(sound) > 0
    assert "data:audio/" in first["Listen"]
    assert first["Look"].count("image/png") == 2
    assert "FLAC" in first["Look"]
    assert "window.charrnn" in (tmp_path / "runs" / "voice.html").read_text()
    assert "voice.html" in first["Export a page"]

    made = (tmp_path / "runs" / "voice" / "log.csv").read_bytes()
    second = execute(tmp_path)
    assert (tmp_path / "runs" / "voice" / "log.csv").read_bytes() == made, "a finished run was trained again"
    assert "data:audio/" in second["Listen"]


def execute(folder: Path) -> dict[str, str]:
    """Execute the notebook in a folder; return the outputs of each section, by its heading."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    [parameters] = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    values = "\n".join(f"{name} = {value!r}" for name, value in SMALL.items())
    notebook.cells.insert(parameters + 1, nbformat.v4.new_code_cell(values))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs: dict[str, str] = {}
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            heading = cell.source.splitlines()[0].removeprefix("## ")
        elif cell.cell_type == "code":
            outputs[heading] = outputs.get(heading, "") + "".join(map(str, cell.outputs))
    return outputs


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
