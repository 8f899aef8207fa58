"""What is wrong with a configuration, said so that it can be mended: the setting, the place, the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from monitor.config.account import Account
from monitor.config.settings import ENV_PREFIX, Settings

Location = tuple[str | int, ...]

_HEADER = re.compile(r"\s*\[\[?\s*(?P<path>[^\]\[#]+?)\s*\]\]?\s*(#.*)?\Z")
_ASSIGNMENT = re.compile(r"\s*(?P<path>[A-Za-z0-9_\-.\"' ]+?)\s*=")
_MUST = {
    "bool": "must be true or false",
    "decimal": "must be a number",
    "dict": "must be a table",
    "float": "must be a number",
    "int": "must be a whole number",
    "model": "must be a table",
    "path": "must be a path in quotes",
    "string": "must be text in quotes",
    "tuple": "must be a list in brackets",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_OF_SYSTEMD = {"CREDENTIALS_DIRECTORY", "INVOCATION_ID"}
"""Variables that systemd gives to a unit's processes; the first only where it hands over a credential at all."""
_SECRETS = ("api_key", "password", "urls", "webhook_secret")


def dotted(location: Iterable[str | int]) -> str:
    """`("accounts", "acme", "link_hosts", 0)` as an operator writes it: `accounts.acme.link_hosts[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def variable(location: Iterable[str | int]) -> str:
    """The environment variable that sets this setting."""
    return ENV_PREFIX + "__".join(str(part).upper().replace("-", "_") for part in location)


@dataclass(frozen=True)
class Places:
    """Where values came from: the file's lines, and the variables that were set."""

    file: Path | None
    lines: Mapping[tuple[str, ...], int]
    variables: frozenset[str]

    def complaint(self, location: Location, text: str) -> str:
        """One line: setting, place, what is wrong and the fix."""
        return f"{dotted(location)} ({self._place(location)}): {text}{self._credential(location, text)}"

    def _credential(self, location: Location, text: str) -> str:
        """In a unit of systemd, the line that the unit lacks."""
        if location[-1] not in _SECRETS or not text.startswith("is missing") or not self.variables & _OF_SYSTEMD:
            return ""
        name = dotted(location)
        return (
            f'. In a systemd unit: the line "LoadCredential={name}:subscription-monitor.{name}" '
            f"and the secret in /etc/credstore/subscription-monitor.{name}"
        )

    def _place(self, location: Location) -> str:
        path = tuple(str(part) for part in location)
        for name in (variable(path), variable(path) + "_FILE"):
            if name in self.variables:
                return f"environment variable {name}"
        inside = [name for name in self.variables if name.startswith(variable(path) + "__")]
        if inside and path not in self.lines:
            return f"environment variable {min(inside)}"
        if self.file is None:
            return "environment"
        exact = self.lines.get(path) or self.lines.get((*path[:-1], path[-1] + "_file"))
        if exact:
            return f"{self.file}, line {exact}"
        for length in range(len(path) - 1, 0, -1):
            if path[:length] in self.lines:
                return f"{self.file}, near line {self.lines[path[:length]]}"
        return str(self.file)


def toml_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line, from 1, of each table and key. A guide for people: odd layouts may lack entries, none is invented."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        assignment = None if header else _ASSIGNMENT.match(line)
        if header:
            table = _parts(header["path"])
            lines.setdefault(table, number)
        elif assignment:
            lines.setdefault((*table, *_parts(assignment["path"])), number)
    return lines


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in path.split("."))


def describe(error: ErrorDetails) -> tuple[Location, str]:
    """The setting one pydantic error is about, and the text to show. Never quotes the value: it may be a secret."""
    location: Location = tuple(part for part in error["loc"] if part != "[key]")
    kind, context = error["type"], error.get("ctx", {})
    if kind == "setting":
        return (*location, str(context["setting"])), str(context["text"])
    if kind == "value_error":
        return location, str(context["error"])
    if kind == "extra_forbidden":
        return location, unknown(location)
    if kind == "missing":
        return location, _missing(location)
    if kind == "literal_error":
        return location, f"must be {context['expected']}"
    if kind in _BOUNDS:
        word, bound = _BOUNDS[kind]
        return location, f"must be {word} {context[bound]}"
    for stem, text in _MUST.items():
        if kind.startswith(f"{stem}_") and kind.rpartition("_")[2] in {"type", "parsing", "float"}:
            return location, text
    return location, error["msg"][0].lower() + error["msg"][1:]


def _missing(location: Location) -> str:
    if location[-1] in _SECRETS:
        return f'is missing; write {location[-1]}_file = "path" or set {variable(location)}'
    if location == ("accounts",):
        return "there is no account; add a table [accounts.yourname]"
    return "is missing; add it"


def unknown(location: Location) -> str:
    """The text for a key that is no setting, with the nearest one that is."""
    known = _known_keys(location[:-1])
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
    if near:
        return f"is no setting; did you mean {near[0]}?"
    return f"is no setting; known here: {', '.join(sorted(known))}"


def _known_keys(location: Location) -> list[str]:
    """What may be written into the table at `location`."""
    model = _table_at(location)
    keys = [key for key in model.model_fields if (model, key) != (Account, "name")] if model else []
    return keys + [f"{key}_file" for key in keys if key in _SECRETS]


def _table_at(location: Location) -> type[BaseModel] | None:
    model: type[BaseModel] = Settings
    parts = iter(location)
    for part in parts:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        inner = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        tables = [kind for kind in inner if issubclass(kind, BaseModel)]
        if not tables:
            return None
        model = tables[0]
        if get_origin(annotation) is dict:
            next(parts, None)  # the account's name
    return model
