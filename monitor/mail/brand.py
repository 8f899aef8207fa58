"""A merchant's colour made safe: every pair of colours a mail prints is readable, whatever was configured.

Work is done in OKLCH: the hue stays, lightness moves in steps of 0.01, chroma gives way where the screen has no such
colour. Ratios are WCAG 2.2 contrast: 4.5:1 for text, 3:1 for the edge of a control (SC 1.4.3, 1.4.11).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from markupsafe import Markup

ACCENT = "#2456c9"
INK_LIGHT = "#ffffff"
INK_DARK = "#10141a"
CARD_LIGHT = "#ffffff"
CARD_DARK = "#1b2027"
TEXT_RATIO = 4.5
EDGE_RATIO = 3.0

_HEX = re.compile(r"#[0-9a-fA-F]{6}")
_LIGHTNESS_STEP = 0.01
_CHROMA_STEP = 0.004

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours as six-digit hex, fit for HTML as they are. `edge_*` is `fill` where the button stands out by itself."""

    bar: Markup
    fill: Markup
    ink: Markup
    edge_light: Markup
    edge_dark: Markup
    link_light: Markup
    link_dark: Markup


def is_color(text: str) -> bool:
    """Whether a mail can be made in this colour."""
    return _HEX.fullmatch(text) is not None


@lru_cache(maxsize=1024)
def palette(color: str) -> Palette:
    """The colours made of a brand's colour; anything but `#rrggbb` counts as our accent."""
    brand = color.lower() if is_color(color) else ACCENT
    ink = next((ink for ink in (INK_LIGHT, INK_DARK) if contrast(brand, ink) >= TEXT_RATIO), INK_LIGHT)
    fill = _moved(brand, INK_LIGHT, TEXT_RATIO, darker=True) if ink == INK_LIGHT else brand
    colors = {
        "bar": brand,
        "fill": fill,
        "ink": ink,
        "edge_light": _moved(fill, CARD_LIGHT, EDGE_RATIO, darker=True),
        "edge_dark": _moved(fill, CARD_DARK, EDGE_RATIO, darker=False),
        "link_light": _moved(brand, CARD_LIGHT, TEXT_RATIO, darker=True),
        "link_dark": _moved(brand, CARD_DARK, TEXT_RATIO, darker=False),
    }
    return Palette(**{name: Markup(color) for name, color in colors.items()})  # noqa: S704  # hexadecimal digits of ours


def contrast(one: str, other: str) -> float:
    """The WCAG 2.2 contrast ratio of two `#rrggbb` colours, 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _moved(color: str, against: str, ratio: float, *, darker: bool) -> str:
    """`color` itself if it reaches `ratio`, else the nearest lightness that does; black or white at the far end."""
    lightness, a, b = _oklab(color)
    moved = color
    while contrast(moved, against) < ratio and lightness != (0.0 if darker else 1.0):
        lightness += -_LIGHTNESS_STEP if darker else _LIGHTNESS_STEP
        lightness = min(1.0, max(0.0, lightness))
        moved = _hex(lightness, a, b)
    return moved


def _luminance(color: str) -> float:
    red, green, blue = _linear(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(color: str) -> Triple:
    red, green, blue = (_to_linear(int(color[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return red, green, blue


def _to_linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)


def _to_gamma(part: float) -> float:
    return part * 12.92 if part <= 0.0031308 else float(1.055 * part ** (1 / 2.4) - 0.055)


def _oklab(color: str) -> Triple:
    """OKLab by its published matrices (Ottosson, 2020)."""
    red, green, blue = _linear(color)
    long = (0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue) ** (1 / 3)
    mid = (0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue) ** (1 / 3)
    short = (0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * mid - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * mid + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * mid - 0.8086757660 * short,
    )


def _rgb(lightness: float, a: float, b: float) -> Triple:
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    mid = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * mid + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * mid - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * mid + 1.7076147010 * short,
    )


def _hex(lightness: float, a: float, b: float) -> str:
    """The nearest colour of this lightness and hue that a screen can show."""
    chroma = math.hypot(a, b)
    kept = chroma
    parts = _rgb(lightness, a, b)
    while kept > 0 and not all(-1e-4 <= part <= 1 + 1e-4 for part in parts):
        kept = max(0.0, kept - _CHROMA_STEP)
        parts = _rgb(lightness, a * kept / chroma, b * kept / chroma)
    return "#" + "".join(f"{round(255 * _to_gamma(min(1.0, max(0.0, part)))):02x}" for part in parts)
