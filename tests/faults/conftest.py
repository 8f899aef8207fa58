"""What the fault tests share: one warm parent of workers a test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.rig.scene import Forge


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    """Forks workers that have everything imported."""
    parent = Forge()
    yield parent
    parent.close()
