"""JSON files of a run, config.json and best.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bytecodec.errors import InputError
from bytecodec.files import open_output

MAX_JSON = 1 << 26  # bytes of config.json, which holds the vocabulary and the names of all inputs


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file of a run; one that is larger than any run writes is an error."""
    with path.open("rb") as file:
        data = file.read(MAX_JSON + 1)
    if len(data) > MAX_JSON:
        raise InputError(f"{path} has more than {MAX_JSON:,} bytes, which is more than any run writes.")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}).") from None


def write_json(path: Path, data: Any) -> None:
    r"""Write JSON to a file that appears whole or not at all.

    Bytes of a file name that are not UTF-8 are lone surrogates in Python; ``backslashreplace`` writes them as \udcff,
    which is how JSON escapes them.
    """
    with open_output(str(path)) as file:
        file.write((json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
