"""Dates, numbers and languages: what a customer reads in their own zone and words."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.assets import shipped
from monitor.domain.model import Kind
from monitor.domain.words import in_digits
from monitor.errors import ConfigError
from monitor.mail.catalog import TARGET, as_text, messages
from monitor.mail.check import check_templates
from monitor.mail.clean import one_line
from monitor.mail.facts import facts_of
from monitor.mail.inline import inline
from monitor.mail.render import Renderer
from monitor.mail.samples import all_samples, sample
from monitor.mail.sources import read_templates
from monitor.mail.wording import NBSP, Wordings, moment

WORDINGS = Wordings(read_templates())
ENGLISH = WORDINGS.of("en")


def told(at, zone="Europe/Budapest", *, deadline=True, wording=ENGLISH):
    return str(moment(at, zone, wording, deadline=deadline))


@pytest.mark.parametrize(
    ("at", "zone", "words"),
    [
        (datetime(2026, 4, 9, 9, 0, tzinfo=UTC), "Europe/Budapest", "Thursday 9 April, 11:00, Budapest time"),
        (
            datetime(2026, 4, 9, 9, 0, 59, 999999, tzinfo=UTC),
            "Europe/Budapest",
            "Thursday 9 April, 11:00, Budapest time",
        ),
        (datetime(2026, 4, 9, 9, 0, tzinfo=UTC), "America/New_York", "Thursday 9 April, 05:00, New York time"),
        (datetime(2026, 4, 9, 9, 0, tzinfo=UTC), "UTC", "Thursday 9 April, 09:00, UTC"),
        (datetime(2026, 4, 9, 9, 0, tzinfo=UTC), "Etc/GMT-3", "Thursday 9 April, 12:00, UTC+03:00"),
        (datetime(2026, 4, 9, 9, 0, tzinfo=UTC), "Asia/Kolkata", "Thursday 9 April, 14:30, Kolkata time"),
        (datetime(2026, 4, 9, 9, 0, tzinfo=UTC), "No/Where", "Thursday 9 April, 09:00, UTC"),
        (datetime(2026, 4, 9, 9, 0, tzinfo=UTC), "../../etc/passwd", "Thursday 9 April, 09:00, UTC"),
        # midnight belongs to the day before, also right after the clocks went forward
        (datetime(2026, 4, 8, 22, 0, 30, tzinfo=UTC), "Europe/Budapest", "Wednesday 8 April, 23:59, Budapest time"),
        (datetime(2026, 4, 8, 22, 1, tzinfo=UTC), "Europe/Budapest", "Thursday 9 April, 00:01, Budapest time"),
        (datetime(2026, 1, 1, 0, 0, tzinfo=UTC), "UTC", "Wednesday 31 December, 23:59, UTC"),
    ],
)
def test_a_deadline_is_told_in_the_customers_zone_and_rounded_to_the_careful_side(at, zone, words):
    assert told(at, zone) == words


def test_a_day_that_is_over_is_not_moved_back_at_midnight():
    assert told(datetime(2026, 4, 8, 22, 0, tzinfo=UTC), deadline=False) == "Thursday 9 April, 00:00, Budapest time"


def test_a_year_is_told_only_where_it_may_be_long_ago():
    assert moment(datetime(2024, 4, 9, 9, tzinfo=UTC), "UTC", ENGLISH, deadline=False).dated == "9 April 2024"


@pytest.mark.parametrize(
    ("locale", "words"),
    [
        ("de", "Donnerstag, 9. April"), ("hu", "április 9., csütörtök"), ("es", "jueves, 9 de abril"),
        ("pl", "czwartek, 9 kwietnia"), ("ja", "4月9日(木曜日)"), ("en_US", "Thursday, April 9"), ("en_GB", "Thursday 9 April"),
    ],
)  # fmt: skip
def test_dates_follow_the_language_and_not_a_pattern_of_ours(locale, words):
    files = {**read_templates(), f"locale/{locale}/LC_MESSAGES/messages.po": 'msgid ""\nmsgstr ""\n'}
    wording = Wordings(files).of(locale)
    assert moment(datetime(2026, 4, 9, 9, tzinfo=UTC), "UTC", wording, deadline=True).date == words


@pytest.mark.parametrize(
    ("value", "digits"),
    [("0", "0"), ("0.00", "0"), ("12", "12"), ("12.5", "12.5"), ("12.50", "12.50"), ("12.00", "12.00"), ("1234567.10", "1234567.10"),
     ("0.050000", "0.05"), ("0.123400", "0.1234"), ("1E-8", "0.00000001"), ("1E+3", "1000"), ("25.000000", "25.00")],
)  # fmt: skip
def test_numbers_can_be_typed_as_they_stand(value, digits):
    assert ENGLISH.number(Decimal(value)) == in_digits(Decimal(value)) == digits


@given(st.decimals(min_value=0, max_value=10**12, places=6))
def test_a_printed_number_is_the_number(value):
    assert Decimal(ENGLISH.number(value)) == value


@pytest.mark.parametrize(
    ("period", "words"),
    [
        (timedelta(days=30), "every 30 days"), (timedelta(days=1), "every day"), (timedelta(hours=36), "every 36 hours"),
        (timedelta(hours=1), "every hour"), (timedelta(minutes=90), "every 90 minutes"), (timedelta(seconds=30), "every minute"),
    ],
)  # fmt: skip
def test_a_period_is_told_in_days_and_never_as_a_month(period, words):
    assert ENGLISH.every(period) == words


def test_amount_and_token_stay_on_one_line():
    assert f"57.16{NBSP}USDC" in Renderer().render(sample(Kind.LOW_ON_FUNDS)).text


# --- catalogs ---


def translated(change, locale="de"):
    """A catalog in which every sentence went through `change`."""
    catalog = messages(read_templates())
    catalog.locale = locale
    for message in catalog:
        if message.id:
            singular = message.id if isinstance(message.id, str) else message.id[0]
            count = catalog.num_plurals if isinstance(message.id, tuple | list) else 1
            message.string = (
                change(singular)
                if count == 1 and isinstance(message.id, str)
                else (change(message.id[1]),) * catalog.num_plurals
            )
    return {**read_templates(), f"locale/{locale}/LC_MESSAGES/messages.po": as_text(catalog)}


def bracketed(text):
    return f"⟦{text}⟧"


@pytest.fixture(scope="module")
def pseudo():
    return Renderer(files=translated(bracketed))


@pytest.mark.parametrize(
    "letter", list(all_samples("de")), ids=lambda letter: f"{letter.kind}-{letter.variant}-{letter.step}"
)
def test_every_sentence_comes_from_the_catalog(pseudo, letter):
    rendered = pseudo.render(letter)
    for part in (rendered.subject, rendered.preheader, rendered.text):
        rest = part
        while (shorter := re.sub(r"⟦[^⟦⟧]*⟧", "", rest)) != rest:
            rest = shorter
        for fact in (letter.brand.name, letter.brand.postal_address, letter.brand.phrase, letter.product, letter.reference or "-",
                     letter.last_bill_tx or "-", letter.payment_link or "-", letter.manage_link or "-", letter.product_link or "-",
                     letter.unsubscribe_url or "-", letter.reply_to, letter.brand.url or "-", "USDC", "USD", "5F0C1-A5277"):  # fmt: skip
            rest = rest.replace(fact, "")
        words = set(re.findall(r"[^\W\d_]{2,}", rest))
        assert words <= {"November", "März", "April", "Mai", "Donnerstag", "Samstag", "Freitag", "Dienstag"}, words


def test_a_mail_in_another_language_says_so(pseudo):
    html = pseudo.render(sample(Kind.PAUSED, locale="de-AT")).html
    assert 'lang="de-AT"' in html


def test_a_translation_that_loses_or_invents_a_placeholder_is_found():
    files = translated(lambda text: text.replace("%(product)s", "%(produkt)s"))
    problems = check_templates(Renderer(files=files))
    assert problems
    assert any("produkt" in problem.message for problem in problems)


def test_right_to_left_mails_turn_around():
    renderer = Renderer(files=translated(bracketed, "ar"))
    assert check_templates(renderer) == []
    rendered = renderer.render(sample(Kind.PAYMENT_FAILED, locale="ar"))
    assert 'dir="rtl"' in rendered.html
    assert "padding-left:12px" in rendered.html.replace(": ", ":")
    assert "0x7f3a9c…e4c91e" in rendered.html.replace("d3e4c91e", "d3")
    assert "border-right:4px solid #9a7200" in rendered.html.replace(": ", ":")
    assert "\u2068Studio plan\u2069" in rendered.text
    assert not re.search("[\u0660-\u0669]", rendered.text)


def test_an_unknown_locale_is_written_in_english():
    renderer = Renderer()
    for tag in ("xx", "tlh-KX", "", "de", "not a locale", "en-XX"):
        letter = replace(sample(Kind.PAUSED), locale=tag)
        assert "Studio plan is paused" in renderer.render(letter).text


def test_the_committed_catalog_holds_every_sentence():
    committed = (shipped("templates") / TARGET).read_text(encoding="utf-8")
    assert committed == as_text(messages(read_templates())), "run: python -m monitor.mail.catalog"


# --- small parts ---


def test_shipped_files_are_found_in_the_wheel_first_and_missing_ones_are_named(tmp_path):
    (tmp_path / "wheel/templates").mkdir(parents=True)
    (tmp_path / "checkout/templates").mkdir(parents=True)
    (tmp_path / "checkout/config").mkdir()
    places = (tmp_path / "wheel", tmp_path / "checkout")
    assert shipped("templates", places) == tmp_path / "wheel/templates"
    assert shipped("config", places) == tmp_path / "checkout/config"
    with pytest.raises(ConfigError, match="install"):
        shipped("nothing", places)


def test_styles_move_into_elements_and_no_piece_of_a_template_moves():
    source = (
        '<table class="a">\n{% for row in rows %}\n<tr><td class="b" style="color:{{ ink }}">{{ row[0]|e }}</td></tr>\n'
        '{% endfor %}\n</table>\n{% if x > 1 and y < 2 %}<p class="b">{{ "<b>" }}</p>{% endif %}'
    )
    styled, lines = inline(source, ".b{margin:0} .a{width:100%}")
    assert re.findall(r"\{[%{].*?[%}]\}", styled) == re.findall(r"\{[%{].*?[%}]\}", source)
    assert 'style="margin: 0;color: {{ ink }}"' in styled
    for number, line in enumerate(styled.split("\n")):
        for piece in re.findall(r"\{[%{].*?[%}]\}", line):
            assert piece in source.split("\n")[lines[number] - 1]


@pytest.mark.no_cover  # traced, it would take twice as long and find nothing new
@given(st.text(max_size=300), st.integers(3, 80))
def test_a_cleaned_line_is_one_short_visible_line(text, longest):
    line = one_line(text, longest)
    assert len(line) <= longest
    assert "\n" not in line
    assert line == " ".join(line.split())
    assert not set(line) & set("\r\n\0\u2028\u2029\u202e\u2066\u2069\ufeff")
    line.encode("utf-8")


@pytest.mark.parametrize(("year", "known"), [(1, False), (2, False), (3, True)])
def test_an_instant_that_means_never_in_some_zone_is_no_fact(year, known):
    letter = replace(sample(Kind.PAYMENT_FAILED), cancellation_at=datetime(year, 1, 1, tzinfo=UTC))
    assert bool(facts_of(letter, ENGLISH)["cancellation"]) is known
