"""The caught mails as files to look at: `.html` and `.txt` beside each `.eml`, and one page that lists them."""

from __future__ import annotations

from collections.abc import Sequence
from email.message import EmailMessage
from html import escape
from pathlib import Path

from monitor.cli.console import config_option
from monitor.cli.demo.stage import SETTINGS, MailLine, Played, instant_words
from monitor.cli.words import kind_name
from monitor.domain.words import count
from monitor.sandbox.mailbox import CaughtMail

INDEX = "index.html"
_MARKS = {"sent": ("ok", "✓"), "waiting": ("info", "◷"), "held": ("held", "‖"), "not sent": ("idle", "–")}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>Mails of the demo</title><style>{style}</style></head>
<body><main><h1>Mails of the demo</h1>
<p>What the monitor sent in three simulated days, what it did not send, and why. Nothing left this machine.</p>
{scenes}</main></body></html>
"""
_STYLE = """
:root{color-scheme:light dark;--bg:#f5f6f8;--card:#fff;--text:#171b22;--soft:#465060;--line:#d8dde5;--link:#2456c9;
--ok:#0b6b57;--info:#1d5fa8;--held:#7a3f97;--idle:#4d5766}
@media(prefers-color-scheme:dark){:root{--bg:#0f1217;--card:#171b21;--text:#e9ecf1;--soft:#b6bec9;--line:#303844;
--link:#8fb3ff;--ok:#5fd0b3;--info:#86bcf5;--held:#d6a5ee;--idle:#b6bec9}}
body{margin:0;background:var(--bg);color:var(--text);
font:14px/20px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1100px;margin:0 auto;padding:24px}
h1{font-size:20px;line-height:28px;margin:0 0 4px}h2{font-size:16px;line-height:24px;margin:32px 0 0}
p{margin:0 0 12px;max-width:68ch;color:var(--soft)}
.wide{overflow-x:auto}table{width:100%;border-collapse:collapse;background:var(--card);border-radius:8px}
th,td{text-align:left;padding:8px 12px;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
th{font-weight:600;font-size:12px;color:var(--soft)}a{color:var(--link)}
.what,.files{white-space:nowrap}.what{font-weight:600}
.note{background:var(--card);border-radius:8px;padding:12px 16px}.note p,.note ul{margin:0 0 8px}
pre{margin:0 0 8px;white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px}
@media(max-width:640px){main{padding:16px}thead{position:absolute;left:-999em}
table,tbody,tr,td{display:block}tr{padding:8px 0;border-bottom:1px solid var(--line)}tr:last-child{border-bottom:0}
td{padding:2px 12px;border:0;overflow-wrap:anywhere}.why{color:var(--soft)}}
.ok{color:var(--ok)}.info{color:var(--info)}.held{color:var(--held)}.idle{color:var(--idle)}
"""


def write_pages(folder: Path, played: Sequence[Played], caught: Sequence[CaughtMail]) -> Path:
    """Write the parts of every mail and the list of them; returns the list's path."""
    subjects: dict[int, str] = {}
    for mail in caught:
        message = mail.message
        subjects[mail.number] = str(message["Subject"])
        for kind, ending in (("html", ".html"), ("plain", ".txt")):
            (folder / "mails" / f"{mail.number:06}{ending}").write_text(_part(message, kind), encoding="utf-8")
    index = folder / INDEX
    settings = folder / SETTINGS
    scenes = "".join(_scene(one, subjects, settings) for one in played if one.lines)
    index.write_text(_PAGE.format(style=_STYLE, scenes=scenes), encoding="utf-8")
    return index


def _part(message: EmailMessage, kind: str) -> str:
    body = message.get_body((kind,))
    return "" if body is None else str(body.get_content())


def _scene(one: Played, subjects: dict[int, str], settings: Path) -> str:
    head = f"<h2>{escape(one.scene.title)} · {escape(instant_words(one.scene.at))}</h2><p>{escape(one.scene.told)}</p>"
    report = one.done.report
    if report is not None and report.held:
        return head + _held(count(len(one.lines), "mail"), report.held, report.batch_id, settings)
    rows = "".join(_row(line, subjects) for line in one.lines)
    return (
        f"{head}"
        '<div class="wide"><table><thead><tr><th scope="col">What</th><th scope="col">To</th><th scope="col">Mail</th>'
        f'<th scope="col">Because</th><th scope="col">Files</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _held(mails: str, why: Sequence[str], batch: int | None, settings: Path) -> str:
    """A held batch in a few words: a page of equal lines would tell nothing."""
    sign = _MARKS["held"][1]
    reasons = "".join(f"<li>{escape(sentence)}</li>" for sentence in why)
    look = "".join(
        f"<pre>{escape(f'monitor outbox {command}{config_option(settings)}')}</pre>"
        for command in (f"review {batch}", f"list --batch {batch} --limit 500")
    )
    return (
        f'<div class="note"><p class="held"><b>{sign} {mails} held: nobody is mailed until a person has looked.</b></p>'
        f"<ul>{reasons}</ul><p>Why, and each of them:</p>{look}</div>"
    )


def _row(line: MailLine, subjects: dict[int, str]) -> str:
    colour, sign = _MARKS[line.what]
    subject, links = kind_name(line.mail.kind), ""
    if line.number is not None:
        stem = f"mails/{line.number:06}"
        subject = f'<a href="{stem}.html">{escape(subjects[line.number])}</a>'
        links = f'<a href="{stem}.txt">text</a> · <a href="{stem}.eml">eml</a>'
    because = escape(line.why)
    address = escape(line.mail.address or "")
    return (
        f'<tr><td class="what {colour}">{sign} {line.what}</td><td>{escape(line.who)}<br><small>{address}</small></td>'
        f'<td>{subject}</td><td class="why">{because}</td><td class="files">{links}</td></tr>'
    )
