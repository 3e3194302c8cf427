"""An SSH server of this user on a port of 127.0.0.1: `python ssh_server.py FOLDER`.

Takes the key FOLDER/client alone, runs what it is asked to, and writes FOLDER/port.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncssh


async def carry_out(process):
    """Run one command as sshd would; it ends with its connection, or with this server."""
    started = await asyncio.create_subprocess_shell(
        process.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True)
    try:
        ended = asyncio.gather(copy(started.stdout, process.stdout),
                               copy(started.stderr, process.stderr), started.wait())
        gone = asyncio.ensure_future(process.wait_closed())
        await asyncio.wait([ended, gone], return_when=asyncio.FIRST_COMPLETED)
        if not gone.done():
            process.exit(started.returncode)
    finally:
        if started.returncode is None:
            os.killpg(started.pid, signal.SIGTERM)


async def copy(source, target):
    while some := await source.read(2**16):
        with contextlib.suppress(BrokenPipeError):
            target.write(some)


async def serve(folder):
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[str(folder / "host")], process_factory=carry_out,
        authorized_client_keys=str(folder / "client.pub"), encoding=None)
    (folder / "port.tmp").write_text(str(server.get_port()))
    (folder / "port.tmp").rename(folder / "port")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()


def make_keys(folder):
    for name in ("host", "client"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(folder / name))
        key.write_public_key(str(folder / f"{name}.pub"))


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
