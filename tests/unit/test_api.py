"""The API's pure helpers: routes, filters, changes, detach keys, framing."""

import struct

import pytest

pytest.importorskip("httptools", reason="the HTTP parser of the engine")

from berth import errors
from berth.api import request, routes, streams
from berth.api.changes import apply_changes
from berth.engine import events, imagelist
from berth.http.exchange import Exchange
from berth.http.routing import match


class Asked(Exchange):
    """Only what `_resolve` looks at."""

    def __init__(self, method: str, path: str) -> None:
        self.method, self.path, self.version, self.parameters = method, path, "", {}


def resolved(method: str, path: str) -> tuple[str, dict[str, str], str]:
    asked = Asked(method, path)
    handler = routes.Api(None)._resolve(asked)  # type: ignore[arg-type]
    return handler.__name__, asked.parameters, asked.version


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a/b", "a/b", {}), ("a/b", "a", None), ("a/b", "a/b/c", None), ("a/{id}", "a/x", {"id": "x"}), ("a/{id}/json", "a/x/json", {"id": "x"}),
        ("a/{id}/json", "a/x/y/json", None), ("i/{name...}", "i/a/b/c", {"name": "a/b/c"}), ("i/{name...}", "i", None),
        ("i/{name...}/json", "i/quay.io/a/b/json", {"name": "quay.io/a/b"}), ("i/{name...}/json", "i/json", None),
        ("i/{name...}/json", "i/json/json", {"name": "json"}), ("i/{name...}/json", "i/a/tag", None),
    ],
)  # fmt: skip
def test_match(pattern: str, path: str, expected: dict | None) -> None:
    assert match(pattern.split("/"), path.split("/")) == expected


@pytest.mark.parametrize(
    ("method", "path", "handler", "parameters"),
    [
        ("GET", "/_ping", "ping", {}), ("HEAD", "/_ping", "ping", {}), ("GET", "/containers/json", "container_list", {}),
        ("POST", "/containers/create", "container_create", {}), ("GET", "/containers/abc/json", "container_inspect", {"id": "abc"}),
        ("DELETE", "/containers/abc", "container_remove", {"id": "abc"}), ("GET", "/images/json", "image_list", {}),
        ("GET", "/images/a/b:1/json", "image_inspect", {"name": "a/b:1"}), ("GET", "/images/get", "image_save", {}),
        ("DELETE", "/images/localhost:5000/a", "image_remove", {"name": "localhost:5000/a"}),
        ("POST", "/images/load", "image_load", {}), ("POST", "/images/a/tag", "image_tag", {"name": "a"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", ["", "/v1.24", "/v1.51"])
def test_routes(method: str, path: str, handler: str, parameters: dict, version: str) -> None:
    assert resolved(method, version + path) == (handler, parameters, version.lstrip("/v") or "1.51")


@pytest.mark.parametrize(
    ("method", "path", "kind", "message"),
    [
        ("GET", "/nowhere", errors.NotFound, "page not found"), ("GET", "/", errors.NotFound, "page not found"),
        ("PUT", "/_ping", errors.NotFound, "page not found"),
        ("GET", "/v1.99/info", errors.InvalidParameter, r"client version 1\.99 is too new\. Maximum supported API version is 1\.51"),
        ("GET", "/v1.1/info", errors.InvalidParameter, r"client version 1\.1 is too old\. Minimum supported API version is 1\.22"),
        ("GET", "/v2.0/info", errors.InvalidParameter, "client version 2.0 is too new"), ("GET", "/v1.99/no", errors.NotFound, "page not found"), ("GET", "/v1.²/info", errors.NotFound, "page not found"),
        ("GET", "/v1." + "9" * 5000 + "/info", errors.NotFound, "page not found"),
    ],
)  # fmt: skip
def test_no_routes(method: str, path: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        resolved(method, path)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.NotFound, 404), (errors.InvalidParameter, 400), (errors.InvalidSpec, 400), (errors.Conflict, 409), (errors.NotModified, 304),
        (errors.Forbidden, 403), (errors.NotImplementedHere, 501), (errors.Unavailable, 503), (errors.CommandNotFound, 400),
        (errors.CommandNotExecutable, 400), (errors.StartFailed, 500), (errors.SystemFailure, 500), (errors.BerthError, 500),
    ],
)  # fmt: skip
def test_status(kind: type[errors.BerthError], status: int) -> None:
    assert routes.status_of(kind("x")) == status


def test_kinds_cross_process_borders() -> None:
    for name, kind in errors.BY_NAME.items():
        rebuilt = errors.from_wire(name, "why")
        assert (type(rebuilt), str(rebuilt)) == (kind, "why")
    assert type(errors.from_wire("Nonsense", "why")) is errors.SystemFailure


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}), ("{}", {}), ('{"label":["a=b","c"]}', {"label": ["a=b", "c"]}), ('{"label":{"a=b":true,"c":true}}', {"label": ["a=b", "c"]}),
        ('{"exited":["0"]}', {"exited": ["0"]}), ('{"name":[]}', {"name": []}), ("null", {}), ('{"a":null}', {"a": []}),
    ],
)  # fmt: skip
def test_filters(text: str, expected: dict) -> None:
    assert request.parse_filters(text) == expected


@pytest.mark.parametrize("text", ["{", "[]", "1", '"x"', '{"a":1}', '{"a":"bc"}', '{"a":[1]}', '{"a":[null]}', "[" * 100_000])
def test_filters_that_are_none(text: str) -> None:
    with pytest.raises(errors.InvalidParameter, match=r"^invalid filters: "):
        request.parse_filters(text)


EVENT = {
    "Type": "container", "Action": "exec_create: sh", "Actor": {"ID": "abcdef", "Attributes": {"name": "web", "image": "debian", "tier": "front"}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, True), ({"container": ["web"]}, True), ({"container": ["abc"]}, True), ({"container": ["db", "web"]}, True), ({"container": ["db"]}, False),
        ({"event": ["exec_create"]}, True), ({"event": ["exec"]}, False), ({"type": ["container"]}, True), ({"type": ["image"]}, False),
        ({"label": ["tier"]}, True), ({"label": ["tier=front"]}, True), ({"label": ["tier=back"]}, False), ({"label": ["tier", "x"]}, False),
        ({"image": ["debian"]}, True), ({"scope": ["swarm"]}, False), ({"type": ["container"], "event": ["start"]}, False),
    ],
)  # fmt: skip
def test_event_filters(filters: dict, expected: bool) -> None:
    assert events.event_matches(EVENT, filters) is expected


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [("debian:12", "debian", True), ("debian:12", "debian:1*", True), ("debian:12", "deb", False), ("a/b:1", "a/*", True), ("a/b:1", "*", False), ("a/b:1", "*/*:1", True), ("ab:1", "[^x]b", True), ("ab:1", "a[b-c]:?", True), ("ab:1", r"a\b", True), ("a/b:1", "b", False)],
)
def test_reference_filter(name: str, pattern: str, expected: bool) -> None:
    assert imagelist.reference_matches(name, pattern) is expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], {}), (['CMD ["a","b c"]'], {"Cmd": ["a", "b c"]}), (["cmd a b"], {"Cmd": ["/bin/sh", "-c", "a b"]}),
        (['ENTRYPOINT ["x"]', "CMD []"], {"Entrypoint": ["x"], "Cmd": []}), (["ENV A=1 B='2 3'", "ENV C it's so"], {"Env": ["A=1", "B=2 3", "C=it's so"]}),
        (["LABEL a=b c=d", "LABEL a=e"], {"Labels": {"a": "e", "c": "d"}}), (["EXPOSE 80 53/udp"], {"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}),
        (["USER web", "WORKDIR /x", "STOPSIGNAL 9"], {"User": "web", "WorkingDir": "/x", "StopSignal": "9"}),
        (['VOLUME ["/a"]', "VOLUME /b /c"], {"Volumes": {"/a": {}, "/b": {}, "/c": {}}}), (["ONBUILD RUN x"], {"OnBuild": ["RUN x"]}),
    ],
)  # fmt: skip
def test_changes(changes: list[str], expected: dict) -> None:
    assert apply_changes(changes) == expected


@pytest.mark.parametrize(
    "change", ["RUN x", "", "CMD", "ENV", 'CMD ["a"', "CMD [1]", "VOLUME [{}]", "ENV A='1", 'LABEL a="b', "COPY a b", "ENTRYPOINT [null]"]
)
def test_changes_that_cannot_be(change: str) -> None:
    with pytest.raises(errors.InvalidParameter, match="change"):
        apply_changes([change])


# -- streams -------------------------------------------------------------------------------------


def test_multiplexed() -> None:
    assert streams.multiplexed("stdout", b"ab") == b"\x01\0\0\0\0\0\0\x02ab"
    assert struct.unpack(">BxxxI", streams.multiplexed("stderr", b"x" * 70_000)[:8]) == (2, 70_000)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", b"\x10\x11"), ("ctrl-p,ctrl-q", b"\x10\x11"), ("ctrl-A", b"\x01"), ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\0\x1b\x1c\x1d\x1e\x1f"),
        ("a,b", b"ab"), ("ctrl-z,x", b"\x1ax"),
    ],
)  # fmt: skip
def test_detach_keys(text: str, keys: bytes) -> None:
    assert streams.parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-ab", "ctrl-1", "alt-a", "ab", "a,,b", ",", "é", "ctrl-é"])
def test_no_detach_keys(text: str) -> None:
    with pytest.raises(errors.InvalidParameter, match=r"Invalid detach keys"):
        streams.parse_detach_keys(text)


@pytest.mark.parametrize(
    ("keys", "pieces", "passed", "found"),
    [
        (b"\x10\x11", [b"abc"], b"abc", False), (b"\x10\x11", [b"a\x10\x11b"], b"a", True), (b"\x10\x11", [b"a\x10", b"\x11"], b"a", True),
        (b"\x10\x11", [b"\x10", b"x"], b"\x10x", False), (b"\x10\x11", [b"\x10\x10\x11"], b"\x10", True), (b"q", [b"a", b"q"], b"a", True),
        (b"aab", [b"aaab"], b"a", True), (b"abac", [b"ababac"], b"ab", True), (b"aab", [b"a", b"a", b"a", b"a", b"c"], b"aaaac", False),
    ],
)  # fmt: skip
def test_detaching(keys: bytes, pieces: list[bytes], passed: bytes, found: bool) -> None:
    watch = streams.DetachFilter(keys)
    out = [watch.feed(piece) for piece in pieces]
    assert b"".join(data for data, _ in out) == passed
    assert [seen for _, seen in out] == [False] * (len(out) - 1) + [found]
