"""Makes `licences.md`, the licence of every library of the production lock: `make generated` after it has changed."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageMetadata, metadata
from pathlib import Path

TARGET = Path(__file__).with_name("licences.md")
LOCK = Path(__file__).parents[1] / "requirements" / "run.lock"
PINNED = re.compile(r"^([\w.\-]+)==(\S+)(?!.*win32)", flags=re.MULTILINE)
OSI = "License :: OSI Approved :: "
HEAD = """\
# Licences

The monitor itself is under the MIT licence (LICENSE). It is installed with these libraries, in these versions, each
under its own licence as its package states it. None of them is copied into this repository. Made by `make generated`.

| library | version | licence |
|---|---|---|
"""


def listing() -> str:
    """The whole page. Raises `PackageNotFoundError` where a library of the lock is not installed."""
    rows = [f"| {name} | {pinned} | {licence(metadata(name))} |" for name, pinned in locked()]
    return HEAD + "\n".join(rows) + "\n"


def locked() -> list[tuple[str, str]]:
    """Name and version of what is installed on Linux."""
    return PINNED.findall(LOCK.read_text(encoding="utf-8"))


def licence(stated: PackageMetadata) -> str:
    """By the newest way of stating it that the package uses: expression, classifier, free text."""
    if stated["License-Expression"]:
        return stated["License-Expression"]
    classifiers = [each.removeprefix(OSI) for each in stated.get_all("Classifier", []) if each.startswith(OSI)]
    if classifiers:
        return ", ".join(classifiers)
    return (stated["License"] or "not stated").splitlines()[0].replace("|", "/")


if __name__ == "__main__":
    TARGET.write_text(listing(), encoding="utf-8")
    sys.stdout.write(f"{TARGET} is written\n")
