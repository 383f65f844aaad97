"""Watches a web view's stream many times over, for web_load.py: reads "on" and "off", and prints at each "off" what
each viewer got.

    python scripts/web_viewers.py PORT VIEWERS

The last viewer never reads. It imports nothing heavy: starting it shouldn't cost what it is to measure.
"""

from __future__ import annotations

import asyncio
import json
import sys


async def main(port: int, viewers: int) -> None:
    """Until standard input ends."""
    counts = [0] * viewers
    tasks: list[asyncio.Task[None]] = []

    async def one(index: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if index == viewers - 1 and viewers > 1:
                await asyncio.Event().wait()
            while data := await reader.read(1 << 16):
                counts[index] += data.count(b"\r\n--frame\r\n")
        finally:
            writer.close()

    while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if word == "on":
            counts[:] = [0] * viewers
            tasks = [asyncio.create_task(one(index)) for index in range(viewers)]
            continue
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
