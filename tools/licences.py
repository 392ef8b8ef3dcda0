"""List the dependencies, with all extras for users: python tools/licences.py > docs/reference/dependencies.md.

The licences are those in the metadata of the packages that are installed in this environment.
"""

from __future__ import annotations

import re
from importlib import metadata

from packaging.requirements import Requirement

EXTRAS = ("", "plots", "report", "onnx", "play", "listen", "tensorboard")
HEAD = """# Dependencies

The packages of an installation with every extra for users, by the licence that their metadata state; constraints.txt
has the versions that are tested. `python tools/licences.py > docs/reference/dependencies.md` writes this page. `make
audit` looks for known vulnerabilities in public databases and needs a network connection.

| licence | packages |
|---|---|"""


def main() -> None:
    """Print the page."""
    names: set[str] = set()
    add_requirements("charrnn-sound", EXTRAS, names)
    packages: dict[str, list[str]] = {}
    for name in sorted(names):
        packages.setdefault(licence(metadata.metadata(name)), []).append(name)
    print(HEAD)
    for title in sorted(packages, key=str.lower):
        print(f"| {title} | {', '.join(packages[title])} |")


def add_requirements(name: str, extras: tuple[str, ...], names: set[str]) -> None:
    """Add what a package and some of its extras require, recursively."""
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        normalised = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if normalised not in names:
            names.add(normalised)
            add_requirements(normalised, ("", *requirement.extras), names)


def licence(about: metadata.PackageMetadata) -> str:
    """Return the licence in a package's metadata, in its shortest form."""
    if "License-Expression" in about:
        return about["License-Expression"]
    classifiers = [text.split(" :: ")[-1] for text in about.get_all("Classifier") or () if text.startswith("License")]
    lines = about["License"].strip().splitlines() if "License" in about else []
    return "; ".join(classifiers) or (lines[0][:60] if lines else "not stated")


if __name__ == "__main__":
    main()
