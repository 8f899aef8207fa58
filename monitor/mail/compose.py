"""Puts rendered words into a MIME message; the same letter always gives the same bytes: a resend is the same mail.

Headers and bodies are written directly. The standard library's `EmailMessage` costs ten times as much and has four
traps here (it breaks a long List-Unsubscribe, splits "a@x,b@y", lets NUL through, encodes IDN wrongly); tests parse
every message back with it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from monitor.domain.letter import Letter
from monitor.domain.links import safe_link
from monitor.errors import MailError
from monitor.mail.address import normalise_address, parse_sender
from monitor.mail.facts import message_code
from monitor.mail.render import Rendered

LONGEST_LINE = 998
"""Octets of a line without CRLF (RFC 5322 2.1.1)."""
_LONGEST_LINK = 900
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,250}>")
_DATE = re.compile(r"[A-Za-z]{3}, \d{2} [A-Za-z]{3} \d{4} \d{2}:\d{2}:\d{2} [+-]\d{4}")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")
_WORD_BYTES = 42  # 56 characters of base64 and 12 of frame: below 76, the longest encoded-word (RFC 2047, 2)
_WIDTH = 75
_UNSAFE = re.compile(rb"[^\t -~]+")
_ESCAPES = tuple(b"=%02X" % octet for octet in range(256))
_FEEDBACK_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True)
class Composed:
    """One message for one recipient: the envelope's two addresses and the bytes after DATA (CRLF, not dot-stuffed)."""

    sender_addr: str
    recipient_addr: str
    message: bytes


def compose(letter: Letter, rendered: Rendered) -> Composed:
    """The message of this letter.

    Raises:
        UnmailableAddressError: the recipient is not one plain mailbox.
        ConfigError: `sender` or `reply_to` is no address.
        MailError: `message_id`, `in_reply_to` or `date_header` is not in the form of RFC 5322.
    """
    sender_name, sender_addr = parse_sender(letter.sender)
    recipient_addr = normalise_address(letter.recipient)
    boundary = "=_" + hashlib.sha256(letter.notification_id.encode()).hexdigest()[:32]
    headers = [
        ("From", _mailbox(sender_name, sender_addr)),
        # No display name: it would be the customer's own text in a header, of use to nobody but a forger.
        ("To", recipient_addr),
        ("Reply-To", _mailbox(*parse_sender(letter.reply_to))),
        ("Subject", _text(rendered.subject)),
        ("Date", _checked("date_header", letter.date_header, _DATE)),
        ("Message-ID", _checked("message_id", letter.message_id, _MESSAGE_ID)),
        *_thread(letter),
        ("Auto-Submitted", "auto-generated"),
        ("Feedback-ID", _feedback_id(letter, sender_addr)),
        *_unsubscribe(letter),
        ("Content-Language", _language(letter.locale)),
        ("MIME-Version", "1.0"),
        ("Content-Type", f'multipart/alternative; boundary="{boundary}"'),
    ]
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    body = _parts(boundary, rendered)
    return Composed(sender_addr, recipient_addr, head.encode("ascii") + b"\r\n" + body)


def _parts(boundary: str, rendered: Rendered) -> bytes:
    """Text first, HTML last: the last alternative is the preferred one (RFC 2046, 5.1.4).

    Quoted-printable never holds `=_`, so the boundary cannot occur in a body.
    """
    mark = boundary.encode("ascii")
    pieces = []
    for kind, content in ((b"plain", rendered.text), (b"html", rendered.html)):
        pieces.append(
            b"--" + mark + b"\r\nContent-Type: text/" + kind + b'; charset="utf-8"\r\n'
            b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + _quoted_printable(content) + b"\r\n"
        )
    return b"".join(pieces) + b"--" + mark + b"--\r\n"


def _quoted_printable(text: str) -> bytes:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return b"\r\n".join(map(_quoted_line, text.split("\n")))


@lru_cache(maxsize=512)  # most lines of a mail are the layout's: the same in the next mail
def _quoted_line(line: str) -> bytes:
    """One line in lines of at most 76 octets (RFC 2045, 6.7), none of which ends in white space."""
    quoted = line.encode("utf-8", "replace").replace(b"=", b"=3D")
    if not (line.isascii() and line.isprintable()):  # asked first: looking through every octet takes longer
        quoted = _UNSAFE.sub(_hex, quoted)
    if quoted == b".":  # alone on its line it would have to be doubled, and undoubled, by every server on the way
        return b"=2E"
    if quoted.endswith((b" ", b"\t")):
        quoted = quoted[:-1] + _ESCAPES[quoted[-1]]
    pieces = []
    start, end = 0, len(quoted)
    while end - start > _WIDTH:
        stop = start + _WIDTH
        escape = quoted.find(b"=", stop - 2, stop)  # it must not be broken
        if escape >= 0:
            stop = escape
        pieces.append(quoted[start:stop])
        start = stop
    pieces.append(quoted[start:])
    return b"=\r\n".join(pieces)


def _hex(match: re.Match[bytes]) -> bytes:
    return b"".join([_ESCAPES[octet] for octet in match[0]])


def _thread(letter: Letter) -> list[tuple[str, str]]:
    if letter.in_reply_to is None:
        return []
    first = _checked("in_reply_to", letter.in_reply_to, _MESSAGE_ID)
    return [("In-Reply-To", first), ("References", first)]


def _unsubscribe(letter: Letter) -> list[tuple[str, str]]:
    """One-click (RFC 8058) where a link honours it, else an answer by mail; nothing where refusing is no choice."""
    if not letter.refusable:
        return []
    url = safe_link(letter.unsubscribe_url or "", None)
    if url and len(url) <= _LONGEST_LINK:
        return [("List-Unsubscribe", f"<{url}>"), ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")]
    return [("List-Unsubscribe", f"<{_answer(letter.reply_to)}{quote(message_code(letter.notification_id))}>")]


@lru_cache(maxsize=256)
def _answer(reply_to: str) -> str:
    """The link of an answer by mail that asks to stop, to be ended by which mail it answers."""
    return f"mailto:{quote(parse_sender(reply_to)[1], safe='@')}?subject=stop%20"


def _feedback_id(letter: Letter, sender_addr: str) -> str:
    """`kind:step:id:domain`: complaint reports count by field, and the last one is the sender."""
    domain = sender_addr.rpartition("@")[2]
    fields = (letter.kind.value, letter.step, letter.notification_id, domain)
    return ":".join(_FEEDBACK_UNSAFE.sub("", field) or "-" for field in fields)


def _language(tag: str) -> str:
    language = tag.replace("_", "-")
    return language if re.fullmatch(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", language) else "en"


def _checked(name: str, value: str, shape: re.Pattern[str]) -> str:
    if shape.fullmatch(value) is None:
        raise MailError(f"{name} is not in the form of RFC 5322")
    return value


def _mailbox(name: str, spec: str) -> str:
    if not name:
        return spec
    # A name that looks like an encoded-word would be decoded: it is encoded, so that it reads as it was written.
    if "=?" in name or not name.isascii():
        return f"{_encoded_words(name)} <{spec}>"
    if not _ATOMS.fullmatch(name):
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}" <{spec}>'
    return f"{name} <{spec}>"


def _text(text: str) -> str:
    """A header's free text: as it is when it is short printable ASCII that nobody could take for an encoded-word."""
    line = " ".join(text.split())
    if line.isascii() and line.isprintable() and len(line) < 66 and "=?" not in line:
        return line
    return _encoded_words(line)


def _encoded_words(text: str) -> str:
    """RFC 2047, base64, no character split over two words; the words stand on lines of their own."""
    words: list[str] = []
    chunk = b""
    for char in text:
        encoded = char.encode("utf-8", "replace")
        if len(chunk) + len(encoded) > _WORD_BYTES:
            words.append(_encoded_word(chunk))
            chunk = b""
        chunk += encoded
    return "\r\n ".join([*words, _encoded_word(chunk)])


def _encoded_word(chunk: bytes) -> str:
    return f"=?utf-8?b?{base64.b64encode(chunk).decode('ascii')}?="
