from __future__ import annotations

import pytest

from monitor.cli.exits import Exit, code_of, worst
from monitor.errors import (
    ConfigError,
    MailError,
    ProviderAuthError,
    ProviderUnavailableError,
    StoreClosedError,
    StoreError,
)


@pytest.mark.parametrize(
    ("codes", "wins"),
    [((), 0), ((0, 0), 0), ((0, 1), 1), ((1, 3), 3), ((3, 2, 1), 2), ((1, 2), 2)],
)
def test_configuration_wins_over_held_and_held_over_failed(codes, wins):
    assert worst(codes) == wins


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a"), Exit.CONFIG),
        (ProviderAuthError("a refused key is a setting to mend"), Exit.CONFIG),
        (ProviderUnavailableError("a"), Exit.FAILURES),
        (StoreError("a"), Exit.FAILURES),
        (StoreClosedError("a role without rights is one too"), Exit.CONFIG),
        (MailError("a"), Exit.FAILURES),
    ],
)
def test_what_the_operator_must_mend_is_2_and_everything_else_1(error, code):
    assert code_of(error) == code
