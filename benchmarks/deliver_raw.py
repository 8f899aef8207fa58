"""The bound: prebuilt mails, pipelined over raw connections, nothing recorded.

python -m benchmarks.deliver_raw SMTP_PORT COUNT
"""

from __future__ import annotations

import asyncio
import sys

from benchmarks.letters import letters
from benchmarks.measure import tell, timed
from monitor.mail.mailer import Made, TemplateMailer

CONNECTIONS = 4


async def _post(port: int, mails: list[Made]) -> None:
    """The body of a mail and the envelope of the next go out together."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    writer.write(b"EHLO bench\r\n")
    while (await reader.readline())[3:4] == b"-":
        pass
    for number, mail in enumerate(mails):
        envelope = f"MAIL FROM:<{mail.sender}>\r\nRCPT TO:<{mail.recipient}>\r\nDATA\r\n".encode()
        if number == 0:
            writer.write(envelope)
        _, _, reply = [await reader.readline() for _ in range(3)]
        if not reply.startswith(b"354"):
            raise SystemExit(f"not a go-ahead: {reply!r}")
        following = b""
        if number + 1 < len(mails):
            other = mails[number + 1]
            following = f"MAIL FROM:<{other.sender}>\r\nRCPT TO:<{other.recipient}>\r\nDATA\r\n".encode()
        writer.write(mail.message.replace(b"\r\n.", b"\r\n..") + b".\r\n" + following)
        if not (await reader.readline()).startswith(b"250"):
            raise SystemExit("a mail was not taken")
    writer.write(b"QUIT\r\n")
    await reader.read()
    writer.close()


async def main(port: str, count: str) -> None:
    """Build the mails, then time their way out."""
    mailer = TemplateMailer()
    mails = [mailer.make(letter) for letter in letters(int(count))]
    with timed() as took:
        await asyncio.gather(*(_post(int(port), mails[n::CONNECTIONS]) for n in range(CONNECTIONS)))
    tell(len(mails), took, size=len(mails[0].message))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
