"""Every mail in a real browser: narrow and wide, light and dark, without CSS."""

import re
from pathlib import Path

import pytest

from monitor.domain.model import Kind
from monitor.mail.brand import contrast
from monitor.mail.render import Renderer
from monitor.mail.samples import VARIANTS, sample, steps_of

CHROMIUM = next((path for path in map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser")) if path.exists()), None)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
LONG_LINK = "https://pay.qbitflow.app/subscriptions/" + "0123456789abcdef" * 8
WITHOUT_A_BUTTON = {Kind.CANCELLED, Kind.STOPPED, Kind.PAUSED, Kind.RECOVERED}
WITHOUT_A_BUTTON |= {Kind.SUBSCRIPTION_CREATED, Kind.PAYMENT_SUCCEEDED, Kind.PAYMENT_PENDING_LONG}
MAILS = [(kind, variant, steps_of(kind)[-1]) for kind in Kind for variant in VARIANTS[kind]]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.no_cover,  # traced, it would take longer and find nothing new
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def renderer():
    return Renderer()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def opened(browser):
    """Open HTML at a width and a colour scheme; any request to a network fails the test."""
    pages = []

    def open_page(html, width=800, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 700}, color_scheme=scheme)
        pages.append(page)
        page.on("request", lambda request: pytest.fail(f"the mail asks for {request.url}"))
        page.set_content(html)
        return page

    yield open_page
    for page in pages:
        page.close()


@pytest.mark.parametrize(("kind", "variant", "step"), MAILS)
def test_nothing_scrolls_sideways_on_the_narrowest_phone(opened, renderer, kind, variant, step):
    from dataclasses import replace

    letter = replace(
        sample(kind, variant, step), manage_link=LONG_LINK, product="Donaudampfschifffahrtsgesellschaft Plan"
    )
    page = opened(renderer.render(letter).html, width=320)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("width", [360, 800])
def test_one_button_is_large_enough_to_be_touched_or_there_is_none(opened, renderer, kind, width):
    rendered = renderer.render(sample(kind))
    page = opened(rendered.html, width=width)
    buttons = page.locator("a.press")
    if kind in WITHOUT_A_BUTTON:
        assert buttons.count() == 0
        return
    box = page.locator("td.face").bounding_box()
    assert buttons.count() == 1
    assert box["height"] >= 44
    assert box["y"] < 700
    assert width != 360 or box["width"] >= 320


def color(page, selector, name):
    found = page.eval_on_selector(selector, f"(e) => getComputedStyle(e).{name}")
    parts = [int(part) for part in re.findall(r"\d+", found)[:3]]
    return "#" + "".join(f"{part:02x}" for part in parts)


@pytest.mark.parametrize(
    ("scheme", "page_color", "card", "text", "muted"),
    [("light", "#f1f3f6", "#ffffff", "#171b22", "#465060"), ("dark", "#12151a", "#1b2027", "#e9ecf1", "#a3adba")],
)
def test_each_scheme_gets_its_palette_and_stays_readable(opened, renderer, scheme, page_color, card, text, muted):
    page = opened(renderer.render(sample(Kind.PAYMENT_FAILED)).html, scheme=scheme)
    assert color(page, ".page", "backgroundColor") == page_color
    assert color(page, ".card", "backgroundColor") == card
    for selector in ("h1", ".lead", ".hello", ".note", ".facts td", ".sender"):
        assert color(page, selector, "color") == text
    for selector in (".facts th", ".address", ".trust", ".foot-inside"):
        assert color(page, selector, "color") == muted
    assert contrast(color(page, ".deadline", "color"), color(page, ".deadline", "backgroundColor")) >= 7
    assert contrast(color(page, ".proof-rows td", "color"), card) >= 4.5


@pytest.mark.parametrize("brand", ["#ffd400", "#111111", "#ffffff", "#e6007e", "no colour"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_button_is_readable_in_every_brands_colour(opened, renderer, brand, scheme):
    from dataclasses import replace

    letter = sample(Kind.PAYMENT_FAILED)
    page = opened(renderer.render(replace(letter, brand=replace(letter.brand, color=brand))).html, scheme=scheme)
    assert contrast(color(page, "a.press", "color"), color(page, "td.face", "backgroundColor")) >= 4.5
    edge = color(page, "td.face", "borderTopColor")
    assert contrast(edge, color(page, ".card", "backgroundColor")) >= 3


@pytest.mark.parametrize("kind", list(Kind))
def test_without_css_it_reads_from_top_to_bottom_as_a_letter(opened, renderer, kind):
    rendered = renderer.render(sample(kind))
    bare = re.sub(r' (?:style|class|bgcolor)="[^"]*"', "", re.sub(r"(?s)<style.*?</style>", "", rendered.html))
    page = opened(bare)
    seen = " ".join(page.inner_text("body").split())
    assert seen.startswith(rendered.preheader)
    order = [
        rendered.preheader,
        "Acme",
        "Hello Anna,",
        "At a glance",
        "Acme billing",
        "How you can tell",
        "You get this because",
    ]
    places = [seen.index(words) for words in order]
    assert places == sorted(places)


@pytest.mark.parametrize("kind", list(Kind))
def test_large_text_still_fits(opened, renderer, kind):
    page = opened(renderer.render(sample(kind)).html, width=360)
    page.add_style_tag(
        content="*{font-size:200% !important;line-height:1.4 !important}.page *{font-size:32px !important}"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 720


def test_the_preheader_is_hidden_where_css_works(opened, renderer):
    page = opened(renderer.render(sample(Kind.PAUSED)).html)
    assert not page.locator(".preheader").is_visible()
