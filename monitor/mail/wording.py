"""A locale's way to write dates, numbers and directions, and its catalog of sentences.

Dates follow CLDR, never a pattern of ours: "d MMMM" is wrong in Spanish, Hungarian and Japanese (campaigns, section 3).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import lru_cache
from zoneinfo import ZoneInfo

from babel import Locale, UnknownLocaleError
from babel.dates import DateTimePattern, get_timezone_location, parse_pattern
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_percent
from babel.support import NullTranslations, Translations

from monitor.domain.words import in_digits
from monitor.errors import RenderError

NBSP = "\u00a0"
SOURCE_LOCALE = "en"
_CLDR_FOR = {"en": "en_GB"}  # "Thursday 9 April": bare English reads the same everywhere in this order
_CATALOG = re.compile(r"locale/(?P<locale>[A-Za-z_]+)/LC_MESSAGES/messages\.po")
_SMALLEST_EXPONENT = -30  # no token has more places; a larger scale is an accident


class Wording:
    """One locale: `lang` for HTML, `start` and `end` for layout, a catalog, and formats that are parsed once."""

    def __init__(self, locale: Locale, catalog: NullTranslations) -> None:
        self.catalog = catalog
        self.locale = locale
        self.lang = str(locale).replace("_", "-")
        self.is_rtl = locale.character_order == "right-to-left"
        cldr = Locale.parse(_CLDR_FOR.get(str(locale), str(locale)))
        self._day = _each_once(_skeleton(cldr, "MMMMd", "MMMd"), cldr)
        self._date = _each_once(_skeleton(cldr, "MMMMEEEEd", "MMMMEd", "MMMEd"), cldr)
        self._dated = _each_once(parse_pattern(cldr.date_formats["long"]), cldr)
        self._time = _each_once(_skeleton(cldr, "Hm"), cldr)
        self._zone = lru_cache(maxsize=1024)(self._zone_named)
        self._cldr = cldr
        latin = cldr.number_symbols.get("latn") or {}
        self._decimal = str(latin.get("decimal", "."))

    def day(self, local: datetime) -> str:
        """`9 April`."""
        return self._day(local.date())

    def date(self, local: datetime) -> str:
        """`Thursday 9 April`."""
        return self._date(local.date())

    def dated(self, local: datetime) -> str:
        """`9 April 2026`: for what may be years ago."""
        return self._dated(local.date())

    def full(self, local: datetime) -> str:
        """`Thursday 9 April, 11:00, Budapest time`."""
        gettext = self.catalog.gettext
        parts = {"date": self.date(local), "time": self._time(local.time()), "zone": self.zone(local)}
        return str(gettext("%(date)s, %(time)s, %(zone)s")) % parts

    def zone(self, local: datetime) -> str:
        """`Budapest time`, or the offset where a zone has no city."""
        return self._zone(getattr(local.tzinfo, "key", None), local.utcoffset())

    def _zone_named(self, key: str | None, offset: timedelta | None) -> str:
        city = _city(key, str(self._cldr)) if key else ""
        if city:
            return str(self.catalog.gettext("%(city)s time")) % {"city": city}
        return timezone(offset).tzname(None) if offset else "UTC"

    def number(self, value: Decimal) -> str:
        """Digits without grouping, so that they can be typed; two places or as many as the value needs.

        Raises:
            RenderError: no finite `Decimal` of zero or more: such a figure must never reach a customer.
        """
        if type(value) is not Decimal or not value.is_finite() or value < 0:
            raise RenderError("an amount is not a plain number of zero or more")
        if value.adjusted() > -_SMALLEST_EXPONENT or int(value.as_tuple().exponent) < _SMALLEST_EXPONENT:
            raise RenderError("an amount is out of range")
        return in_digits(value).replace(".", self._decimal)

    def percent(self, whole: int) -> str:
        """`93%`, as the locale writes it."""
        return format_percent(Decimal(whole) / 100, locale=self._cldr, numbering_system="latn")

    def every(self, period: timedelta) -> str:
        """`every 30 days`: a month is 30 days on the chain, so no date of the month is promised."""
        seconds = int(period.total_seconds())
        ngettext = self.catalog.ngettext
        if seconds % 86400 == 0:
            days = seconds // 86400
            return str(ngettext("every day", "every %(num)d days", days)) % {"num": days}
        if seconds % 3600 == 0:
            hours = seconds // 3600
            return str(ngettext("every hour", "every %(num)d hours", hours)) % {"num": hours}
        minutes = max(1, seconds // 60)
        return str(ngettext("every minute", "every %(num)d minutes", minutes)) % {"num": minutes}


@dataclass(frozen=True, slots=True)
class Moment:
    """An instant on the customer's wall clock; formats itself when a template prints it."""

    local: datetime
    wording: Wording

    @property
    def day(self) -> str:
        return self.wording.day(self.local)

    @property
    def date(self) -> str:
        return self.wording.date(self.local)

    @property
    def dated(self) -> str:
        return self.wording.dated(self.local)

    def __str__(self) -> str:
        return self.wording.full(self.local)


def moment(at: datetime, zone: str, wording: Wording, *, deadline: bool) -> Moment:
    """`at` in the customer's zone, rounded down to the minute.

    A deadline at 00:00 becomes 23:59 of the day before: nobody reads "until Friday 00:00" as Thursday night.
    """
    if at.tzinfo is None:
        raise RenderError("an instant without a time zone")
    local = at.astimezone(_zone(zone)).replace(second=0, microsecond=0)
    if deadline and local.hour == 0 and local.minute == 0:
        local = (at - timedelta(minutes=1)).astimezone(_zone(zone)).replace(second=0, microsecond=0)
    return Moment(local, wording)


class Wordings:
    """The locales that can be written, found among the template files."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._by_tag: dict[str, Wording] = {}
        catalogs: dict[str, NullTranslations] = {SOURCE_LOCALE: NullTranslations()}
        for path, text in files.items():
            match = _CATALOG.fullmatch(path)
            if match:
                catalogs[match["locale"]] = _catalog(path, text)
        self._catalogs = catalogs

    @property
    def locales(self) -> tuple[str, ...]:
        return tuple(sorted(self._catalogs))

    def of(self, tag: str) -> Wording:
        """The nearest locale with a catalog: `de-AT` finds `de`; one without any is written in English.

        Formats follow the catalog's language, with the asked region where the languages agree.
        """
        known = self._by_tag.get(tag)
        if known is None:
            known = self._by_tag[tag] = self._nearest(tag)
        return known

    def _nearest(self, tag: str) -> Wording:
        parts = re.split(r"[-_]", tag)
        for length in range(len(parts), 0, -1):
            name = "_".join(parts[:length])
            if name in self._catalogs:
                return Wording(_parsed(tag) or Locale.parse(name), self._catalogs[name])
        return Wording(Locale.parse(SOURCE_LOCALE), self._catalogs[SOURCE_LOCALE])


def _parsed(tag: str) -> Locale | None:
    try:
        return Locale.parse(tag.replace("-", "_"))
    except (UnknownLocaleError, ValueError):
        return None


def _catalog(path: str, text: str) -> Translations:
    """A catalog straight from its `.po`: an operator edits text and needs no compiler."""
    try:
        messages = read_po(io.BytesIO(text.encode()), abort_invalid=True)
        compiled = io.BytesIO()
        write_mo(compiled, messages)
        compiled.seek(0)
        return Translations(compiled)
    except Exception as error:  # the reader raises its own and many built-in errors
        raise RenderError(f"the catalog cannot be read: {error}", template=path) from error


def _each_once(pattern: DateTimePattern, locale: Locale) -> Callable[[date | time], str]:
    """Dates or times written by this pattern; mails name the same few, so each is worked out once."""
    return lru_cache(maxsize=1440)(lambda moment: pattern.apply(moment, locale))


def _skeleton(locale: Locale, *names: str) -> DateTimePattern:
    """The first format CLDR has for this locale, short names widened: it lists "Thu 9 Apr" where we need words."""
    for name in names:
        found = locale.datetime_skeletons.get(name)
        if found is not None:
            widened = re.sub(r"(?<!M)M{3}(?!M)", "MMMM", found.pattern)
            return parse_pattern(re.sub(r"(?<!E)E{1,3}(?!E)", "EEEE", widened))
    return parse_pattern(locale.date_formats["long"])


@lru_cache(maxsize=1024)
def _city(key: str, locale: str) -> str:
    if "/" not in key or key.startswith("Etc/"):
        return ""
    return get_timezone_location(ZoneInfo(key), locale=locale, return_city=True)


@lru_cache(maxsize=1024)
def _zone(name: str) -> tzinfo:
    """The zone, or UTC when its name is no zone: the mail then says "UTC", which is true."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return UTC
