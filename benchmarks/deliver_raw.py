"""The bounds: mails pipelined over raw connections, nothing recorded; prebuilt, or made on the way with `--making`.

python -m benchmarks.deliver_raw SMTP_PORT COUNT [--making]
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

from benchmarks.letters import letters
from benchmarks.measure import tell, timed
from monitor.mail.mailer import Made, TemplateMailer

CONNECTIONS = 4


async def _post(port: int, mails: Iterator[Made]) -> int:
    """The body of a mail and the envelope of the next go out together. Returns the bytes sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    writer.write(b"EHLO bench\r\n")
    while (await reader.readline())[3:4] == b"-":
        pass
    mail = next(mails, None)
    writer.write(b"" if mail is None else _envelope(mail))
    size = 0
    while mail is not None:
        _, _, reply = [await reader.readline() for _ in range(3)]
        if not reply.startswith(b"354"):
            raise SystemExit(f"not a go-ahead: {reply!r}")
        body, size = mail.message.replace(b"\r\n.", b"\r\n..") + b".\r\n", size + len(mail.message)
        mail = next(mails, None)
        writer.write(body + (b"" if mail is None else _envelope(mail)))
        if not (await reader.readline()).startswith(b"250"):
            raise SystemExit("a mail was not taken")
    writer.write(b"QUIT\r\n")
    await reader.read()
    writer.close()
    return size


def _envelope(mail: Made) -> bytes:
    return f"MAIL FROM:<{mail.sender}>\r\nRCPT TO:<{mail.recipient}>\r\nDATA\r\n".encode()


async def main(port: str, count: str, *flags: str) -> None:
    """Time the way of the mails out, and their making where asked."""
    mailer = TemplateMailer()
    told = list(letters(int(count)))
    mailer.make(told[0])  # templates are compiled before, as imports are
    made = map(mailer.make, told)
    mails = made if "--making" in flags else iter(list(made))
    with timed() as took:
        sizes = await asyncio.gather(*(_post(int(port), mails) for _ in range(CONNECTIONS)))
    tell(len(told), took, size=sum(sizes) // len(told))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
