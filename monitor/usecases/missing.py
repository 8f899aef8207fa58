"""What to say of something that nobody knows: always the same, with the command that lists what there is."""

from __future__ import annotations

from collections.abc import Sequence

from monitor.errors import NotFoundError


def no_account(name: str) -> NotFoundError:
    """Of an account without a first run."""
    return NotFoundError(f"nothing is known of account {name} yet: run `monitor run` first")


def no_batch(batch_id: int) -> NotFoundError:
    """Of a batch."""
    return NotFoundError(f"there is no batch {batch_id}: `monitor outbox batches` lists them")


def no_run(run_id: int) -> NotFoundError:
    """Of a run."""
    return NotFoundError(f"there is no run {run_id}: `monitor runs list` shows them")


def no_mail(asked: str, found: Sequence[str]) -> NotFoundError:
    """Of a mail that is named by the beginning of its id, which may be that of several (`found`)."""
    what = f"several mails begin with {asked}: name more of the id" if found else f"there is no mail {asked!r}"
    return NotFoundError(f"{what}; `monitor outbox list` shows ids")
