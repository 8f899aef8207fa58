"""Makes `mail.png`, the picture in the README: one real mail, light and dark, as a browser shows it.

Run it after the mails have changed: `python docs/pictures/make_mail_picture.py`. It needs chromium and playwright.
"""

from __future__ import annotations

import base64
import html
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from monitor.domain.model import Kind
from monitor.mail.render import Renderer
from monitor.mail.samples import sample

TARGET = Path(__file__).with_name("mail.png")
LARGEST = 150_000
MAIL_WIDTH, MAIL_HEIGHT = 660, 800  # wide enough for the card, high enough for the figures
SHOWN_WIDTH = 500
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def main() -> int:
    """Write the picture; 1 when chromium is missing or the picture is too large for a README."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.stderr.write("chromium is not installed: apt-get install chromium\n")
        return 1
    mail = Renderer().render(sample(Kind.PAYMENT_FAILED, "allowance_exhausted")).html
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        halves = [_shot(browser, mail, scheme) for scheme in ("light", "dark")]
        page = browser.new_page(viewport={"width": 2 * SHOWN_WIDTH, "height": SHOWN_WIDTH * MAIL_HEIGHT // MAIL_WIDTH})
        page.set_content(_side_by_side(halves))
        page.screenshot(path=TARGET)
        browser.close()
    size = TARGET.stat().st_size
    sys.stdout.write(f"{TARGET.name}: {size} bytes\n")
    return 0 if size <= LARGEST else 1


def _shot(browser, mail: str, scheme: str) -> str:
    """The top of the mail as a data address; no network is involved."""
    page = browser.new_page(viewport={"width": MAIL_WIDTH, "height": MAIL_HEIGHT}, color_scheme=scheme)
    page.set_content(mail)
    picture = page.screenshot()
    page.close()
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def _side_by_side(pictures: list[str]) -> str:
    images = "".join(f'<img src="{html.escape(picture)}" width="{SHOWN_WIDTH}">' for picture in pictures)
    return f'<body style="margin:0;display:flex">{images}</body>'


if __name__ == "__main__":
    raise SystemExit(main())
