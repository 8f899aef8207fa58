"""The mass-change guard: when a whole batch of mails waits for a person, and when a sender stops.

Rules a to g of the promises ("the mass-change guard"). A limit holds what is strictly above it; at the
limit mails go. Counts in, reasons out; integers and exact fractions only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

from monitor.domain.model import Urgency
from monitor.domain.words import name_of

GOOD_NEWS = frozenset({"recovered", "resumed", "healthy", "payment_succeeded"})
"""Classes that rule (a) does not count; every other class is bad news, each counted for itself."""


class Rule(StrEnum):
    """Ids of the rules: stored with a held batch, printed and documented; never renamed."""

    MASS_CHANGE = "a_mass_change"
    MISSING = "b_missing"
    VOLUME = "c_volume"
    UNKNOWN = "d_unknown"
    PER_ADDRESS = "e_per_address"
    BASELINE = "f_baseline"
    RESTORED = "f_restored"
    PROVIDER_CHANGED = "f_provider_changed"
    REFUSED_IN_A_ROW = "g_refused_in_a_row"
    REFUSED_SHARE = "g_refused_share"


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """The settings `[guard]`; shares are of 1."""

    share: Decimal = Decimal("0.20")
    min_population: int = 50
    small: int = 10
    missing: Decimal = Decimal("0.10")
    mails_factor: int = 5
    mails_floor: int = 100
    unknown: Decimal = Decimal("0.01")
    unknown_floor: int = 3
    per_address_24h: int = 2
    per_address_urgent_24h: int = 4


DEFAULT_LIMITS = GuardLimits()


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """What the gate counted before it opens a batch."""

    population: int
    """Live subscriptions known before a complete sweep; the rows compared when it was partial."""
    touched_by_class: Mapping[str, int] = field(default_factory=dict)
    """Class -> distinct subscriptions with such an event, or the first mail about one, in 24 h; not approved ones."""
    payments: int = 0
    """One-off payments and tries of the last 30 days: what the shares of payments are taken of."""
    payments_by_class: Mapping[str, int] = field(default_factory=dict)
    """Class -> distinct one-off payments with such an event in 24 h, without approved ones."""
    missing: int = 0
    """Known live rows that a complete sweep did not see; 0 when it was not complete."""
    known_live: int = 0
    rows: int = 0
    """Rows on the wire of this run, good and bad."""
    newly_unknown: int = 0
    """Rows that became undecodable or of unknown status in this run."""
    mails_today: int = 0
    """Mails of this account's local day that are sent or open already, this batch not among them."""
    past_days: Sequence[int] = ()
    """Mails of each of the newest 14 local days before today that mailed at all, in any order."""
    new_mails: int = 0
    """Mails that this batch would open."""
    mails: int = 0
    """The same and those of this batch that a person holds already: they may be released later, one by one."""
    baseline: bool = False
    """First contact, and the account's setting is to record only."""
    witness_mismatch: bool = False
    """The database was restored or copied."""
    provider_changed: bool = False
    """Another API version than the one that wrote what is stored."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a batch is held or a sender paused: figures for a program, a sentence for a person."""

    rule: Rule
    figure: int
    limit: int
    """The largest figure that would have passed."""
    sentence: str


def judge(counts: BatchCounts, limits: GuardLimits = DEFAULT_LIMITS) -> tuple[Reason, ...]:
    """All reasons to hold this batch, in the order of the rules; empty: it opens.

    A baseline is one reason alone: its other figures compare with nothing.
    """
    if counts.baseline:
        return (
            Reason(
                Rule.BASELINE,
                counts.new_mails,
                0,
                "First contact with this account: its state is recorded first",
            ),
        )
    return (
        *_mass_change(counts, limits),
        *_missing(counts, limits),
        *_volume(counts, limits),
        *_unknown(counts, limits),
        *_another_world(counts),
    )


def _mass_change(counts: BatchCounts, limits: GuardLimits) -> list[Reason]:
    if not counts.mails:  # nothing to keep from anybody; whatever mails within the 24 h is judged by the same counts
        return []
    classes, paid = counts.touched_by_class, counts.payments_by_class
    return [
        *_mass(classes, counts.population, "subscriptions", "live subscriptions", ", or are first told of it,", limits),
        *_mass(paid, counts.payments, "payments", "one-off payments of 30 days", "", limits),
    ]


def _mass(
    touched_by_class: Mapping[str, int], population: int, things: str, whole: str, later: str, limits: GuardLimits
) -> list[Reason]:
    small = population < limits.min_population
    limit = limits.small if small else _share_of(limits.share, population)
    told = (
        f"the limit is {limits.small} below {limits.min_population} {things}"
        if small
        else f"the limit is {_percent(limits.share)}"
    )
    return [
        Reason(
            Rule.MASS_CHANGE,
            touched,
            limit,
            f"{touched} of {population} {whole} became {_named(name)}{later} in 24 h; {told}",
        )
        for name, touched in sorted(touched_by_class.items())
        if name not in GOOD_NEWS and touched > limit
    ]


def _named(kind: str) -> str:
    """`paused` as it is, `"payment failed"` as what it is: a name."""
    name = name_of(kind)
    return f'"{name}"' if " " in name else name


def _missing(counts: BatchCounts, limits: GuardLimits) -> list[Reason]:
    limit = _share_of(limits.missing, counts.known_live)
    if counts.missing <= limit:
        return []
    sentence = (
        f"{counts.missing} of {counts.known_live} known subscriptions are missing from a complete sweep; "
        f"the limit is {_percent(limits.missing)}"
    )
    return [Reason(Rule.MISSING, counts.missing, limit, sentence)]


def _volume(counts: BatchCounts, limits: GuardLimits) -> list[Reason]:
    total = counts.mails_today + counts.new_mails
    median = _median([mails for mails in counts.past_days if mails > 0])
    limit = max(int(limits.mails_factor * median), limits.mails_floor)
    if counts.new_mails == 0 or total <= limit:
        return []
    sentence = (
        f"{total} mails today; the limit is {limit}, "
        f"the larger of {limits.mails_floor} and {limits.mails_factor} times the median of days that mailed"
    )
    return [Reason(Rule.VOLUME, total, limit, sentence)]


def _unknown(counts: BatchCounts, limits: GuardLimits) -> list[Reason]:
    limit = max(_share_of(limits.unknown, counts.rows), limits.unknown_floor)
    if counts.newly_unknown <= limit:
        return []
    sentence = (
        f"{counts.newly_unknown} of {counts.rows} rows became unreadable or of unknown status; "
        f"the limit is {_percent(limits.unknown)} and {limits.unknown_floor} rows"
    )
    return [Reason(Rule.UNKNOWN, counts.newly_unknown, limit, sentence)]


def _another_world(counts: BatchCounts) -> list[Reason]:
    reasons = []
    if counts.witness_mismatch:
        reasons.append(
            Reason(Rule.RESTORED, counts.new_mails, 0, "This database was restored or copied from another place")
        )
    if counts.provider_changed:
        reasons.append(
            Reason(
                Rule.PROVIDER_CHANGED,
                counts.new_mails,
                0,
                "The account speaks another API version than before",
            )
        )
    return reasons


class AddressVerdict(StrEnum):
    SEND = "send"
    SNOOZE = "snooze"
    HOLD = "hold"


def judge_address(
    urgency: Urgency, mails_24h: int, limits: GuardLimits = DEFAULT_LIMITS
) -> tuple[AddressVerdict, Reason | None]:
    """Rule (e): one more mail to an address that had `mails_24h` in 24 h (open ones of this batch too).

    Above two, others are snoozed; urgent and critical ones go up to a fourth and are then held, with a
    reason.
    """
    total = mails_24h + 1
    if urgency not in (Urgency.URGENT, Urgency.CRITICAL):
        return (AddressVerdict.SNOOZE if total > limits.per_address_24h else AddressVerdict.SEND), None
    if total <= limits.per_address_urgent_24h:
        return AddressVerdict.SEND, None
    limit = limits.per_address_urgent_24h
    sentence = f"One address would get {total} mails in 24 h; the limit for urgent ones is {limit}"
    return AddressVerdict.HOLD, Reason(Rule.PER_ADDRESS, total, limit, sentence)


@dataclass(frozen=True, slots=True)
class Breaker:
    """Rule (g): a sender's newest replies. A value: `after` gives the next, `Breaker()` is a new one."""

    recent: tuple[bool, ...] = ()
    """Oldest first; True where the reply was a refusal with 5xx."""

    WINDOW = 200
    IN_A_ROW = 10
    SHARE = Decimal("0.05")

    def after(self, *, refused: bool) -> Breaker:
        """The breaker after one more mail was answered; `refused` is a 5xx of any kind, a 4xx is not."""
        return Breaker((*self.recent, refused)[-self.WINDOW :])

    @property
    def reason(self) -> Reason | None:
        """Why the sender must pause now, or None.

        The share is of a full window, so that one refusal after a restart is not 100 percent.
        """
        if len(self.recent) >= self.IN_A_ROW and all(self.recent[-self.IN_A_ROW :]):
            sentence = f"The mail server refused {self.IN_A_ROW} mails in a row"
            return Reason(Rule.REFUSED_IN_A_ROW, self.IN_A_ROW, self.IN_A_ROW - 1, sentence)
        limit = _share_of(self.SHARE, self.WINDOW)
        refused = sum(self.recent)
        if refused > limit:
            told = f"the limit is {_percent(self.SHARE)}"
            sentence = f"The mail server refused {refused} of the last {self.WINDOW} mails; {told}"
            return Reason(Rule.REFUSED_SHARE, refused, limit, sentence)
        return None


def _share_of(share: Decimal, whole: int) -> int:
    """The largest count that is not above this share; exact whatever the decimal context."""
    return int(Fraction(share) * whole)


def _median(values: Sequence[int]) -> Fraction:
    """The median, 0 for none: without a past only the floor counts."""
    if not values:
        return Fraction(0)
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return Fraction(ordered[middle])
    return Fraction(ordered[middle - 1] + ordered[middle], 2)


def _percent(share: Decimal) -> str:
    return f"{(share * 100).normalize():f} %"
