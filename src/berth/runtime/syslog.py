"""The log driver `syslog`: RFC 3164 or RFC 5424 to this host's syslog, a unix socket, UDP, TCP or TLS.

A server that does not take messages stops the container for a second at most; then they are dropped
until it answers again. Addresses are looked up once: a name server must not stop a container either.
"""

import os
import socket
import time

from berth.runtime.jsonlog import Lines

_LOCAL = ("/dev/log", "/var/run/syslog", "/var/run/log")
_ERROR, _INFO = 3, 6
_PATIENCE_S = 1.0
_RETRY_AFTER_S = 1.0


class SyslogLog(Lines):
    """settings: see engine.logconfig.message."""

    def __init__(self, settings: dict) -> None:
        super().__init__()
        self._settings = settings
        self._facility = settings["facility"] << 3
        self._pid = os.getpid()
        self._counted = settings["scheme"] == "tcp+tls" and settings["format"].startswith("rfc5424")
        self._addresses = _addresses(settings["scheme"], settings["address"])
        self._socket: socket.socket | None = self._connect()
        self._retry_s = 0.0
        self.lost = 0

    def _connect(self) -> socket.socket:
        problem = OSError("Unix syslog delivery error")
        for family, kind, address in self._addresses:
            sock = socket.socket(family, kind)
            try:
                sock.settimeout(_PATIENCE_S)
                sock.connect(address)
                if self._settings["scheme"] == "tcp+tls":
                    sock = self._encrypted(sock)
                sock.settimeout(_PATIENCE_S if self._settings["waits"] else 0)
                return sock
            except OSError as error:
                sock.close()
                if self._settings["scheme"]:
                    problem = error
        raise problem

    def _encrypted(self, sock: socket.socket) -> socket.socket:
        import ssl

        options = self._settings["tls"]
        context = ssl.create_default_context(cafile=options.get("ca-cert"))
        if options.get("cert"):
            context.load_cert_chain(options["cert"], options.get("key"))
        if "skip-verify" in options:  # whatever it says, as with Docker
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(sock, server_hostname=self._settings["address"].rpartition(":")[0].strip("[]"))

    def _put(self, stream: str, batch: bytes, now_ns: int) -> None:
        head = self._head(_ERROR if stream == "stderr" else _INFO, now_ns)
        messages = [head + line + b"\n" for line in batch.removesuffix(b"\n").split(b"\n")]
        if self._counted:
            messages = [b"%d %b" % (len(message), message) for message in messages]
        if any(kind == socket.SOCK_STREAM for _, kind, _ in self._addresses):
            messages = [b"".join(messages)]
        for message in messages:
            self._send(message)

    def _head(self, severity: int, now_ns: int) -> bytes:
        host, tag, kind = self._settings["host"], self._settings["tag"], self._settings["format"]
        now = time.localtime(now_ns // 1_000_000_000)
        priority = f"<{self._facility | severity}>"
        if kind.startswith("rfc5424"):
            fraction = f".{now_ns // 1000 % 1_000_000:06d}" if kind.endswith("micro") else ""
            zone = time.strftime("%z", now)
            stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', now)}{fraction}{zone[:3]}:{zone[3:]}"
            return f"{priority}1 {stamp} {host} {tag} {self._pid} {tag} - ".encode()
        stamp = time.strftime("%b %e %H:%M:%S", now)
        return f"{priority}{stamp} {f'{host} ' if kind else ''}{tag}[{self._pid}]: ".encode()

    def _send(self, message: bytes) -> None:
        """One try, one more on a new connection; then the message is lost and the next second's with it."""
        for _ in (1, 2):
            try:
                if self._socket is None:
                    if time.monotonic() < self._retry_s:
                        break
                    self._socket = self._connect()
                self._socket.sendall(message)
                return
            except TimeoutError:
                self._give_up()
                break
            except OSError:
                self._give_up()
                self._retry_s = 0.0
        if self._socket is None and not self._retry_s:
            self._give_up()
        self.lost += 1

    def _give_up(self) -> None:
        if self._socket:
            self._socket.close()
        self._socket = None
        self._retry_s = time.monotonic() + _RETRY_AFTER_S

    def close(self) -> None:
        if self._socket:
            self._socket.close()


def _addresses(scheme: str, address: str) -> list[tuple]:
    """(family, type, address) to try in turn."""
    if not scheme:
        return [(socket.AF_UNIX, socket.SOCK_DGRAM, path) for path in _LOCAL]
    if scheme.startswith("unix"):
        return [(socket.AF_UNIX, socket.SOCK_DGRAM if scheme == "unixgram" else socket.SOCK_STREAM, address)]
    host, _, port = address.rpartition(":")
    kind = socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM
    return [(family, kind, where) for family, _, _, _, where in socket.getaddrinfo(host.strip("[]"), port, type=kind)]
