"""Puts the style sheet into the elements when a template is compiled, so that no mail pays for it.

A style inliner wants HTML and would move loops out of tables. So each piece of Jinja2 is hidden first: a comment
where it stands between elements, a word inside an attribute; then it comes back, and its line is remembered.
"""

from __future__ import annotations

import re
from typing import Protocol, cast

import css_inline
from jinja2.ext import Extension

_PIECE = re.compile(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}", re.DOTALL)
_HIDDEN = re.compile(r"<!--jj(\d+)jj-->|jj(\d+)jj")
_INLINER = css_inline.CSSInliner(load_remote_stylesheets=False)


class _Styled(Protocol):
    """What this needs of the environment that it extends."""

    stylesheet: str
    line_maps: dict[str, list[int]]


class InlineCss(Extension):
    """`preprocess` runs once a template, before its source is parsed."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:  # noqa: ARG002  # as Jinja2 calls it
        if name is None or not name.endswith(".html"):
            return source
        environment = cast("_Styled", self.environment)
        inlined, lines = inline(source, environment.stylesheet)
        environment.line_maps[name] = lines
        return inlined


def inline(source: str, stylesheet: str) -> tuple[str, list[int]]:
    """The source with styles in its elements, and for each of its lines (from 0) the line it came from (from 1)."""
    pieces: list[tuple[str, int]] = []

    def hide(match: re.Match[str]) -> str:
        pieces.append((match[0], source.count("\n", 0, match.start()) + 1))
        number = len(pieces) - 1
        before = source[: match.start()]
        inside_tag = before.rfind("<") > before.rfind(">")
        return f"jj{number}jj" if inside_tag or match[0].startswith("{{") else f"<!--jj{number}jj-->"

    hidden = _PIECE.sub(hide, source)
    if "<html" in hidden:
        styled = _INLINER.inline(hidden.replace("</head>", f"<style>{stylesheet}</style></head>", 1))
    else:
        styled = css_inline.inline_fragment(hidden, stylesheet, load_remote_stylesheets=False)
    restored = _HIDDEN.sub(lambda match: pieces[int(match[1] or match[2])][0], styled)
    return restored, _origins(styled, pieces)


def _origins(styled: str, pieces: list[tuple[str, int]]) -> list[int]:
    """Where each line of the restored source came from, known by the pieces on it."""
    lines: list[int] = [1]
    position = 0
    for match in _HIDDEN.finditer(styled):
        lines.extend([lines[-1]] * styled.count("\n", position, match.start()))
        text, origin = pieces[int(match[1] or match[2])]
        lines[-1] = origin
        lines.extend(range(origin + 1, origin + 1 + text.count("\n")))
        position = match.end()
    lines.extend([lines[-1]] * styled.count("\n", position))
    return lines
