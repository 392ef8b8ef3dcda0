"""List what charrnn takes with it, with all extras for users: python tools/licences.py > docs/dependencies.md.

Of each package its licence as its own metadata say it, and who asks for it, in the environment that this runs in.
"""

from __future__ import annotations

import re
from importlib import metadata

from packaging.requirements import Requirement

EXTRAS = ("", "plots", "report", "onnx", "play", "listen", "tensorboard")
OURS = "charrnn-sound"
HEAD = """# Dependencies

Made by `python tools/licences.py`: all packages that an installation with every extra for users takes from the Python
package index, and what their metadata say of their licences. `make audit` asks the public databases of faults for them,
and needs a network connection that reaches these.

| package | version here | licence | asked for by |
|---|---|---|---|"""


def main() -> None:
    """Print the page."""
    asked_by: dict[str, set[str]] = {}
    ask(OURS, EXTRAS, asked_by)
    print(HEAD)
    for name in sorted(asked_by):
        about = metadata.metadata(name)
        by = ", ".join(sorted(asked_by[name]))
        print(f"| {name} | {about['Version'].partition('+')[0]} | {licence(about)} | {by} |")


def ask(name: str, extras: tuple[str, ...], asked_by: dict[str, set[str]]) -> None:
    """Note what a package and some of its extras require, and all that these do."""
    for text in metadata.requires(name) or ():
        need = Requirement(text)
        if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        known = re.sub(r"[-_.]+", "-", need.name).lower()
        is_new = known not in asked_by
        asked_by.setdefault(known, set()).add(name)
        if is_new:
            ask(known, ("", *need.extras), asked_by)


def licence(about: metadata.PackageMetadata) -> str:
    """In the words of a package's metadata, the shortest that there are."""
    if "License-Expression" in about:
        return about["License-Expression"]
    classifiers = [text.split(" :: ")[-1] for text in about.get_all("Classifier") or () if text.startswith("License")]
    words = about["License"].strip().splitlines() if "License" in about else []
    return "; ".join(classifiers) or (words[0][:60] if words else "not said")


if __name__ == "__main__":
    main()
