"""Words a letter: subject, preheader, text and HTML, from templates that anybody may override.

Each kind has a folder. `words.txt` says what the mail says, once; `subject.txt` has the subject and, on a second line,
the preheader; `body.txt` and `body.html` lay the words out, usually by the base layouts alone. So text and HTML agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import FunctionLoader, TemplateError, TemplateSyntaxError

from monitor.domain.letter import Letter
from monitor.errors import RenderError
from monitor.mail.environment import LONGEST_OUTPUT, MailEnvironment, bounded
from monitor.mail.facts import UnknownFact, facts_of
from monitor.mail.sources import fingerprint, read_templates
from monitor.mail.wording import Wordings

STYLESHEET = "style.css"
FRAME = "frame.txt"
WORDS = frozenset(
    {
        "heading", "lead", "deadline", "deadline_note", "action", "link", "link_note", "figures", "notes",
        "hello", "action_missing", "figures_title", "proof_title", "proof", "trust", "why", "contact_line", "rhythm",
        "refusal", "refusal_link", "signature",
    }
)  # fmt: skip
"""What `words.txt` and `frame.txt` may set; a name with a leading underscore is their own business."""
_REQUIRED = ("heading", "lead")
_NO_WORDS = {word: UnknownFact(hint=f"{word} is not set by words.txt") for word in WORDS}
_ROWS = (list, tuple)
_AT_ONCE = 16  # pieces between two looks at the length; each is 1 MiB at most
_BLANK_LINES = re.compile(r"\n\n\n+")  # begins with a text that can be searched for, as `\n{3,}` does not


@dataclass(frozen=True, slots=True)
class Rendered:
    """One mail's words. `template_hash` names the version of all template files (table `templates`)."""

    subject: str
    preheader: str
    text: str
    html: str
    template_hash: str


class Renderer:
    """Renders letters; safe to share between threads and tasks, since a render keeps nothing."""

    def __init__(self, templates_dir: Path | None = None, *, files: Mapping[str, str] | None = None) -> None:
        """Read the files of `templates_dir` over the shipped ones, or take `files` (an older version) as they are."""
        self.files = dict(read_templates(templates_dir) if files is None else files)
        self.template_hash = fingerprint(self.files)
        self.wordings = Wordings(self.files)
        self._environment = MailEnvironment(FunctionLoader(self._source), self.files.get(STYLESHEET, ""))

    def render(self, letter: Letter) -> Rendered:
        """The mail's words.

        Raises:
            RenderError: a template fails for these facts, or makes more than 1 MiB; `template` and `line` say where.
        """
        wording = self.wordings.of(letter.locale)
        folder = letter.kind.value
        variables = self._environment.variables(facts_of(letter, wording), wording.catalog)
        with bounded():
            subject, preheader = self._subject(f"{folder}/subject.txt", variables)
            layout = {**_NO_WORDS, **variables, **self._words(FRAME, variables)}
            layout |= self._words(f"{folder}/words.txt", variables)
            layout |= {"subject": subject, "preheader": preheader}
            self._require(layout, f"{folder}/words.txt")
            text, _ = self._run(f"{folder}/body.txt", layout)
            html, _ = self._run(f"{folder}/body.html", layout)
        return Rendered(
            subject=subject,
            preheader=preheader,
            text=_BLANK_LINES.sub("\n\n", text).strip() + "\n",
            html=html,
            template_hash=self.template_hash,
        )

    def _subject(self, name: str, variables: dict[str, Any]) -> tuple[str, str]:
        text, _ = self._run(name, variables)
        lines = [_tidy(line) for line in text.split("\n") if line.strip()]
        if len(lines) != 2:
            raise RenderError(f"{name}: two lines are needed, subject and preheader", template=name, line=1)
        return lines[0], lines[1]

    def _words(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        """What the template sets, its texts on one line each."""
        _, words = self._run(name, variables)
        if unknown := sorted(words.keys() - WORDS):
            raise RenderError(f"{name}: sets {unknown[0]}, which no layout prints", template=name, line=1)
        return {word: _tidy(value) for word, value in words.items()}

    @staticmethod
    def _require(layout: Mapping[str, Any], name: str) -> None:
        for word in _REQUIRED:
            if not layout.get(word):
                raise RenderError(f"{name}: {word} is missing", template=name, line=1)

    def _run(self, name: str, variables: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """What the template prints, and what it sets. It reads these very variables, and changes none of them."""
        try:
            pieces, words = self._printed(name, variables)
        except Exception as error:
            raise self._explained(error, name) from error
        if sum(map(len, pieces)) > LONGEST_OUTPUT:
            raise RenderError(f"{name}: makes more than 1 MiB", template=name)
        return "".join(pieces), words

    def _printed(self, name: str, variables: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """The same in pieces, a few more at most than may be printed."""
        template = self._environment.get_template(name)
        context = template.new_context(variables, shared=True)
        stream = template.root_render_func(context)
        pieces: list[str] = []
        length = 0
        try:
            while length <= LONGEST_OUTPUT and (some := list(islice(stream, _AT_ONCE))):
                pieces += some
                length += sum(map(len, some))
        except Exception:  # noqa: BLE001  # all of them are raised again, with a traceback of the template's lines
            self._environment.handle_exception()
        return pieces, context.get_exported()

    def _source(self, name: str) -> tuple[str, str, None] | None:
        """The file's text under its own name, so that a traceback tells which template failed."""
        text = self.files.get(name)
        return None if text is None else (text, name, None)

    def _explained(self, error: Exception, name: str) -> RenderError:
        """The same error with the innermost template file and line, as the operator's file counts them."""
        where, line = self._place(error, name)
        told = error.message if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
        return RenderError(f"{where}:{line or '?'}: {told}", template=where, line=line)

    def _place(self, error: Exception, name: str) -> tuple[str, int | None]:
        if isinstance(error, TemplateSyntaxError):
            where = error.name or name
            return where, self._original(where, error.lineno)
        trace = error.__traceback__
        found: tuple[str, int | None] = (name, None)
        while trace is not None:
            where = trace.tb_frame.f_code.co_filename
            if where in self.files:
                found = where, self._original(where, trace.tb_lineno)
            trace = trace.tb_next
        return found

    def _original(self, name: str, line: int) -> int:
        lines = self._environment.line_maps.get(name)
        return lines[line - 1] if lines and 0 < line <= len(lines) else line


def _tidy(value: Any) -> Any:
    """Texts on one line; rows and paragraphs without those that hold an unknown fact."""
    if isinstance(value, str):
        if "\n" not in value and "  " not in value:
            return value.strip(" \t\r")
        return " ".join(part for part in re.split(r"[ \t\n\r]+", value) if part)
    if isinstance(value, _ROWS):
        return [tidy for tidy in map(_tidy, value) if tidy and not (type(tidy) is list and len(tidy) < 2)]
    return value
