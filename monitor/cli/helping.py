"""The help of every command, as the library prints it, but for one thing: a flag takes no value, so none is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

if TYPE_CHECKING:
    from typer._click import Context, Parameter


class _Command(TyperCommand):
    def get_params(self, ctx: Context) -> list[Parameter]:
        return _without_values(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Context) -> list[Parameter]:
        return _without_values(super().get_params(ctx))


def _without_values(params: list[Parameter]) -> list[Parameter]:
    for one in params:
        if isinstance(one, TyperOption) and one.is_flag:
            one.metavar = ""  # else `--dry-run <bool>`, and whoever types `--dry-run true` is refused
    return params


def show_flags_plainly(app: typer.Typer) -> None:
    """Of every command and group that `app` has by now."""
    app.info.cls = _Group
    for command in app.registered_commands:
        command.cls = _Command
    for group in app.registered_groups:
        group.cls = _Group
        if group.typer_instance is not None:
            show_flags_plainly(group.typer_instance)
