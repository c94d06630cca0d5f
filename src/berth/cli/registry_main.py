"""`berth registry serve` and `gc`: a program of its own. Not on the CLI's fast path: it may import all."""

import asyncio
import http.client
import json
import logging
import os
import socket
import sys

from berth.cli.flags import Parsed
from berth.cli.registry import SYNTAX
from berth.errors import BerthError, Conflict, InvalidParameter
from berth.registry.server.options import Options, seconds, size_bytes
from berth.registry.server.serving import CONTROL, build, lock_root, serve

log = logging.getLogger("berth.registry")

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


def main(words: list[str]) -> int:
    """words: the verb and its flags, which have been parsed once. Returns the exit code."""
    verb, *rest = words
    try:
        parsed = SYNTAX[f"registry {verb}"].parse(rest, f"registry {verb}")
        options = options_of(parsed)
        if verb == "gc":
            return collect(options, parsed.flag("dry-run"))
        start_log(parsed.text("log-level", "info"), options.access_log)
        descriptor = parsed.number("ready-fd", -1)
        asyncio.run(serve(options, lambda addresses: tell(descriptor, addresses)))
    except BaseExceptionGroup as group:
        return _report(group)
    except (BerthError, OSError) as error:
        return _report(error)
    except KeyboardInterrupt:
        return 130
    return 0


def tell(descriptor: int, addresses: list[str]) -> None:
    """Says that requests are served to whoever waits for it."""
    if descriptor >= 0:
        os.write(descriptor, f"{' '.join(addresses)}\n".encode())
        os.close(descriptor)


def options_of(parsed: Parsed) -> Options:
    """InvalidParameter for a value that is none."""
    found = Options()
    found.root = os.path.abspath(parsed.text("root", found.root))
    found.addresses = parsed.list("addr") or found.addresses
    found.metrics_address = parsed.text("metrics-addr")
    found.s3, found.s3_endpoint, found.s3_region = parsed.text("s3"), parsed.text("s3-endpoint"), parsed.text("s3-region")
    found.tls_certificate, found.tls_key = parsed.text("tlscert"), parsed.text("tlskey")
    found.htpasswd, found.anonymous_pull, found.url = parsed.text("htpasswd"), parsed.flag("anonymous-pull"), parsed.text("url")
    found.rights = parsed.text("rights")
    kind = parsed.text("auth", "token")
    if kind not in ("token", "basic"):
        raise InvalidParameter(f"--auth {kind!r}: expected token or basic")
    found.tokens = kind == "token"
    found.remote, found.remote_username = parsed.text("proxy-remote"), parsed.text("proxy-username")
    found.remote_password_file = parsed.text("proxy-password-file")
    found.cache_bytes = size_bytes("proxy-cache-size", parsed.text("proxy-cache-size", "0"))
    found.most_blob_bytes = size_bytes("max-blob-size", parsed.text("max-blob-size", "0"))
    found.deletes, found.delete_untagged = not parsed.flag("no-delete"), parsed.flag("delete-untagged")
    found.grace_s = seconds("grace", parsed.text("grace", "24h"))
    found.collect_every_s = seconds("gc-interval", parsed.text("gc-interval", "6h"))
    found.stop_timeout_s = seconds("stop-timeout", parsed.text("stop-timeout", "30s"))
    found.access_log = parsed.text("access-log", "-")
    found.check()
    return found


def start_log(level: str, access: str) -> None:
    """The registry's log goes to standard error, the access log where it was told."""
    if level not in _LEVELS:
        raise InvalidParameter(f"--log-level {level!r}: expected {', '.join(_LEVELS)}")
    style = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(style)
    logging.basicConfig(level=_LEVELS[level], handlers=[handler])
    accesses = logging.getLogger("berth.registry.access")
    if access == "none":
        accesses.disabled = True
    elif access != "-":
        to_file = logging.FileHandler(access)
        to_file.setFormatter(style)
        accesses.addHandler(to_file)
        accesses.propagate = False
        accesses.setLevel(logging.INFO)


def collect(options: Options, dry_run: bool) -> int:
    """In the registry that serves this root, else here."""
    if not os.path.isdir(options.root):
        raise InvalidParameter(f"--root {options.root}: there is no such directory")
    try:
        lock = lock_root(options.root)
    except Conflict:
        report = _ask(options.root, dry_run)
    else:
        try:
            registry = build(options)
            assert registry.collector is not None
            report = registry.collector.collect(dry_run=dry_run).as_json()
            registry.close()
        finally:
            os.close(lock)
    verb = "would remove" if dry_run else "removed"
    print(
        f"{verb} {report['blobs']} blobs ({report['freed_bytes']} bytes), {report['links']} links to blobs, {report['manifests']} manifests, "
        f"{report['uploads']} uploads"
    )
    return 0


class _Control(http.client.HTTPConnection):
    def __init__(self, root: str) -> None:
        super().__init__("localhost")
        self._root = root

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock.connect(f"/proc/self/fd/{directory}/{CONTROL}")
        finally:
            os.close(directory)


def _ask(root: str, dry_run: bool) -> dict[str, int]:
    connection = _Control(root)
    try:
        connection.request("POST", f"/collect{'?dry-run=1' if dry_run else ''}")
        answer = connection.getresponse()
        value = json.loads(answer.read())
    except OSError as error:
        raise Conflict(f"a registry serves {root}, but its control socket does not answer: {error.strerror}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise Conflict(f"the registry that serves {root} could not collect: {value.get('message')}")
    return dict(value)


def _report(error: BaseException) -> int:
    if isinstance(error, BaseExceptionGroup):
        return max(_report(one) for one in error.exceptions)
    if not isinstance(error, BerthError | OSError):
        raise error
    sys.stderr.write(f"berth registry: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
