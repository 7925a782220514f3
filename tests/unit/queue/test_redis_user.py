"""The published dashboard's user of Redis, by the rule of docker-compose.yml: it reads our keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from tests.compose_redis import ComposeRedis, running_redis
from tests.conftest import REDIS_EXECUTABLE

# The embedded one is a 6.2, the oldest that we run on; the machine's own may be newer.
INSTALLED = Path("/usr/bin/redis-server")
NEED_NO_PERMISSION = {"auth", "hello", "quit", "reset"}
READS = {"ping", "exists", "get", "hgetall", "smembers", "zrangebyscore"}


@pytest.fixture(scope="module", params=[REDIS_EXECUTABLE, *filter(Path.exists, [INSTALLED])])
def redis(request: pytest.FixtureRequest) -> Iterator[ComposeRedis]:
    with running_redis(request.param) as server:
        yield server


def test_the_dashboards_redis_user_may_read_our_keys_and_do_nothing_else(
    redis: ComposeRedis,
) -> None:
    ours = Redis.from_url(redis.url)
    theirs = Redis.from_url(redis.dashboard_url)
    ours.set("tightloop:clock", 5)
    ours.set("elsewhere", 5)
    assert theirs.get("tightloop:clock") == b"5"
    for key in ("elsewhere", "tightloop", "rq"):
        with pytest.raises(NoPermissionError):
            theirs.get(key)
    before = ours.dbsize()
    allowed = set()
    commands = {name.lower(): facts for name, facts in ours.command().items()}
    assert {"set", "del", "lpush", "eval", "config", "keys", "publish", "acl"} < set(commands)
    for name in set(commands) - NEED_NO_PERMISSION:
        arity = abs(commands[name]["arity"])
        own = [row[0].decode().split("|")[1] for row in commands[name].get("subcommands", ())]
        for second in own or ["rq:queue:train"]:
            arguments = [second, *["rq:queue:train"] * 8][: max(arity - 1, len(own[:1]))]
            if is_allowed(theirs, name, *arguments):
                allowed.add(name)
    assert allowed == READS
    assert ours.dbsize() == before


def is_allowed(connection: Redis, *command: str) -> bool:
    """Tell whether Redis lets this user run a command, even if its arguments are wrong."""
    try:
        connection.execute_command(*command)  # type: ignore[no-untyped-call]
    except RedisError as error:
        if re.search("no permission|command not allowed", str(error)):
            return False
        # Redis checks a subcommand first, which may need more arguments than its command.
        return "wrong number of arguments" not in str(error) or is_allowed(
            connection, *command, "rq:queue:train"
        )
    return True


def test_the_dashboards_redis_user_is_refused_with_a_wrong_password(redis: ComposeRedis) -> None:
    for login in ("dashboard:wrong", "dashboard:redis-pass", ":reader-pass", ":"):
        with pytest.raises(RedisError):
            Redis.from_url(f"unix://{login}@{redis.socket}").get("tightloop:clock")
