"""django-post_office sends prebuilt words from its own queue. Run by a Python that has it, see docs/benchmarks.md.

    python -m benchmarks.deliver_post_office SMTP_PORT DATABASE_URL COUNT SIZE

Its queue is filled before the clock starts; what is timed is `send_queued`, its own way of emptying it.
"""

from __future__ import annotations

import sys
from urllib.parse import parse_qs, urlsplit

from benchmarks.measure import tell, timed


def database(url: str) -> dict[str, str]:
    """The URL as Django wants it."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": parts.path[1:]}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path[1:],
        "USER": "postgres",
        "HOST": parse_qs(parts.query)["host"][0],
    }


def main(port: str, url: str, count: str, size: str) -> None:
    """Queue, then time the sending."""
    import django  # noqa: PLC0415  # settings come first
    from django.conf import settings  # noqa: PLC0415

    settings.configure(
        DATABASES={"default": database(url)},
        INSTALLED_APPS=["django.contrib.contenttypes", "post_office"],
        EMAIL_BACKEND="post_office.EmailBackend",
        POST_OFFICE={"BACKENDS": {"default": "django.core.mail.backends.smtp.EmailBackend"}, "BATCH_SIZE": 1000},
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        EMAIL_HOST="127.0.0.1",
        EMAIL_PORT=int(port),
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        LOGGING_CONFIG=None,
    )
    django.setup()
    from django.core.management import call_command  # noqa: PLC0415  # needs the settings
    from post_office import mail  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    text = "A line of words that a customer may read.\n" * (int(size) // 6 // 42)
    html = (
        "<html><body>"
        + "<p>A line of words that a customer may read.</p>\n" * (int(size) * 5 // 6 // 50)
        + "</body></html>"
    )
    sender = "billing@acme.example"
    wanted = [
        {
            "recipients": [f"customer{n}@customer.example"],
            "sender": sender,
            "subject": "Your subscription",
            "message": text,
            "html_message": html,
        }
        for n in range(int(count))
    ]
    mail.send_many(wanted)
    with timed() as took:
        sent = 0
        while done := mail.send_queued()[0]:
            sent += done
    if sent != int(count):
        raise SystemExit(f"{sent} of {count} were sent")
    tell(sent, took)


if __name__ == "__main__":
    main(*sys.argv[1:])
