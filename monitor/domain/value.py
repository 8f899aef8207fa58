"""Plain values, of which a sweep makes a dozen a row: frozen for whoever writes code, quick where the program runs.

A dataclass that is frozen at run time too sets each field by a call: a first sync spent an eighth of its time on that.
So the type checker, which reads all of the product, is who refuses an assignment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["value"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:
    from dataclasses import dataclass

    def value(*, frozen: bool, slots: bool) -> object:
        """`dataclass`, whose instances are hashed as frozen ones are."""
        return dataclass(unsafe_hash=frozen, slots=slots)
