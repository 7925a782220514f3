"""Keep many connections open while sending almost nothing, as an attacker would.

    python -m scripts.research.idle_connections http://127.0.0.1:9090 headers --count 500

The benchmark and the tests use this command. It replaces each connection that the server closes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from backend.base.command_line import CommandParser, run

BYTE_EVERY_S = 1.0
REOPEN_AFTER_S = 0.2
# What each kind of connection sends first; the rest of the request follows at one byte per second.
KINDS = {
    "headers": b"POST /webhook HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    "body": b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000000\r\n\r\n",
    "nothing": b"",
}


def main() -> int:
    """Keep the connections open, then print how many were opened and how many were refused."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("url", help="the address of a server on this machine")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    address = urlsplit(arguments.url)
    host = "127.0.0.1" if address.hostname == "localhost" else address.hostname or ""
    if not ip_address(host).is_loopback:
        print("the server's address must be a loopback address", file=sys.stderr)
        return 1
    end = time.monotonic() + arguments.seconds
    tally = asyncio.run(hold(host, address.port or 80, arguments.kind, arguments.count, end))
    print(", ".join(f"{event} {number}" for event, number in sorted(tally.items())))
    return 0


async def hold(host: str, port: int, kind: str, count: int, end: float) -> Counter[str]:
    """Hold `count` connections of a kind until `end` (monotonic time); return counts of events."""
    tally: Counter[str] = Counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(_hold_one(host, port, kind, end, tally))
    return tally


async def _hold_one(host: str, port: int, kind: str, end: float, tally: Counter[str]) -> None:
    while time.monotonic() < end:
        with suppress(OSError):
            try:
                async with asyncio.timeout(10):
                    reader, writer = await asyncio.open_connection(host, port)
            except TimeoutError:
                tally["not accepted"] += 1
                continue
            tally["opened"] += 1
            try:
                writer.write(KINDS[kind])
                while time.monotonic() < end and not reader.at_eof():
                    if kind != "nothing":
                        writer.write(b"x")
                    with suppress(TimeoutError):
                        async with asyncio.timeout(BYTE_EVERY_S):
                            await reader.read(1 << 16)
            finally:
                writer.close()
        await asyncio.sleep(REOPEN_AFTER_S)


if __name__ == "__main__":
    run(main)
