"""The resolver: one process that answers the containers' questions for names; it outlives its engine.

    python -I <the berth package's network/resolver.py> SOCKET_FD EXEC_ROOT

SOCKET_FD is connected to the engine that started it; a later engine finds it at EXEC_ROOT/resolver.sock. It ends once no
engine is connected and it has no container's sockets. It runs in the host's namespaces, so that servers on the host's
loopback interface are reached, and reads what containers send: so it gives up every capability before it does.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

NAME = "berth-resolver"


def command(python: str, socket_fd: int, exec_root: str) -> list[str]:
    """How to start it."""
    return [python, "-I", __file__, str(socket_fd), exec_root]


def main(argv: list[str]) -> int:
    """Entry point; what it needs is imported here, as the engine imports this module."""
    from berth.linux import libc

    libc.set_process_name(NAME)  # first: the rest takes a while
    from berth.network.dns import process

    return process.main(int(argv[1]), argv[2])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
