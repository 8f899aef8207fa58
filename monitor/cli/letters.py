"""`preview` and `send-test`: look at a mail, or send it to yourself. Neither can reach a customer."""

from __future__ import annotations

import os
import tempfile
import webbrowser
from dataclasses import dataclass, replace
from email.utils import format_datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer

from monitor.cli import console
from monitor.cli.console import ConfigOption
from monitor.cli.exits import Exit
from monitor.cli.stop import Stop
from monitor.clock import SystemClock
from monitor.config import Settings, default_file
from monitor.domain.letter import Letter
from monitor.domain.model import Kind
from monitor.domain.words import name_of
from monitor.errors import ConfigError, MailError, UnmailableAddressError
from monitor.mail.address import normalise_address
from monitor.mail.compose import compose
from monitor.mail.render import Rendered, Renderer
from monitor.mail.samples import STEPS, VARIANTS, sample, steps_of
from monitor.store.summaries import is_customer
from monitor.wiring.accounts import build_brand
from monitor.wiring.process import Wiring

OneAccount = Annotated[
    str | None, typer.Option("--account", "-a", help="The account; may be left out where there is only one.")
]
SampleAccount = Annotated[
    str | None, typer.Option("--account", "-a", help="Whose brand and sender to show; else the first account's.")
]
KindArgument = Annotated[Kind, typer.Argument(metavar="KIND", help=", ".join(Kind))]
LocaleOption = Annotated[str, typer.Option("--locale", "-l", help="The language; en is always there.")]
VariantOption = Annotated[str, typer.Option("--variant", help="The cause or reason; a wrong one lists them all.")]
StepOption = Annotated[str, typer.Option("--step", help=", ".join(STEPS))]


class Part(StrEnum):
    """What of a mail is printed."""

    TEXT = "text"
    HTML = "html"
    EML = "eml"


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample mail, ready to look at."""

    name: str
    rendered: Rendered
    message: bytes

    def part(self, part: Part) -> bytes:
        """The bytes of one of its parts."""
        if part is Part.EML:
            return self.message
        return (self.rendered.html if part is Part.HTML else self.rendered.text).encode()


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(
        epilog="Examples:  `monitor preview payment_failed --open`   `monitor preview cancelled --variant merchant`",
        rich_help_panel="Mails",
    )(preview)
    app.command(
        "send-test",
        epilog="Example:  `monitor send-test trial_ending --to me@acme.example`",
        rich_help_panel="Mails",
    )(send_test)


def preview(
    kind: KindArgument,
    locale: LocaleOption = "en",
    variant: VariantOption = "",
    step: StepOption = STEPS[0],
    output_format: Annotated[Part, typer.Option("--format", "-f", help="What to print.")] = Part.TEXT,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write .txt, .html and .eml here.")] = None,
    show: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    config: ConfigOption = None,
    account: SampleAccount = None,
) -> None:
    """Look at a mail with sample facts, in your templates and your brand, or in ours without a settings file."""

    async def body(_stop: Stop) -> int:
        settings = _settings_if_any(config)
        letter = _letter(settings, account, _Choice(kind, variant, step, locale))
        made = _made(settings, letter)
        if output is None and not show:
            console.print_bytes(made.part(output_format))
            return Exit.DONE
        folder = output or Path(tempfile.mkdtemp(prefix="monitor-preview-"))
        files = _written(made, folder)
        for file in files:
            console.say(str(file))
        if show and not webbrowser.open(files[1].absolute().as_uri()):
            console.warn(f"no browser could be opened; open {files[1]} by hand")
        return Exit.DONE

    console.operate(body)


def send_test(
    kind: KindArgument,
    to: Annotated[str, typer.Option("--to", help="Your own address; a customer's is refused.")],
    locale: LocaleOption = "en",
    variant: VariantOption = "",
    step: StepOption = STEPS[0],
    config: ConfigOption = None,
    account: OneAccount = None,
) -> None:
    """Send a mail with sample facts to yourself, by the account's own mail server."""

    async def body(stop: Stop) -> int:
        async with console.opened(config, stop=stop) as wiring:
            name = _only(wiring, account)
            recipient = await _own_address(wiring, to)
            letter = _letter(wiring.settings, name, _Choice(kind, variant, step, locale))
            made = _made(wiring.settings, replace(letter, recipient=recipient), prefix="[Test] ")
            sender = wiring.settings.account(name).sender_address
            async with wiring.transport(name).session() as session:
                await session.envelope(sender, recipient)
                await session.body(made.message)
        console.say(f"Sent to {recipient}: [Test] {made.rendered.subject}")
        return Exit.DONE

    console.operate(body)


@dataclass(frozen=True, slots=True)
class _Choice:
    kind: Kind
    variant: str
    step: str
    locale: str


def _settings_if_any(config: Path | None) -> Settings | None:
    """The settings, or None where nobody has written any: then the mail is shown as it is shipped."""
    if config is None and not os.environ.get("MONITOR_CONFIG") and default_file() is None:
        return None
    return console.read_settings(config)


def _letter(settings: Settings | None, account: str | None, choice: _Choice) -> Letter:
    variants, steps = VARIANTS[choice.kind], steps_of(choice.kind)
    if choice.variant and choice.variant not in variants:
        known = ", ".join(variant for variant in variants if variant) or "none"
        raise ConfigError(f"--variant: {name_of(choice.kind)} has no variant {choice.variant!r}; there is: {known}")
    if choice.step not in steps:
        raise ConfigError(f"--step: {name_of(choice.kind)} has no step {choice.step!r}; there is: {', '.join(steps)}")
    now = SystemClock().now()
    letter = replace(
        sample(choice.kind, choice.variant, choice.step, choice.locale),
        notification_id=str(uuid4()),
        date_header=format_datetime(now),
    )
    if settings is None:
        return letter
    name = account or next(iter(settings.accounts))
    chosen = settings.account(name)
    host = chosen.sender_address.rpartition("@")[2]
    return replace(
        letter,
        brand=build_brand(chosen),
        sender=chosen.sender,
        reply_to=chosen.reply_to,
        zone=chosen.timezone,
        message_id=f"<{letter.notification_id}@{host}>",
    )


def _made(settings: Settings | None, letter: Letter, prefix: str = "") -> Sample:
    renderer = Renderer(None if settings is None else settings.templates_dir)
    if letter.locale not in renderer.wordings.locales:
        known = ", ".join(renderer.wordings.locales)
        raise ConfigError(f"--locale: there are no mails in {letter.locale!r}; there is: {known}")
    rendered = renderer.render(letter)
    marked = replace(rendered, subject=prefix + rendered.subject)
    name = "-".join(filter(None, (letter.kind.value, letter.variant, letter.step, letter.locale)))
    return Sample(name, rendered, compose(letter, marked).message)


def _written(made: Sample, folder: Path) -> tuple[Path, Path, Path]:
    files = (folder / f"{made.name}.txt", folder / f"{made.name}.html", folder / f"{made.name}.eml")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, part in zip(files, (Part.TEXT, Part.HTML, Part.EML), strict=True):
            file.write_bytes(made.part(part))
    except OSError as error:
        raise ConfigError(f"--output: {folder} cannot be written ({error.strerror}); name another folder") from None
    return files


def _only(wiring: Wiring, account: str | None) -> str:
    names = wiring.account_names(account)
    if len(names) > 1:
        raise ConfigError(f"--account: there are several; name one of {', '.join(names)}")
    return names[0]


async def _own_address(wiring: Wiring, to: str) -> str:
    """The address, unless it is a customer's. Raises `ConfigError`."""
    try:
        recipient = normalise_address(to)
    except UnmailableAddressError as error:
        raise ConfigError(f"--to {to!r}: {error}; write it like me@acme.example") from None
    async with wiring.db.read() as conn:
        if await is_customer(conn, wiring.tools.address_mac(recipient)):
            raise MailError("--to: this is a customer's address, and a test mail never goes to a customer")
    return recipient
