"""The documentation names what there is: every setting, every command, every make target."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel

from monitor.config import Account, SendWindow, Settings
from monitor.metrics import Meter
from monitor.usecases.watch import Cause

ROOT = Path(__file__).parents[2]
DOCS = "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))])


def settings(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Each setting as an operator writes it: `accounts.<name>.mode`."""
    for key, field in model.model_fields.items():
        if (model, key) == (Account, "name"):
            continue
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        tables = [kind for kind in kinds if issubclass(kind, BaseModel) and kind is not SendWindow]
        if not tables:
            yield f"{prefix}{key}"
        elif prefix and key in Settings.model_fields:
            yield f"{prefix}{key}"  # an account's own [smtp] and [guard]: their keys are documented once
        else:
            yield from settings(
                tables[0], f"{prefix}{key}." + ("<name>." if get_origin(field.annotation) is dict else "")
            )


def commands() -> list[str]:
    """The commands of `monitor`, groups as `group command`."""
    if importlib.util.find_spec("monitor.cli.main") is None:
        return []
    import typer.main

    from monitor.cli.main import app

    def walk(command, path: str) -> Iterator[str]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield path
            return
        for name, each in inner.items():
            if not each.hidden:
                yield from walk(each, f"{path} {name}".strip())

    return list(walk(typer.main.get_command(app), ""))


def sample_name(family) -> str:
    """A metric as it is asked for: counters end in `_total`."""
    return f"{family.name}_total" if family.type == "counter" else family.name


@pytest.mark.parametrize("setting", list(settings()))
def test_every_setting_is_documented(setting):
    assert f"`{setting}`" in DOCS


@pytest.mark.parametrize("setting", [name.rpartition(".")[2] for name in settings()])
def test_every_setting_stands_in_the_example(setting):
    assert re.search(rf"\b{setting}\b", (ROOT / "config" / "monitor.toml").read_text())


@pytest.mark.parametrize("command", commands())
def test_every_command_is_documented(command):
    assert re.search(rf"`(monitor )?{re.escape(command)}\b", DOCS)


def test_every_make_target_of_the_first_steps_is_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert [target for target in ("demo", "test", "check") if f"make {target}" not in readme] == []


@pytest.mark.parametrize("metric", sorted(map(sample_name, Meter().registry.collect())))
def test_every_metric_is_documented(metric):
    assert f"`{metric}`" in DOCS


@pytest.mark.parametrize("cause", [cause.value for cause in Cause])
def test_every_alert_is_documented(cause):
    assert f"| `{cause}` |" in DOCS
