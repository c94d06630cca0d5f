"""Landlock: with the host's network a container must not reach the host's abstract unix sockets."""

import ctypes
import os
import socket
from collections.abc import Iterator

import pytest
from harness import Engine

_CREATE_RULESET, _VERSION, _SCOPES_SINCE_ABI = 444, 1, 6
_ABI = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, _VERSION)
_NAME = f"berth-test-{os.getpid()}"
_CONNECT = f"import socket; socket.socket(socket.AF_UNIX).connect(b'\\0{_NAME}'); print('connected')"
_PYTHON = ["-v", "/usr:/usr:ro", "-v", "/lib:/lib:ro", "-v", "/lib64:/lib64:ro", "bb", "/usr/bin/python3", "-I", "-S", "-c", _CONNECT]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(_ABI < _SCOPES_SINCE_ABI, reason=f"the kernel's Landlock has ABI {_ABI}; scopes came with 6"),
    pytest.mark.skipif(not os.path.exists("/usr/bin/python3"), reason="the container borrows the host's /usr/bin/python3"),
]


@pytest.fixture
def abstract_socket() -> Iterator[None]:
    """A listener on the host, such as containerd's shim once was (CVE-2020-15257)."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{_NAME}")
        listener.listen()
        yield


def test_hosts_abstract_sockets_are_out_of_reach(engine: Engine, abstract_socket: None) -> None:
    done = engine.docker("run", "--rm", "--network", "host", *_PYTHON, code=1)
    assert "PermissionError" in done.stderr


def test_unless_a_person_opts_out(engine: Engine, abstract_socket: None) -> None:
    done = engine.docker("run", "--rm", "--network", "host", "--security-opt", "landlock=unconfined", *_PYTHON)
    assert done.stdout == "connected\n"


def test_another_network_namespace_has_names_of_its_own(engine: Engine, abstract_socket: None) -> None:
    done = engine.docker("run", "--rm", "--network", "none", *_PYTHON, code=1)
    assert "ConnectionRefusedError" in done.stderr
