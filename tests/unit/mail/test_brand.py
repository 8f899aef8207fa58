"""A merchant's colour made safe."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.mail.brand import ACCENT, CARD_DARK, CARD_LIGHT, contrast, palette
from tests.scale import sized

EXAMPLES = [
    # brand, fill, ink, ratio, edge on light, edge on dark: the examples of the design
    ("#3456d1", "#3456d1", "#ffffff", 6.2, "#3456d1", "#3c60db"),
    ("#ffd400", "#ffd400", "#10141a", 12.9, "#ad900e", "#ffd400"),
    ("#ff6b00", "#ff6b00", "#10141a", 6.5, "#f56808", "#ff6b00"),
    ("#e6007e", "#e6007e", "#ffffff", 4.5, "#e6007e", "#e6007e"),
    ("#7a7a7a", "#747474", "#ffffff", 4.7, "#747474", "#747474"),
    ("#ffffff", "#ffffff", "#10141a", 18.5, "#929292", "#ffffff"),
]


@pytest.mark.parametrize(("brand", "fill", "ink", "ratio", "light", "dark"), EXAMPLES)
def test_the_computed_examples_come_out_as_designed(brand, fill, ink, ratio, light, dark):
    made = palette(brand)
    assert (made.bar, made.fill, made.ink) == (brand, fill, ink)
    assert (made.edge_light, made.edge_dark) == (light, dark)
    assert round(contrast(made.fill, made.ink), 1) == ratio


@pytest.mark.no_cover  # traced, it would take twice as long and find nothing new
@settings(max_examples=sized(1_000, 60), deadline=None)
@given(st.integers(0, 0xFFFFFF))
def test_any_colour_gives_legal_ratios_and_keeps_the_bar(number):
    brand = f"#{number:06x}"
    made = palette(brand)
    assert made.bar == brand
    assert contrast(made.fill, made.ink) >= 4.5
    assert contrast(made.edge_light, CARD_LIGHT) >= 3
    assert contrast(made.edge_dark, CARD_DARK) >= 3
    assert contrast(made.link_light, CARD_LIGHT) >= 4.5
    assert contrast(made.link_dark, CARD_DARK) >= 4.5


@pytest.mark.parametrize("color", ["", "blue", "#fff", "#12345g", "#1234567", "#3456d1;x", "javascript:alert(1)"])
def test_a_malformed_colour_counts_as_our_accent(color):
    assert palette(color) == palette(ACCENT)


def test_black_and_white_stay_readable_at_the_far_end():
    assert contrast(palette("#000000").edge_dark, CARD_DARK) >= 3
    assert contrast(palette("#ffffff").link_light, CARD_LIGHT) >= 4.5
