"""The least that reading rows one by one can take: so many at once with httpx's client, every answer thrown away.

python -m benchmarks.read_bare BASE KEY IDS AT_ONCE
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import httpx

from benchmarks.measure import tell, timed


async def main(base: str, key: str, wanted: list[str], at_once: int) -> None:
    """Raise for any answer that is no 200."""
    todo = iter(wanted)
    async with httpx.AsyncClient(headers={"X-API-Key": key}, trust_env=False) as client:

        async def work() -> None:
            for ext_id in todo:
                (await client.get(f"{base}/v1/transaction/subscription/{ext_id}")).raise_for_status()

        with timed() as took:
            await asyncio.gather(*(work() for _ in range(at_once)))
    tell(len(wanted), took)


if __name__ == "__main__":
    served, key, file, number = sys.argv[1:]
    asyncio.run(main(served, key, Path(file).read_text(encoding="utf-8").splitlines(), int(number)))
