"""One observation, one decision: what happened, which episode opens or closes, which mails are due.

This is the whole judgement of the product in one pure function. Whoever observes (a page, a single refetch, the passing
of time) hands in what is stored and what was seen, and writes what comes back in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from monitor.domain.classify import Classified, classify, next_look
from monitor.domain.diff import Change, quiet_changes, situation_change
from monitor.domain.episodes import RECOVERED, Turn, turn
from monitor.domain.intents import BASELINE, Intent, all_clear, due_intents
from monitor.domain.model import Cause, Kind, Situation, Snapshot, Told
from monitor.domain.notices import Notice, NoticePolicy, welcome
from monitor.domain.records import Episode, MailRecord
from monitor.domain.spending import NO_TURN, SPENDING, SpendingTurn, judge_spending
from monitor.domain.value import value

_ASKING = frozenset(
    {
        Situation.MAX_AMOUNT_REACHED,
        Situation.PAYMENT_FAILED,
        Situation.TRIAL_EXPIRED,
        Situation.LOW_ON_FUNDS,
        Situation.TRIAL_ENDING,
    }
    | SPENDING,
)
NOTHING_TOLD = Told()
_WITH_STATUS = frozenset({"status_changed", "action_changed"})


@dataclass(frozen=True, slots=True)
class Policy:
    """The account's choices, and how far its baseline is."""

    account: str
    baselined_at: datetime | None
    notify_first: bool = False
    mail_test_rows: bool = False
    wanted: frozenset[Kind] = frozenset()
    """Kinds of mail that are sent only where the account asks for them."""

    def mutes(self, snapshot: Snapshot, situation: Situation) -> bool:
        """Whether what a row shows at first sight, or before the baseline is complete, is only recorded.

        The baseline is silent, and so is a row first seen later unless it was created after the baseline; with
        `first_run = "notify"` what still needs an action is mailed.
        """
        created = snapshot.created_at
        if self.baselined_at is not None and created is not None and created > self.baselined_at:
            return False
        return not (self.notify_first and situation in _ASKING)


@value(frozen=True, slots=True)
class Standing:
    """What is stored about one subscription. `snapshot` None: never seen before.

    `current` is the open episode of billing; `usage` holds all of the track `usage`.
    """

    snapshot: Snapshot | None = None
    situation: Situation | None = None
    cause: Cause | None = None
    told: Told = NOTHING_TOLD
    current: Episode | None = None
    past: tuple[Episode, ...] = ()
    usage: tuple[Episode, ...] = ()
    mails: tuple[MailRecord, ...] = ()
    live_sibling: bool = False


@value(frozen=True, slots=True)
class Decision:
    """Everything one observation causes; the caller writes it whole or not at all."""

    after: Classified
    changes: tuple[Change, ...]
    closes: tuple[Episode, str] | None
    opens: Episode | None
    reopens: bool
    keeps: Episode | None
    intents: tuple[Intent, ...]
    next_look_at: datetime | None
    spending: SpendingTurn = NO_TURN
    """What happens beside, on the track `usage`."""
    welcome: Notice | None = None
    """The mail to somebody who has just subscribed."""

    @property
    def happened(self) -> tuple[Change, ...]:
        """Everything that becomes an event, in order."""
        return (*self.changes, *self.spending.changes)

    @property
    def ends(self) -> tuple[tuple[Episode, str], ...]:
        """Every episode that closes, with the reason."""
        return tuple(end for end in (self.closes, self.spending.closes) if end is not None)


def decide(standing: Standing, observed: Snapshot, policy: Policy, now: datetime) -> Decision:
    """Judge one observation against what is stored; `now` is the decision's instant (aware UTC)."""
    after = classify(observed, standing.told, now)
    wordless = _wordless(standing, observed, after)
    change = turn(
        account=policy.account,
        current=standing.current,
        after=after,
        snapshot=observed,
        told=standing.told,
        now=now,
    )
    opens, reopens = _opening(standing, observed, policy, change)
    mails = {mail.id: mail for mail in standing.mails}
    intents: list[Intent] = []
    active = opens or change.keeps
    if active is not None and after.situation is not Situation.UNKNOWN:
        planned = due_intents(
            active,
            after,
            observed,
            standing.told,
            mails,
            now=now,
            mail_test_rows=policy.mail_test_rows,
            live_sibling=standing.live_sibling,
        )
        intents.extend(planned.intents)
        active = replace(active, next_step_at=planned.next_step_at)
    if change.closes is not None and change.closes[1] == RECOVERED:
        reassurance = all_clear(change.closes[0], observed, mails, now=now, mail_test_rows=policy.mail_test_rows)
        if reassurance is not None:
            intents.append(reassurance)
    spending = _spending(standing, observed, after, policy, mails, now)
    changes = _changes(standing, observed, after, change, policy, wordless=wordless)
    looks = (next_look(observed, standing.told, now), spending.next_look_at)
    return Decision(
        # what was known stays: coming back to the provider that has the word must be no news either
        after=Classified(standing.situation, standing.cause) if wordless and standing.situation else after,
        changes=changes,
        closes=change.closes,
        opens=active if opens is not None else None,
        reopens=reopens,
        keeps=active if opens is None else None,
        intents=(*intents, *spending.intents),
        next_look_at=min((at for at in looks if at is not None), default=None),
        spending=spending,
        welcome=_welcome(observed, policy, now) if any(one.kind == "created" for one in changes) else None,
    )


def _welcome(observed: Snapshot, policy: Policy, now: datetime) -> Notice | None:
    return welcome(NoticePolicy(policy.account, policy.wanted, policy.mail_test_rows), observed, now)


def _spending(
    standing: Standing,
    observed: Snapshot,
    after: Classified,
    policy: Policy,
    mails: Mapping[str, MailRecord],
    now: datetime,
) -> SpendingTurn:
    """The track beside billing; a state that is not known opens and closes nothing there either."""
    if after.situation is Situation.UNKNOWN:
        return NO_TURN
    recorded = policy.baselined_at is None and policy.mutes(observed, Situation.SPENDING_LIMIT_NEAR)
    return judge_spending(
        account=policy.account,
        spells=standing.usage,
        snapshot=observed,
        told=standing.told,
        mails=mails,
        now=now,
        mute=BASELINE if recorded else None,
        mail_test_rows=policy.mail_test_rows,
    )


def _opening(standing: Standing, observed: Snapshot, policy: Policy, change: Turn) -> tuple[Episode | None, bool]:
    fresh = change.opens
    if fresh is None:
        return None, False
    for old in standing.past:
        if old.id == fresh.id:
            # The same anchor again is the same spell: its beginning, and what it was muted for, stay.
            again = replace(old, closed_at=None, close_reason=None)
            return replace(again, deadline_at=fresh.deadline_at, evidence_at=fresh.evidence_at), True
    if (standing.snapshot is None or policy.baselined_at is None) and policy.mutes(observed, fresh.kind):
        fresh = replace(fresh, muted=BASELINE)
    return fresh, False


def _wordless(standing: Standing, observed: Snapshot, after: Classified) -> bool:
    """Whether `unknown` only says that this provider has no word for what another one told (v1 for "paused").

    It stays so until the word changes.
    """
    known = standing.snapshot
    if known is None or after.situation is not Situation.UNKNOWN or standing.situation is Situation.UNKNOWN:
        return False
    same_words = (known.status_raw, known.action_raw) == (observed.status_raw, observed.action_raw)
    return same_words or known.provider != observed.provider


def _changes(
    standing: Standing, observed: Snapshot, after: Classified, change: Turn, policy: Policy, *, wordless: bool
) -> tuple[Change, ...]:
    known = standing.snapshot
    if known is None:
        born = () if policy.mutes(observed, Situation.HEALTHY) else (Change("created", None, observed.status.value),)
        if after.situation is Situation.HEALTHY:
            return born
        return (*born, situation_change(None, after.situation, after.cause))
    quiet = quiet_changes(known, observed)
    if wordless:
        return quiet
    if after.situation is not standing.situation or change.opens is not None:
        quiet = tuple(c for c in quiet if c.kind not in _WITH_STATUS)
        return (*quiet, situation_change(standing.situation, after.situation, after.cause))
    if after.cause is not standing.cause and known.provider == observed.provider:
        quiet = (*quiet, Change("cause_changed", _word(standing.cause), _word(after.cause), after.cause))
    return quiet


def _word(cause: Cause | None) -> str | None:
    return None if cause is None else cause.value
