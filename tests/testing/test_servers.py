"""The store servers of the conformance kit are real."""

import asyncpg
from redis.asyncio import Redis


async def test_redis_answers_and_runs_functions(redis_url):
    async with Redis.from_url(redis_url) as redis:
        assert await redis.eval("return redis.call('incr', KEYS[1])", 1, "gwcore-test:once") >= 1


async def test_postgres_is_real_and_the_database_is_empty(postgres_url):
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval("select count(*) from pg_tables where schemaname = 'public'") == 0
        assert "PostgreSQL" in await connection.fetchval("select version()")
    finally:
        await connection.close()
