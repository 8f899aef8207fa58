"""Words and composes letters, in today's templates or in the version that a mail was made with first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from monitor.domain.letter import Letter
from monitor.mail.compose import compose
from monitor.mail.render import Renderer


@dataclass(frozen=True, slots=True)
class Made:
    """A message ready to leave: the envelope's addresses, and the bytes after DATA (CRLF, not dot-stuffed)."""

    sender: str
    recipient: str
    message: bytes
    template_hash: str


class TemplateMailer:
    """Makes messages of letters; safe to share between tasks."""

    def __init__(self, templates_dir: Path | None = None) -> None:
        """Read the shipped templates, and `templates_dir` over them file by file. Raises `RenderError`."""
        self._renderer = Renderer(templates_dir)
        self.template_hash = self._renderer.template_hash

    def template_files(self) -> str:
        """All template files as one JSON object."""
        return json.dumps(self._renderer.files, sort_keys=True)

    def make(self, letter: Letter, files: str | None = None) -> Made:
        """The message of a letter; with `files`, in the words of that older version.

        Raises `RenderError` for a template that fails, `UnmailableAddressError` for an address that cannot be mailed,
        `MailError` for a header that cannot be written.
        """
        renderer = self._renderer if files is None else _older(files)
        rendered = renderer.render(letter)
        composed = compose(letter, rendered)
        return Made(composed.sender_addr, composed.recipient_addr, composed.message, rendered.template_hash)


@lru_cache(maxsize=4)
def _older(files: str) -> Renderer:
    return Renderer(files=json.loads(files))
