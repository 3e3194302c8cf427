"""A real HTTP proxy that holds back every request for a while and counts them.

    python slow_proxy.py PORT SECONDS

forwards to 127.0.0.1:PORT and prints the port it listens on. Many connections at once are
served side by side, so that the delay is latency and not a queue. `GET /_requests` answers what
was asked since the last such call, and how many requests were under way at once.
"""

from __future__ import annotations

import asyncio
import json
import sys

CHUNK_BYTES = 2**18


class Proxy:
    def __init__(self, port: int, seconds: float) -> None:
        self.port, self.seconds = port, seconds
        self.lines: list[str] = []
        self.under_way = self.most_under_way = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is done, or gone
        finally:
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection can take another."""
        head = await reader.readuntil(b"\r\n\r\n")
        line = head.split(b"\r\n", 1)[0].decode().rpartition(" ")[0]
        body = await reader.readexactly(int(field(head, b"content-length") or 0))
        if line == "GET /_requests":
            counts = json.dumps({"lines": self.lines, "at_once": self.most_under_way}).encode()
            self.lines, self.most_under_way = [], self.under_way
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(counts) + counts)
            await writer.drain()
            return True
        self.lines.append(line)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.seconds)
            return await self.forward(head, body, writer, bodiless=line.startswith("HEAD "))
        finally:
            self.under_way -= 1

    async def forward(self, head: bytes, body: bytes, writer: asyncio.StreamWriter, *,
                      bodiless: bool) -> bool:
        lines = [part for part in head.split(b"\r\n")
                 if not part.lower().startswith(b"connection:")]
        lines.insert(1, b"Connection: close")
        server, out = await asyncio.open_connection("127.0.0.1", self.port, limit=CHUNK_BYTES)
        try:
            out.write(b"\r\n".join(lines) + body)
            answer = await server.readuntil(b"\r\n\r\n")
            kept = [part for part in answer.split(b"\r\n")
                    if not part.lower().startswith(b"connection:")]
            goes_on = bodiless or field(answer, b"content-length") is not None
            if not goes_on:
                kept.insert(1, b"Connection: close")
            writer.write(b"\r\n".join(kept))
            while not bodiless and (part := await server.read(CHUNK_BYTES)):
                writer.write(part)
                await writer.drain()
            await writer.drain()
        finally:
            out.close()
        return goes_on


def field(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return None


async def main(port: int, seconds: float) -> None:
    server = await asyncio.start_server(Proxy(port, seconds).serve, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
