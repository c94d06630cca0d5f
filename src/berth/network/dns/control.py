"""What engine and resolver tell each other: one JSON object a message, on a SEQPACKET socket, sockets beside it.

    engine ── hello {version} ──▶ resolver            at the start of a connection to one that was there before
        ◀── sandbox {id} + its sockets (+ pidfd) ──   for each one that it has
        ◀── end {version} ──
           ── sync ──▶
    engine ── network, unnetwork, endpoint, unendpoint, add + sockets, set + sockets, watch + pidfd, remove ──▶
           ── synced ──▶                              what was not named since sync is dropped
           ── ping, stats ──▶
        ◀── reply ──
           ── leave ──▶                               end now: somebody else has the sockets

Of these a later version may not change `hello`, `sandbox`, `end` and `leave`: by them it takes the sockets over from an
earlier one.
"""

import json
import os
import socket
from collections.abc import Sequence

from berth import VERSION as RELEASE
from berth.linux import sockets

VERSION = f"{RELEASE} 1"  # one of another version is replaced: its messages may be others, and it may have faults that are mended
MAX_MESSAGE_BYTES = 128 * 1024
MAX_FDS = 3
SOCKET_NAME = "resolver.sock"


def encode(operation: str, **fields: object) -> bytes:
    return json.dumps({"op": operation, **fields}, separators=(",", ":")).encode()


def receive(sock: socket.socket) -> tuple[dict, list[int]]:
    """The next message and the descriptors that came with it, which are the caller's; ({}, []) at the end.

    Raises BlockingIOError where there is none yet, ValueError for what is none.
    """
    data, fds, whole = sockets.receive_checked(sock, MAX_MESSAGE_BYTES, MAX_FDS, wait=False)
    try:
        if not data:
            raise EOFError
        message = json.loads(data)
        if not whole or not isinstance(message, dict):
            raise ValueError(f"not a message: {data[:80]!r}")
        return message, fds
    except (EOFError, ValueError) as error:
        close_all(fds)
        if isinstance(error, EOFError):
            return {}, []
        raise


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
