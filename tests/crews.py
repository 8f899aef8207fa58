"""The daemon in virtual time: its own jobs, called when their own triggers say, while the world's clock jumps from one to the next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from monitor.heartbeat import Heartbeat
from monitor.mail.smtp import SmtpTransport
from monitor.metrics import Meter
from monitor.schedule.crew import Charge, Crew
from monitor.schedule.daemon import jobs
from monitor.schedule.readers import HookReaders
from monitor.usecases.alerts import Alerts
from tests.harness import Stage, instantly


class Bell:
    """An alarm that takes notes; `deaf` is one that nobody hears."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, str]] = []
        self.deaf = False

    async def ring(self, title: str, body: str) -> bool:
        if not self.deaf:
            self.rung.append((title, body))
        return not self.deaf


def charge_of(stage: Stage, *, schedule: str = "0 7 * * *", heartbeat: str | None = None) -> Charge:
    transport = SmtpTransport("127.0.0.1", stage.mailbox.port, security="none")
    return Charge(stage.account, schedule, transport, Heartbeat(stage.account.name, heartbeat))


def crew_of(
    stage: Stage, *charges: Charge, bell: Bell | None = None, meter: Meter | None = None, **how: object
) -> Crew:
    """A crew with the stage's tools, over its account or over these charges."""
    return Crew(
        stage.tools,
        charges or (charge_of(stage, **how),),
        stage.mailer,
        state_dir=Path(stage.state_dir),
        meter=meter or Meter(),
        alerts=Alerts(bell or Bell(), stage.db),
        readers=HookReaders(stage.tools, {stage.account.name: stage.account}, meter or Meter(), pause=instantly),
    )


async def drive(stage: Stage, crew: Crew, until: datetime, *, every: timedelta = timedelta(hours=2)) -> None:
    """Let the daemon work from now until then."""
    world = stage.world
    planned = jobs(
        [charge.watched for charge in crew.charges.values()],
        runs=crew.see_to_runs,
        mails=crew.see_to_mails,
        hooks=crew.readers.see_to_all,
        watch=crew.watch,
        tidy=crew.tidy,
        now=world.now,
        every=every,
        watch_every=timedelta(hours=6),
    )
    agenda = [[world.now if job.at_start else job.trigger.get_next_fire_time(None, world.now), job] for job in planned]
    while True:
        agenda.sort(key=lambda entry: entry[0])
        at, job = agenda[0]
        if at > until:
            break
        world.advance(to=at)
        await job.duty()
        await crew.idle()
        # in UTC: adding to a local instant would lose which of two equal hours it is in
        agenda[0][0] = job.trigger.get_next_fire_time(at, at.astimezone(UTC) + timedelta(microseconds=1))
    world.advance(to=until)
