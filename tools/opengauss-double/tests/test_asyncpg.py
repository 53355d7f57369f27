"""asyncpg logs in, asks for types, and meets openGauss's oddities."""

from __future__ import annotations

import asyncio

import pytest

from opengauss_double import Accounts
from opengauss_double.plugin import OpenGauss, OpenGaussFactory

asyncpg = pytest.importorskip("asyncpg")  # the extra `drivers`
pytestmark = pytest.mark.integration


async def test_asyncpg_reads_and_writes(gauss: OpenGauss) -> None:
    connection = await asyncpg.connect(gauss.url.partition("?")[0], ssl=False)
    try:
        assert connection.get_server_version()[:2] == (9, 2)
        await connection.execute("CREATE TEMP TABLE t (a int, m mood, n text[])")
        await connection.executemany("INSERT INTO t VALUES ($1, $2, $3)", [(1, "glad", ["a"]), (2, "glad", None)])
        rows = await connection.fetch("SELECT * FROM t WHERE a = ANY($1::int[]) ORDER BY a", [1, 2])
        assert [tuple(row) for row in rows] == [(1, "glad", ["a"]), (2, "glad", None)]
        with pytest.raises(asyncpg.PostgresSyntaxError, match="CONFLICT"):
            await connection.execute("INSERT INTO sample (id) VALUES ($1) ON CONFLICT DO NOTHING", 1)
        async with connection.transaction():
            with pytest.raises(asyncpg.UndefinedFunctionError):
                async with connection.transaction():
                    await connection.fetch("SELECT gen_random_uuid()")
            assert await connection.fetchval("SELECT 1") == 1
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="LISTEN statement is not yet supported"):
            await connection.add_listener("channel", print)
    finally:
        await connection.close()


async def test_a_pool_of_asyncpg_cannot_reset(gauss: OpenGauss) -> None:
    pool = await asyncpg.create_pool(gauss.url.partition("?")[0], ssl=False, min_size=1, max_size=1)
    connection = await pool.acquire()
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="UNLISTEN statement is not yet supported"):
        await pool.release(connection)
    await asyncio.wait_for(pool.close(), 30)


async def test_asyncpg_and_a_sha256_account(opengauss: OpenGaussFactory) -> None:
    accounts = Accounts(password_encryption_type=2, hba="sha256")
    accounts.set_password("postgres", "Right#2024")
    made = opengauss("7.0", accounts=accounts)
    with pytest.raises(asyncpg.InterfaceError, match="unsupported SASL"):
        await asyncpg.connect(made.url.partition("?")[0], ssl=False)
