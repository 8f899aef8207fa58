"""Products and tokens, whose prices and decimals mails need to name amounts, and since when they cannot be read."""

from __future__ import annotations

from monitor.errors import ProviderError
from monitor.store.accounts import AccountRow, change_account
from monitor.store.catalog import write_currencies, write_products
from monitor.usecases.context import Account, Tools


async def read_prices(tools: Tools, account: Account, row: AccountRow) -> list[str]:
    """Read and keep them; the problems. Without them a mail says less, so an error costs words only.

    Since when they cannot be read stays with the account until they can be: who watches over it tells the operator.
    """
    try:
        products = await account.provider.products()
        currencies = await account.provider.currencies()
    except ProviderError as error:
        problem = str(error)
        since = row.prices_unread_since or tools.clock.now()
        async with tools.db.write() as conn:
            await change_account(conn, row.id, prices_unread_since=since, prices_problem=problem)
        return [f"products: {problem}"]
    async with tools.db.write() as conn:
        await write_products(conn, row.id, products)
        await write_currencies(conn, row.id, currencies)
        if row.prices_unread_since is not None:
            await change_account(conn, row.id, prices_unread_since=None, prices_problem=None)
    return []
