"""The resolver: one process that answers the containers' questions for names; it outlives its engine.

    python -I <the berth package's network/resolver.py> SOCKET_FD EXEC_ROOT
"""

NAME = "berth-resolver"


def command(python: str, socket_fd: int, exec_root: str) -> list[str]:
    """How to start it."""
    return [python, "-I", __file__, str(socket_fd), exec_root]
