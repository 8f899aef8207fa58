"""Renders every mail that can be sent, in every language, before a customer is ever involved (`monitor check`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from monitor.domain.letter import Letter
from monitor.errors import RenderError
from monitor.mail.environment import TEXT_WIDTH
from monitor.mail.render import Rendered, Renderer
from monitor.mail.samples import all_samples

LONGEST_SUBJECT = 60
PREHEADER = range(40, 91)
LARGEST_HTML = 25_000
LARGEST_KEPT_CSS = 6_000


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing to mend. `line` counts from 1 in the operator's file; None where it has no line."""

    file: str
    line: int | None
    message: str


def check_templates(renderer: Renderer) -> list[Problem]:
    """Everything wrong with the renderer's templates and catalogs, each problem once; empty when all is well."""
    found: dict[Problem, None] = {}
    for locale in renderer.wordings.locales:
        for letter in all_samples(locale):
            for problem in _problems_of(renderer, letter):
                found.setdefault(problem)
    return sorted(found, key=lambda problem: (problem.file, problem.line or 0, problem.message))


def _problems_of(renderer: Renderer, letter: Letter) -> Iterator[Problem]:
    folder = letter.kind.value
    try:
        rendered = renderer.render(letter)
    except RenderError as error:
        yield Problem(error.template or folder, error.line, str(error))
        return
    for file, message in _breaches(rendered, letter):
        yield Problem(f"{folder}/{file}", None, f"{message} ({letter.locale})")


def _breaches(rendered: Rendered, letter: Letter) -> Iterator[tuple[str, str]]:
    """Bounds that a sample must keep (look, section 2). Only our own product name is measured, never a merchant's."""
    if len(rendered.subject) > LONGEST_SUBJECT:
        yield "subject.txt", f"the subject has {len(rendered.subject)} characters, at most {LONGEST_SUBJECT} are shown"
    if len(rendered.preheader) not in PREHEADER and letter.locale == "en":
        yield "subject.txt", f"the preheader has {len(rendered.preheader)} characters, 40 to 90 are wanted"
    if len(rendered.html.encode()) > LARGEST_HTML:
        yield "body.html", f"the HTML is larger than {LARGEST_HTML} bytes"
    if any(len(line) > TEXT_WIDTH and " " in line.strip() for line in rendered.text.splitlines()):
        yield "body.txt", f"a line of the text part is longer than {TEXT_WIDTH} characters: use the filter wrap"
