"""Collects every sentence of the mails into `templates/locale/messages.pot` (`python -m monitor.mail.catalog`).

Translators copy it to `locale/<locale>/LC_MESSAGES/messages.po`; nothing has to be compiled.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from babel.messages import Catalog
from babel.messages.extract import extract
from babel.messages.pofile import write_po

from monitor.assets import shipped
from monitor.mail import wording
from monitor.mail.sources import read_templates

TARGET = "locale/messages.pot"
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)  # a fixed date: the same sentences give the same file
_OPTIONS = {"trimmed": "true", "trim_blocks": "true", "lstrip_blocks": "true", "silent": "false"}


def messages(files: Mapping[str, str]) -> Catalog:
    """All sentences of these templates, and those of dates and periods, in the order of their files."""
    catalog = Catalog(
        project="subscription-monitor",
        copyright_holder="the subscription-monitor maintainers",
        creation_date=_EPOCH,
        revision_date=_EPOCH,
        fuzzy=False,
    )
    for path in sorted(files):
        if path.endswith((".txt", ".html")):
            _collect(catalog, f"templates/{path}", files[path], "jinja2.ext:babel_extract", _OPTIONS)
    source = Path(wording.__file__).read_text(encoding="utf-8")
    _collect(catalog, "monitor/mail/wording.py", source, "python", {})
    return catalog


def as_text(catalog: Catalog) -> str:
    """The catalog as a `.pot` file."""
    written = io.BytesIO()
    write_po(written, catalog, width=100, include_lineno=False, omit_header=False, sort_by_file=True)
    return written.getvalue().decode()


def _collect(catalog: Catalog, path: str, text: str, method: str, options: Mapping[str, str]) -> None:
    source = io.BytesIO(text.encode())
    for line, message, comments, context in extract(method, source, options=dict(options)):
        catalog.add(message, locations=[(path, line)], auto_comments=comments, context=context)


def main() -> None:
    """Write the file beside the shipped templates and say where."""
    target = shipped("templates") / TARGET
    target.write_text(as_text(messages(read_templates())), encoding="utf-8")
    sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main()
