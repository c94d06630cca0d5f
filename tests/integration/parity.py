"""The same request to two engines, and what of the answers their clients can see. The requests are in test_parity.py."""

import http.client
import json
import re
import socket
from dataclasses import dataclass, field
from typing import Any

_HANGS_S = 30
# What Docker's clients read; the rest (Date, Server, Content-Length) is the engine's own.
HEADERS = (
    "Content-Type", "Api-Version", "Ostype", "Docker-Experimental", "X-Docker-Container-Path-Stat", "Upgrade", "Connection", "Location",
    "Cache-Control", "Pragma", "Swarm", "Builder-Version",
)  # fmt: skip


@dataclass
class Answer:
    """status; headers: those of HEADERS that came; body: JSON, text, or None where only the head was read."""

    status: int
    headers: dict[str, str]
    body: Any = None

    @property
    def message(self) -> str:
        """What went wrong, as the engine says it; '' for a success."""
        if self.status < 400:
            return ""
        return str(self.body.get("message", self.body)) if isinstance(self.body, dict) else str(self.body or "")


class Unix(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: str, timeout_s: float = _HANGS_S) -> None:
        super().__init__("docker", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass
class Peer:
    """One engine: where it listens, and the ids of its objects by the names that both sides use."""

    path: str
    ids: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None, *, head_only: bool = False) -> Answer:
        """body: bytes as they are, else sent as JSON. {name} in `target` and in strings of `body` is that object's id."""
        target = self._named(target)
        sent = body if isinstance(body, bytes | None) else self._named(json.dumps(body), braces=("<", ">")).encode()
        given = {"Content-Type": "application/json"} if sent is not None else {}
        connection = Unix(self.path)
        try:
            connection.request(method, target, sent, given | (headers or {}))
            response = connection.getresponse()
            found = {name: value for name in HEADERS if (value := response.getheader(name)) is not None}
            return Answer(response.status, found, None if head_only else _parsed(response.read(), found))
        finally:
            connection.close()

    def _named(self, text: str, braces: tuple[str, str] = ("{", "}")) -> str:
        for name, identity in self.ids.items():
            text = text.replace(f"{braces[0]}{name}{braces[1]}", identity)
        return text

    def plain(self, text: str) -> str:
        """The same for both engines: ids as names, and what else is of one engine alone."""
        for name, identity in sorted(self.ids.items(), key=lambda item: -len(item[1])):
            if name == "ambiguous":  # where an id stands in a message
                text = re.sub(rf"(prefix|instance|image|container): {identity}(?=: |$)", r"\1: <ambiguous>", text)
            elif len(identity) > 12:
                text = text.replace(identity, f"<{name}>").replace(identity[:12], f"<{name}>")
        text = re.sub(r"\b(sha256:)?[0-9a-f]{64}\b", "<id>", text)
        return re.sub(r"\b[0-9a-f]{12}\b", "<short>", text).strip()


def _parsed(data: bytes, headers: dict[str, str]) -> Any:
    if "json" in headers.get("Content-Type", ""):
        try:
            return json.loads(data)
        except ValueError:
            return [json.loads(line) for line in data.splitlines() if line.strip()]
    return data.decode(errors="replace")


def shape(value: Any) -> Any:
    """The types of a JSON value: {"a": "string"}, lists as the shape of their elements together. All ids are one name."""
    if isinstance(value, dict):
        return {"<id>" if re.fullmatch("[0-9a-f]{64}", key) else key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        found: Any = None
        for item in value:
            found = _joined(found, shape(item))
        return [] if found is None else [found]
    return {bool: "boolean", int: "number", float: "number", str: "string", type(None): "null"}[type(value)]


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, dict) and isinstance(second, dict):
        return {key: _joined(first.get(key), second.get(key)) if key in first and key in second else {**first, **second}[key] for key in {**first, **second}}
    return second if first is None else first


def shape_differences(theirs: Any, ours: Any, path: str = "") -> list[str]:
    """Where `ours` has another type than `theirs`, lacks a field, or has one more."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        found = []
        for key in sorted({*theirs, *ours}):
            where = f"{path}.{key}" if path else key
            if key not in ours:
                found.append(f"{where}: missing, {json.dumps(theirs[key])[:60]}")
            elif key not in theirs:
                found.append(f"{where}: one more, {json.dumps(ours[key])[:60]}")
            else:
                found += shape_differences(theirs[key], ours[key], where)
        return found
    if isinstance(theirs, list) and isinstance(ours, list):
        return shape_differences(theirs[0], ours[0], f"{path}[]") if theirs and ours else []
    no_difference = theirs == ours or (theirs == "null" and ours in ([], {}))
    return [] if no_difference else [f"{path}: {json.dumps(ours)[:60]} for {json.dumps(theirs)[:60]}"]
