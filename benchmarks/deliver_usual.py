"""The usual chain: render, inline the CSS, EmailMessage, a connection and a commit for each mail.

    python -m benchmarks.deliver_usual SMTP_PORT DATABASE_URL COUNT

The words are rendered by our own templates with an empty style sheet, so that the mails say and look the same.
"""

from __future__ import annotations

import smtplib
import sys
from email.message import EmailMessage

import css_inline
from sqlalchemy import String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.letters import letters
from benchmarks.measure import tell, timed
from monitor.domain.letter import Letter
from monitor.mail.render import STYLESHEET, Renderer
from monitor.mail.sources import read_templates


class Base(DeclarativeBase):
    pass


class Outbox(Base):
    __tablename__ = "usual_outbox"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    state: Mapped[str] = mapped_column(String(10))


def send(row: Outbox, letter: Letter, renderer: Renderer, style: str, port: int) -> int:
    """One mail, from its words to the server's reply. Returns its size."""
    words = renderer.render(letter)
    html = css_inline.inline(words.html.replace("</head>", f"<style>{style}</style></head>", 1))
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = letter.sender, letter.recipient, words.subject
    message["Date"], message["Message-ID"] = letter.date_header, letter.message_id
    message.set_content(words.text)
    message.add_alternative(html, subtype="html")
    with smtplib.SMTP("127.0.0.1", port, local_hostname="bench") as server:
        server.send_message(message)
    row.state = "sent"
    return len(message.as_bytes())


def main(port: str, url: str, count: str) -> None:
    """Fill the outbox, then time it being emptied."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    Base.metadata.create_all(engine)
    files = dict(read_templates(None))
    style, files[STYLESHEET] = files[STYLESHEET], ""
    renderer = Renderer(files=files)
    waiting = {letter.notification_id: letter for letter in letters(int(count))}
    with Session(engine) as session:
        session.add_all(Outbox(id=mail_id, state="ready") for mail_id in waiting)
        session.commit()
        with timed() as took:
            size = 0
            for mail_id in session.scalars(select(Outbox.id).where(Outbox.state == "ready")).all():
                row = session.get_one(Outbox, mail_id)
                size = send(row, waiting[mail_id], renderer, style, int(port))
                session.commit()
    tell(len(waiting), took, size=size)


if __name__ == "__main__":
    main(*sys.argv[1:])
