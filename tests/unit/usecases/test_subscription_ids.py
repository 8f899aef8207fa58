"""Which texts of a merchant's file are ids of subscriptions."""

import pytest

from monitor.usecases.importing import subscription_id

UUID = "0b1f6d3e-7c52-4e0a-9d51-2f6a8c4e1b70"


@pytest.mark.parametrize(
    ("text", "ext_id"),
    [
        (UUID, f"sub@{UUID}"),
        (f"sub@{UUID}", f"sub@{UUID}"),
        (f"payg@{UUID}", f"payg@{UUID}"),
        (f"pay@{UUID}", None),
        (f"{UUID}/x", None),
        ("", None),
    ],
)
def test_a_bare_uuid_is_an_ordinary_subscription_and_a_prefix_is_kept(text, ext_id):
    assert subscription_id(text) == ext_id
