"""Hands the descriptor of a seccomp filter's notifications to the agent that answers them.

    init                         parent                            agent, at linux.seccomp.listenerPath
     | seccomp(NEW_LISTENER)        |                                     |
     |-- its descriptor ----------->|                                     |
     |                              |-- connect; one message: JSON, fd -->|
     |                              |-- end of file --------------------->|
     |<- go on ---------------------|                                     |

The parent does it and not init: the path is the host's, and init's own calls may be held by then.

Source: OCI runtime specification, config-linux.md#containerprocessstate.
"""

import json
import os
import socket
import struct

from berth.errors import StartFailed

_TIMEOUT_S = 10
_MAX_SUN_PATH = 107  # sizeof(sockaddr_un.sun_path) less the NUL


def send_listener(listener_path: str, listener_fd: int, state: dict, metadata: str, container_pid: int) -> None:
    """Sends the container process state with `listener_fd` (which stays the caller's) to the agent.

    state: the container's OCI state. metadata: listenerMetadata, as it is. container_pid: as the
    caller's pid namespace has it. Raises StartFailed.
    """
    message = {
        "ociVersion": state.get("ociVersion", ""),
        "fds": ["seccompFd"],
        "pid": container_pid,
        **({"metadata": metadata} if metadata else {}),
        "state": state,
    }
    data = memoryview(json.dumps(message).encode())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as agent:
        # The kernel's own limit: a connect(2) that does not block would fail at once where the queue is full.
        agent.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _TIMEOUT_S, 0))
        try:
            _connect(agent, listener_path)
        except (OSError, ValueError) as error:
            raise StartFailed(
                f"linux.seccomp.listenerPath: cannot connect to {listener_path!r}: {_why(error)}; "
                "the agent that answers SCMP_ACT_NOTIFY must listen there before the container starts"
            ) from None
        try:
            # The descriptor goes with the first byte; a message larger than the socket's buffer takes several calls.
            sent = socket.send_fds(agent, [data], [listener_fd], socket.MSG_NOSIGNAL)
            agent.sendall(data[sent:])
        except OSError as error:
            raise StartFailed(
                f"linux.seccomp.listenerPath: the agent at {listener_path!r} does not take the listener: {_why(error)}"
            ) from None


def _connect(agent: socket.socket, path: str) -> None:
    if len(os.fsencode(path)) <= _MAX_SUN_PATH:
        agent.connect(path)
        return
    # Too long for an address: the file is held open and named by its descriptor.
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        agent.connect(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _why(error: Exception) -> str:
    if isinstance(error, BlockingIOError):
        return f"it has not answered for {_TIMEOUT_S} s"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there, or it is not a socket"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
