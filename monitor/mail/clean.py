"""Foreign text made harmless before a template sees it: one line, no control, nothing invisible, never too long.

A name comes from a form that anybody can fill in. What this returns can stand in a subject, a text part or (escaped) in
HTML without changing anything around it.
"""

from __future__ import annotations

import re
import unicodedata

FIRST_STRONG = "\u2068"
POP = "\u2069"
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")  # letters of Persian and of Indic scripts, and families of emoji, need them
_RTL = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff\U00010800-\U00010fff\U0001e800-\U0001efff]")
_LINKABLE = re.compile(r"[@/\\<>{}]|www\.|[^\W_]\.[^\W\d_]{2,}", re.IGNORECASE)


def one_line(text: str, longest: int) -> str:
    """`text` without invisible characters, white space collapsed, cut to `longest` characters with an ellipsis."""
    shown = text[: longest * 20]
    if not (shown.isascii() and shown.isprintable()):
        kept = (_visible(char) for char in unicodedata.normalize("NFC", shown))
        shown = "".join(kept)
    line = " ".join(shown.split())
    if len(line) <= longest:
        return line
    cut = line[: longest - 1].rstrip()
    while cut and (unicodedata.combining(line[len(cut)]) or cut[-1] in _JOINERS):
        cut = cut[:-1]
    return cut.rstrip() + "…"


def isolated(text: str, *, is_rtl: bool) -> str:
    """`text` between isolates where its direction may differ from the sentence's; else unchanged."""
    if text and (is_rtl or _RTL.search(text)):
        return f"{FIRST_STRONG}{text}{POP}"
    return text


def greetable(name: str | None) -> str | None:
    """A name fit for a greeting; None for an address, a link, or what is no name."""
    line = one_line(name or "", 60)
    return None if not line or line.endswith("…") or _LINKABLE.search(line) else line


def _visible(char: str) -> str:
    if char in _JOINERS:
        return char
    category = unicodedata.category(char)
    if category in _INVISIBLE:
        return " " if category in {"Cc", "Zl", "Zp"} else ""
    return char
