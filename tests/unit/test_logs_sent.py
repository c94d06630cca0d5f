"""syslog and journald: the bytes that a server gets, and servers that do not take them."""

import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.errors import SystemFailure
from berth.runtime import journald, logdrivers, syslog

SETTINGS = {
    "driver": "syslog", "attrs": {}, "scheme": "unixgram", "address": "", "facility": 16, "format": "", "tls": {},
    "host": "here", "tag": "web", "waits": True,
}  # fmt: skip


@pytest.fixture
def server(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "log"))
        sock.settimeout(5)
        yield sock


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("", rb"<134>[A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d web\[\d+\]: hello\n"),
        ("rfc3164", rb"<134>[A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d here web\[\d+\]: hello\n"),
        ("rfc5424", rb"<134>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d here web \d+ web - hello\n"),
        ("rfc5424micro", rb"<134>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d here web \d+ web - hello\n"),
    ],
)
def test_syslog_formats(server: socket.socket, kind: str, pattern: bytes) -> None:
    log = syslog.SyslogLog({**SETTINGS, "address": server.getsockname(), "format": kind})
    log.write("stdout", b"hello\nwor")
    log.write("stderr", b"bad\n")
    log.flush()
    assert re.fullmatch(pattern, server.recv(1000))
    second = server.recv(1000)
    assert second.startswith(b"<131>")
    assert second.endswith(b" bad\n")
    assert server.recv(1000).endswith(b" wor\n")
    log.close()


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_syslog_over_ip(scheme: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
        if scheme == "tcp":
            sock.listen()
        log = syslog.SyslogLog({**SETTINGS, "scheme": scheme, "address": f"127.0.0.1:{sock.getsockname()[1]}"})
        log.write("stdout", b"one\ntwo\n")
        if scheme == "udp":
            assert sock.recv(1000).endswith(b": one\n")
            assert sock.recv(1000).endswith(b": two\n")
        else:
            client, _ = sock.accept()
            with client:
                text = b""
                while text.count(b"\n") < 2:
                    text += client.recv(1000)
                assert [line.partition(b": ")[2] for line in text.splitlines()] == [b"one", b"two"]
        log.close()


def test_a_syslog_server_that_stops_and_comes_back(tmp_path: Path) -> None:
    path = str(tmp_path / "stream")
    first = socket.socket(socket.AF_UNIX)
    first.bind(path)
    first.listen()
    log = syslog.SyslogLog({**SETTINGS, "scheme": "unix", "address": path})
    first.accept()[0].close()
    first.close()
    for _ in range(50):
        log.write("stdout", b"nobody hears\n")
    assert log.lost
    (tmp_path / "stream").unlink()
    with socket.socket(socket.AF_UNIX) as second:
        second.bind(path)
        second.listen()
        log._retry_s = 0
        log.write("stdout", b"again\n")
        client, _ = second.accept()
        with client:
            assert client.recv(1000).endswith(b"again\n")
    log.close()


def test_no_syslog_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog, "_LOCAL", ("/nowhere/log",))
    with pytest.raises(SystemFailure, match=r"^failed to initialize logging driver: Unix syslog delivery error$"):
        logdrivers.open_log({**SETTINGS, "scheme": ""})


def test_journald(server: socket.socket) -> None:
    settings = {"fields": {"CONTAINER_NAME": "web", "ODD": "two\nlines"}, "waits": True}
    log = journald.JournaldLog(settings, server.getsockname())
    log.write("stderr", b"hello\npart")
    log.flush()
    entry = server.recv(4000)
    assert b"CONTAINER_NAME=web\n" in entry
    assert b"ODD\n" + struct.pack("<Q", 9) + b"two\nlines\n" in entry
    assert b"\nPRIORITY=3\n" in entry
    assert entry.endswith(b"MESSAGE=hello\n")
    assert b"PARTIAL" not in entry
    entry = server.recv(4000)
    assert b"CONTAINER_PARTIAL_MESSAGE=true\n" in entry
    assert entry.endswith(b"MESSAGE=part\n")
    log.close()


def test_no_journald_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journald.JournaldLog.__init__, "__defaults__", (str(tmp_path / "none"),))
    with pytest.raises(SystemFailure, match="journald is not enabled on this host"):
        logdrivers.open_log({"driver": "journald", "fields": {}, "waits": True})
