"""Plays the story: a served world, a real database, a mail catcher, and the product between them."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from monitor.cli import console
from monitor.cli.demo import till_story
from monitor.cli.demo.story import ZONE, Cast, Scene
from monitor.cli.passes import Pass, Stages, delivery_json, pass_over
from monitor.cli.words import mail_reason, rule_words
from monitor.domain.model import NotificationState
from monitor.domain.words import NOTHING
from monitor.errors import ConfigError
from monitor.sandbox.mailbox import CaughtMail, MailCatcher
from monitor.sandbox.server import SandboxServer
from monitor.sandbox.till import Till
from monitor.sandbox.world import World
from monitor.store.accounts import find_account
from monitor.store.plans import mail_states
from monitor.store.summaries import MailSummary, mails_one_by_one
from monitor.store.views import Filter
from monitor.usecases.importing import import_contacts, import_ids
from monitor.usecases.paid import list_paid
from monitor.usecases.report import Reports
from monitor.wiring.process import Wiring, wired

ACCOUNT = "acme"
MARKER = ".monitor-demo"
SETTINGS = "monitor.toml"
_PAYMENTS_LOOKED_AT = 500
_S = NotificationState


class Speaks(StrEnum):
    """Which API the demo's account speaks."""

    V2 = "qbitflow-v2"
    V1 = "qbitflow-v1"
    PLATFORM = "billing-platform"


@dataclass(frozen=True, slots=True)
class MailLine:
    """What became of one mail in a scene; `number` is that of its file."""

    mail: MailSummary
    number: int | None

    @property
    def who(self) -> str:
        """The customer's name, else the address."""
        name = " ".join(filter(None, (self.mail.name, self.mail.last_name)))
        return name or self.mail.address or "nobody"

    @property
    def what(self) -> str:
        """`sent`, `waiting`, `held` or `not sent`."""
        if self.mail.state is _S.SENT:
            return "sent"
        if self.mail.state is _S.HELD:
            return "held"
        return "waiting" if self.mail.state in {_S.READY, _S.STAGED} else "not sent"

    @property
    def why(self) -> str:
        """The reason in words: of the mail when it was sent, else of the silence."""
        if self.what == "sent":
            return mail_reason(self.mail.kind, self.mail.variant)
        return rule_words(self.mail.reason)


@dataclass(frozen=True, slots=True)
class PaymentLine:
    """What became of one payment in a scene."""

    payment: str
    who: str
    amount: str
    event: str
    why: str | None


@dataclass(slots=True)
class Played:
    """One scene and what the monitor made of it."""

    scene: Scene
    done: Pass
    lines: list[MailLine] = field(default_factory=list)
    paid: list[PaymentLine] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The stable keys of `demo --format json`."""
        report, delivery = self.done.report, self.done.delivery
        return {
            "title": self.scene.title,
            "at": self.scene.at,
            "told": self.scene.told,
            "outcome": self.done.outcome,
            "counts": {} if report is None else report.counts,
            "held": () if report is None else report.held,
            "delivery": None if delivery is None else delivery_json(delivery),
            "payments": [asdict(line) for line in self.paid],
            "mails": [
                {
                    "what": line.what,
                    "kind": line.mail.kind,
                    "variant": line.mail.variant,
                    "to": line.mail.address,
                    "product": line.mail.product,
                    "reason": line.mail.reason,
                    "why": line.why,
                    "file": None if line.number is None else f"{line.number:06}",
                }
                for line in self.lines
            ],
        }


class Stage:
    """What the scenes are played on. Made by `staged`."""

    def __init__(self, world: World, wiring: Wiring, mailbox: MailCatcher, folder: Path) -> None:
        """Nothing has happened yet."""
        self.world = world
        self.wiring = wiring
        self.mailbox = mailbox
        self.folder = folder
        self.cast = Cast()
        self._states: dict[str, str] = {}

    async def play(self, scene: Scene) -> Played:
        """Let time pass, let it happen, run the monitor, see what became of its mails."""
        self.world.advance(to=scene.at)
        scene.act(self.world, self.cast)
        return await self.run(scene)

    async def run(self, scene: Scene) -> Played:
        """Run the monitor at this instant. Raises what stood in its way."""
        done = await pass_over(self.wiring, ACCOUNT, Stages(at=self.world.now, trigger="demo"))
        if done.error is not None:
            raise done.error
        async with self.wiring.db.read() as conn:
            row = await find_account(conn, ACCOUNT)
            states = {} if row is None else await mail_states(conn, row.id)
            moved = [mail_id for mail_id, state in states.items() if self._states.get(mail_id) != state]
            mails = await mails_one_by_one(conn, None, moved)
        self._states = states
        paid = await _paid(Reports(self.wiring.db), self.world.now)
        numbers = {caught.message["Message-ID"]: caught.number for caught in self.mailbox.messages}
        return Played(scene, done, [MailLine(mail, numbers.get(mail.message_id)) for mail in mails], paid)

    @property
    def caught(self) -> list[CaughtMail]:
        """Every mail that arrived."""
        return self.mailbox.messages


@asynccontextmanager
async def staged(
    world: World, folder: Path, provider: Speaks = Speaks.V2, *, till: Till | None = None
) -> AsyncIterator[Stage]:
    """Serve the world and catch mails in `folder`, which is made anew. Raises `ConfigError` if it is somebody's own."""
    _clear(folder)
    async with SandboxServer(world, till=till) as server, MailCatcher(folder / "mails") as mailbox:
        settings_file = folder / SETTINGS
        settings_file.write_text(_settings(provider, server, mailbox.port), encoding="utf-8")
        settings_file.chmod(0o600)
        settings = console.read_settings(settings_file)
        async with wired(settings, sleep=_hurry) as wiring:
            if provider is Speaks.V1:  # it cannot list: a shop brings the ids of what has never paid
                ids = [world.id_of(sub) for sub in world.living()]
                await import_ids(wiring.tools, wiring.account(ACCOUNT), ids)
            if provider is Speaks.PLATFORM:  # it tells no address: a shop brings them
                await import_contacts(wiring.tools, wiring.account(ACCOUNT), till_story.contacts(world))
            yield Stage(world, wiring, mailbox, folder)


async def _hurry(_seconds: float) -> None:
    """Virtual time waits for nothing, but lets others go on."""
    await asyncio.sleep(0)


def _clear(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--keep: {folder} is no folder; name another")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise ConfigError(f"--keep: {folder} is not empty and no demo made it; name another folder")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / MARKER).write_text("Made by `monitor demo`, which removes this folder when it starts again.\n")
    except OSError as error:
        raise ConfigError(f"--keep: {folder} cannot be made ({error.strerror}); name another folder") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--keep: {folder} is not writable; name another folder")


async def _paid(reports: Reports, now: datetime) -> list[PaymentLine]:
    """What this instant's run told of payments, oldest payment first."""
    found = await list_paid(reports, Filter(limit=_PAYMENTS_LOOKED_AT))
    return [
        PaymentLine(row["ext_id"], row["customer_ext_id"] or NOTHING, row["amount"], event["kind"], row["reason"])
        for row in reversed(found.items)
        for event in row["events"]
        if event["at"] == now
    ]


def _settings(provider: Speaks, server: SandboxServer, smtp_port: int) -> str:
    url, key, more = server.url, server.world.ids.api_key, 'link_hosts = ["qbitflow.example"]'
    if provider is Speaks.V1:
        url = server.v1_url
    elif provider is Speaks.PLATFORM:
        till = server.platform.till
        url, key = server.platform_url, till.tenant_secret
        more = (
            'optional_mails = ["payment_succeeded"]\n'
            f'billing = {{ tenant_id = "{till.tenant_id}", decimals = {{ EUR = 2 }} }}'
        )
    return f"""# The demo's settings. Its API is gone, its database stays: monitor outbox list --config {SETTINGS}
state_dir = "var"

[database]
url = "sqlite:///monitor.db"

[smtp]
host = "127.0.0.1"
port = {smtp_port}
security = "none"

[accounts.{ACCOUNT}]
provider = "{provider.value}"
mode = "test"
base_url = "{url}"
api_key = "{key}"
sender = "Acme Billing <billing@acme.example>"
reply_to = "help@acme.example"
brand = {{ name = "Acme", url = "https://acme.example", color = "#3456d1", phrase = "blue heron, quiet river" }}
timezone = "{ZONE}"
{more}
mail_test_rows = true
"""


def instant_words(at: datetime) -> str:
    """`Wednesday 1 April, 09:00`."""
    return f"{at:%A} {at.day} {at:%B, %H:%M}"
