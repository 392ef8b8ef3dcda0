"""List the dependencies, with all extras for users: python tools/licences.py > docs/reference/dependencies.md.

Versions and licences are those in the metadata of the packages that are installed in this environment.
"""

from __future__ import annotations

import re
from importlib import metadata

from packaging.requirements import Requirement

EXTRAS = ("", "plots", "report", "onnx", "play", "listen", "tensorboard")
HEAD = """# Dependencies

All packages that an installation with every extra for users gets from the Python package index, with the licences
that their metadata state. `python tools/licences.py > docs/reference/dependencies.md` writes this page. `make audit`
looks for their known vulnerabilities in public databases and needs a network connection.

| package | version | licence | required by |
|---|---|---|---|"""


def main() -> None:
    """Print the page."""
    required_by: dict[str, set[str]] = {}
    add_requirements("charrnn-sound", EXTRAS, required_by)
    print(HEAD)
    for name in sorted(required_by):
        about = metadata.metadata(name)
        by = ", ".join(sorted(required_by[name]))
        print(f"| {name} | {about['Version'].partition('+')[0]} | {licence(about)} | {by} |")


def add_requirements(name: str, extras: tuple[str, ...], required_by: dict[str, set[str]]) -> None:
    """Add what a package and some of its extras require, recursively."""
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        normalised = re.sub(r"[-_.]+", "-", requirement.name).lower()
        is_new = normalised not in required_by
        required_by.setdefault(normalised, set()).add(name)
        if is_new:
            add_requirements(normalised, ("", *requirement.extras), required_by)


def licence(about: metadata.PackageMetadata) -> str:
    """Return the licence in a package's metadata, in its shortest form."""
    if "License-Expression" in about:
        return about["License-Expression"]
    classifiers = [text.split(" :: ")[-1] for text in about.get_all("Classifier") or () if text.startswith("License")]
    lines = about["License"].strip().splitlines() if "License" in about else []
    return "; ".join(classifiers) or (lines[0][:60] if lines else "not stated")


if __name__ == "__main__":
    main()
