"""The Jinja2 environment of all mails: sandboxed, strict, and bounded in steps and in size.

An operator's template is trusted no further than a customer's name: it cannot reach Python, cannot loop for ever and
cannot build a huge text. Bounds count steps, not seconds, so that a slow machine renders the same mails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import BaseLoader, StrictUndefined, Template, TemplateRuntimeError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_context
from markupsafe import Markup, escape

from monitor.mail.brand import Palette
from monitor.mail.clean import FIRST_STRONG, POP
from monitor.mail.inline import InlineCss
from monitor.mail.wording import Moment

LONGEST_OUTPUT = 1024 * 1024
"""Characters of any text that a template makes."""
MOST_STEPS = 20_000
"""Turns of loops, calls and inclusions in one mail; the largest shipped one takes about 300."""
TEXT_WIDTH = 72
_HASH_SHOWN = 24
_SIZED = (str, list, tuple)  # made once: this is asked sixty times a mail
_OURS = frozenset({Moment, Palette})
_FILTERS = frozenset(
    {"e", "escape", "safe", "default", "d", "length", "first", "last", "join", "select", "list", "trim"}
)


@dataclass(slots=True)
class _Budget:
    left: int = MOST_STEPS


_budget: ContextVar[_Budget | None] = ContextVar("mail_budget", default=None)


@contextmanager
def bounded() -> Iterator[None]:
    """Everything rendered inside shares one budget of steps."""
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


class _Generator(CodeGenerator):
    """Prints a value of HTML by one call, where Jinja2 makes two and escapes what `prose` has escaped once more."""

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> None:
        if frame.eval_ctx.autoescape:
            self.write("(environment.shown(")  # both are closed behind the value, as Jinja2 closes its own two
        else:
            super()._output_child_pre(node, frame, finalize)


class MailEnvironment(ImmutableSandboxedEnvironment):
    """No globals, ten filters, `*`, `**` and `%` refused, every loop, call and joined text counted."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, loader: BaseLoader, stylesheet: str) -> None:
        super().__init__(
            loader=loader,
            undefined=StrictUndefined,
            autoescape=lambda name: name is not None and name.endswith(".html"),
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=False,
            extensions=["jinja2.ext.i18n"],
            finalize=_known,
            auto_reload=False,
            cache_size=-1,
        )
        self.policies["ext.i18n.trimmed"] = True
        for name in self.globals.keys() - {"_"}:
            del self.globals[name]
        self.filters = {name: self.filters[name] for name in _FILTERS}
        self.filters |= {
            "prose": prose,
            "wrap": wrapped,
            "short": shortened,
            "bounded_loop": _counted,
            "bounded_text": _measured,
        }
        self.stylesheet = stylesheet
        self.line_maps: dict[str, list[int]] = {}
        self.add_extension(InlineCss)
        self.newstyle_gettext = True  # sentences fill in their names by themselves, escaped where they are markup
        self.globals |= {"_": _gettext, "gettext": _gettext, "ngettext": _ngettext}

    def variables(self, facts: Mapping[str, Any], catalog: Any) -> dict[str, Any]:
        """All that a template may read, as a context shares it: nothing is added to it for each template."""
        return {**self.globals, **facts, "catalog": catalog}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """No methods of texts: `format`, `center` and their like make text without end."""
        if type(obj) in _OURS:  # plain values: no need to ask whether they are Python's own insides
            return not attr.startswith("_")
        return not isinstance(obj, str) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Treat `format` as any other method of a text: refused."""

    @staticmethod
    def shown(value: Any) -> Markup:
        """A value as HTML prints it: escaped, or markup already."""
        return value if type(value) is Markup else escape(_known(value))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, list | tuple) and isinstance(right, list | tuple):
            return _measured([*left, *right])
        raise SecurityError(f"the operator {operator} is not available in mails ({context.name})")

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call as the sandbox does, counted. Translations are most calls, and ours: they need no other check."""
        _step()
        if obj is _gettext or obj is _ngettext:
            kwargs.pop("_loop_vars", None)
            kwargs.pop("_block_vars", None)
            return _measured(obj(context, *args, **kwargs))
        return _measured(super().call(context, obj, *args, **kwargs))

    def get_template(
        self,
        name: str | Template,
        parent: str | None = None,
        globals: Any = None,  # noqa: A002  # Jinja2's own name
    ) -> Template:
        _step()
        return super().get_template(name, parent, globals)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The syntax tree with every loop and every joined text wrapped in its bound."""
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "bounded_loop", [], [], None, None, lineno=loop.lineno)
        for block in list(tree.find_all(nodes.AssignBlock)):
            block.filter = nodes.Filter(block.filter, "bounded_text", [], [], None, None, lineno=block.lineno)
        for joined in list(tree.find_all(nodes.Concat)):
            parts = nodes.Concat(joined.nodes, lineno=joined.lineno)
            joined.nodes = [nodes.Filter(parts, "bounded_text", [], [], None, None, lineno=joined.lineno)]
        return tree


def prose(text: str) -> Markup:
    """Words for HTML: escaped, isolates as `<bdi>`."""
    escaped = escape(text)
    if FIRST_STRONG not in escaped:
        return escaped
    opening, closing = Markup('<bdi dir="auto">'), Markup("</bdi>")
    return escaped.replace(FIRST_STRONG, opening).replace(POP, closing)


def wrapped(text: str, indent: int = 0) -> str:
    """Words for the text part: lines up to 72, an address never broken."""
    margin = " " * min(indent, 8)
    if len(margin) + len(text) <= TEXT_WIDTH and "\n" not in text:
        return margin + text
    return _broken(text, margin)


@lru_cache(maxsize=256)  # half of the paragraphs stand in every mail
def _broken(text: str, margin: str) -> str:
    lines: list[str] = []
    line = margin
    for word in text.split(" "):
        if not word:
            continue
        if line.strip() and len(line) + len(word) + 1 > TEXT_WIDTH:
            lines.append(line)
            line = margin
        line = f"{line} {word}" if line.strip() else margin + word
    return "\n".join([*lines, line])


def shortened(text: str) -> str:
    """A hash as its two ends, `0x7f3a9c…41c91e`; the full value stands in the link and in the text part."""
    bare = text.strip(FIRST_STRONG + POP)
    return text if len(bare) <= _HASH_SHOWN or " " in bare else f"{bare[:8]}…{bare[-6:]}"


def _known(value: Any) -> Any:
    if value is None:
        raise TemplateRuntimeError("None is printed: ask with {% if %} first")
    return value


def _step() -> None:
    budget = _budget.get()
    if budget is None:
        return
    budget.left -= 1
    if budget.left < 0:
        raise TemplateRuntimeError(f"the template takes more than {MOST_STEPS} steps")


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _step()
        yield item


def _measured(value: Any) -> Any:
    if isinstance(value, _SIZED) and len(value) > LONGEST_OUTPUT:
        raise TemplateRuntimeError(f"the template makes a text of more than {LONGEST_OUTPUT} characters")
    return value


@pass_context
def _gettext(context: Context, message: str, /, **names: Any) -> str:
    return _filled(context, context.parent["catalog"].gettext(message), names)


@pass_context
def _ngettext(context: Context, singular: str, plural: str, num: int, /, **names: Any) -> str:
    return _filled(context, context.parent["catalog"].ngettext(singular, plural, num), {"num": num, **names})


def _filled(context: Context, text: str, names: Mapping[str, Any]) -> str:
    """The sentence with its names; in HTML the sentence is markup, and the names are escaped."""
    sentence = Markup(text) if context.eval_ctx.autoescape else text  # noqa: S704  # a template's text, not a customer's
    return sentence % names
