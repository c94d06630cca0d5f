"""schemathesis against every endpoint that is served: no request gets a 500 of berth's making, and none hangs.

The OpenAPI document is made here from the facts about Docker's API (paths, parameters, payload types); where
they or schemathesis are not there, the test is skipped. BERTH_FUZZ_SECONDS makes it longer, BERTH_FUZZ_SEED repeats one.

The engine has a network namespace with nothing but a loopback: whatever name a request makes up, no registry is asked.
"""

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from harness import BUSYBOX, REPOSITORY, Engine
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: tools/setup --dev")
requests = pytest.importorskip("requests")
transport = pytest.importorskip("docker.transport")

pytestmark = pytest.mark.root

FACTS = os.environ.get("BERTH_API_FACTS") or os.path.join(os.path.dirname(REPOSITORY), "shared/data/docker_api_endpoints.json")
SECONDS = float(os.environ.get("BERTH_FUZZ_SECONDS", "35"))
_HANGS_S = 12
_EXAMPLES = 6
OBEDIENT = ("sh", "-c", "trap exit TERM; while :; do sleep 1 & wait; done")


@pytest.fixture(scope="module")
def fuzzed(rootfs_tar: str) -> Iterator["Fuzzed"]:
    alone = ("unshare", "-n", "sh", "-c", f'{BUSYBOX} ip link set lo up && exec "$@"', "sh")
    engine = Engine(wrapper=alone)
    found = Fuzzed(engine, rootfs_tar)
    found.restore()
    assert found.outside() == "", "the engine has a way out of this host"
    yield found
    engine.finish()


class Fuzzed:
    """The engine, and what the requests are about: an image, a container that runs and one that does not."""

    def __init__(self, engine: Engine, rootfs_tar: str) -> None:
        self.engine, self._rootfs_tar = engine, rootfs_tar
        self.running = ""

    def restore(self) -> None:
        """Makes again what a request has removed."""
        if ask(self.engine, "GET", "/images/bb/json")[0] != 200:
            self.engine.docker("import", self._rootfs_tar, "bb")
        if ask(self.engine, "GET", "/containers/lasting/json")[0] != 200:
            self.running = self.engine.up("--name", "lasting", command=OBEDIENT)
        if ask(self.engine, "GET", "/containers/stopped/json")[0] != 200:
            self.engine.docker("create", "--name", "stopped", "--network", "none", "bb", "true")

    def outside(self) -> str:
        """The routes that the engine has."""
        assert self.engine.process
        command = ["nsenter", "-t", str(self.engine.process.pid), "-n", BUSYBOX, "ip", "route"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# -- the facts as OpenAPI -------------------------------------------------------------------------------------

_STUBS = ("Swarm", "Service", "Task", "Node", "Secret", "Config", "Plugin", "Session")
_CLOSED = "127.0.0.1:9"  # nobody listens in the engine's network namespace
_REMOTE = [f"{_CLOSED}/{rest}" for rest in ("a/b", "x:tag", f"x@sha256:{'0' * 64}", "", "A", "a/../b")] + ["localhost/x", "\u00e4"]
_IMAGES = ["bb", "bb:latest", "none", "sha256:" + "0" * 64, *_REMOTE]
_AUTHS = ["", "e30=", "eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6ImIifQ==", "bnVsbA==", "W10=", "x", "eyJhdXRoIjoieCJ9", "eyJyZWdpc3RyeXRva2VuIjoiYSJ9"]
_SOCKET_HEADERS = {
    "Upgrade": ["websocket", "tcp"], "Connection": ["Upgrade"], "Sec-WebSocket-Version": ["13", "8"],
    "Sec-WebSocket-Key": ["dGhlIHNhbXBsZSBub25jZQ==", "x"],
}  # fmt: skip
_OF_BERTH = [{"path": "/containers/{id}/why", "method": "GET", "tag": "Container", "params": [{"name": "id", "in": "path", "type": "string"}]}]
_SCALARS = {"string": {"type": "string"}, "integer": {"type": "integer"}, "boolean": {"type": "boolean"}, "object": {"type": "object"}, "array": {"type": "array"}}


def schema_of(fact: Any, definitions: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """A type as the facts write it: 'integer', 'array<X>', 'map<X>', the name of a definition, or one of their objects."""
    if depth > 4:
        return {}
    if isinstance(fact, str):
        if fact in _SCALARS:
            return dict(_SCALARS[fact])
        if found := re.fullmatch(r"(array|map)<(.*)>", fact):
            inner = schema_of(found[2], definitions, depth + 1)
            return {"type": "array", "items": inner, "maxItems": 4} if found[1] == "array" else {"type": "object", "additionalProperties": inner}
        return schema_of(definitions[fact], definitions, depth) if fact in definitions else {}
    if not isinstance(fact, dict):
        return {}
    if "object" in fact:
        return {"type": "object", "properties": {key: schema_of(value, definitions, depth + 1) for key, value in fact["object"].items()}}
    properties: dict[str, Any] = {}
    for part in fact.get("allOf") or []:
        properties |= schema_of(part, definitions, depth).get("properties", {})
    properties |= {key: schema_of(value, definitions, depth + 1) for key, value in (fact.get("properties") or {}).items()}
    if properties:
        return {"type": "object", "properties": properties}
    return {"type": fact["type"], **({"enum": fact["enum"]} if "enum" in fact else {})} if fact.get("type") else {}


def body_of(path: str, definitions: dict[str, Any]) -> dict[str, Any] | None:
    if path == "/containers/create":
        config, host = schema_of("ContainerConfig", definitions), schema_of("HostConfig", definitions)
        host["properties"] |= {"AutoRemove": {"type": "boolean"}}
        config["properties"] |= {"HostConfig": host, "NetworkingConfig": schema_of("NetworkingConfig", definitions), "Image": {"enum": ["bb", "none"]}}
        return {**config, "required": ["Image"]}
    if path.endswith("/exec"):
        return schema_of({"object": {
            "AttachStdin": "boolean", "AttachStdout": "boolean", "AttachStderr": "boolean", "ConsoleSize": "array<integer>", "DetachKeys": "string",
            "Tty": "boolean", "Env": "array<string>", "Cmd": "array<string>", "Privileged": "boolean", "User": "string", "WorkingDir": "string",
        }}, definitions)  # fmt: skip
    if path == "/exec/{id}/start":
        return schema_of({"object": {"Detach": "boolean", "Tty": "boolean", "ConsoleSize": "array<integer>"}}, definitions)
    if path.endswith("/update"):
        return schema_of("Resources", definitions)
    if path == "/auth":
        found = schema_of({"object": {name: "string" for name in ("username", "password", "email", "identitytoken", "auth")}}, definitions)
        found["properties"]["serveraddress"] = {"enum": [_CLOSED, f"http://{_CLOSED}/v2/", "127.0.0.1:99999", "127.0.0.1:x", "[::1]:9", "[", "http://[", "/"]}
        return {**found, "required": ["serveraddress"]}
    if path in ("/commit", "/networks/create", "/volumes/create", "/networks/{id}/connect", "/networks/{id}/disconnect", "/volumes/{name}"):
        return {"type": "object"}
    return None


def values_of(path: str, name: str, where: str, container: str) -> list[str] | None:
    """What a parameter is chosen from, where any text would be of no use. Registries are on the loopback, and closed."""
    if where == "path" and path.startswith("/containers"):
        kept = ["lasting", container, container[:3]] if path.count("/") > 2 else []  # DELETE of what the others ask about
        return [*kept, "stopped", "nothing", "a/b", "\u00e4"]
    if where == "path" and path.startswith(("/images", "/distribution")):
        return _REMOTE if path.startswith("/distribution") or path.endswith("/push") else _IMAGES
    return {
        ("query", "t"): ["0", "1", "x", "1m"], ("query", "until"): ["0", "1", "x", "1m"], ("header", "X-Registry-Auth"): _AUTHS,
        ("query", "fromImage"): _REMOTE, ("query", "fromSrc"): ["-", "", f"http://{_CLOSED}/x.tar", "x"],
        ("query", "remote"): [f"http://{_CLOSED}/x.git", f"{_CLOSED}/x"], ("query", "term"): [f"{_CLOSED}/x", f"{_CLOSED}/", "localhost/"],
    }.get((where, name))  # fmt: skip


def openapi(facts: dict[str, Any], container: str) -> dict[str, Any]:
    """Of the endpoints that are served."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in [*facts["endpoints"], *_OF_BERTH]:
        path, method = endpoint["path"], endpoint["method"].lower()
        if method == "head" or endpoint["tag"] in _STUBS:
            continue
        parameters = []
        for each in endpoint["params"] or []:
            name, where = each["name"], each["in"]
            if where not in ("query", "path") and name != "X-Registry-Auth":
                continue
            values = values_of(path, name, where, container)
            schema = {"type": "string", "enum": values} if values else schema_of(each.get("type", "string"), facts["definitions"])
            needed = where == "path" or name in ("until", "fromImage", "term")
            parameters.append({"name": name, "in": where, "required": needed, "schema": schema})
        if path.endswith("/ws"):
            parameters += [{"name": n, "in": "header", "required": n != "Upgrade", "schema": {"enum": v}} for n, v in _SOCKET_HEADERS.items()]
        operation: dict[str, Any] = {"parameters": parameters, "responses": {"default": {"description": "any"}}}
        body = body_of(path, facts["definitions"])
        if body is not None and method == "post":
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
        paths.setdefault(path, {})[method] = operation
    return {"openapi": "3.0.3", "info": {"title": "berth", "version": "1.51"}, "paths": paths}


# -- the requests ------------------------------------------------------------------------------------------------


def takes_away(method: str, path: str) -> bool:
    """Whether a request can remove what the others ask about."""
    return method.upper() == "DELETE" or path.endswith(("/prune", "/rename"))


class Fuzzer:
    """Sends what schemathesis makes up, and keeps what should not have been answered so."""

    def __init__(self, fuzzed: Fuzzed, deadline_s: float) -> None:
        self._fuzzed, self.deadline_s = fuzzed, deadline_s
        self.sent = 0
        self.bad: dict[str, str] = {}
        self.waited_s: Counter[str] = Counter()
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount("http://", transport.UnixHTTPAdapter(f"http+unix://{fuzzed.engine.exec}/berth.sock", _HANGS_S))

    def close(self) -> None:
        self._session.close()

    def send(self, case: Any) -> None:
        if time.monotonic() > self.deadline_s:
            return
        keywords = case.as_transport_kwargs(base_url="http://berth")
        self.sent += 1
        started_s = time.monotonic()
        operation = f"{case.method} {case.path}"
        try:
            # The head is what must come: events, logs and waits have no end.
            response = self._session.request(**keywords, timeout=_HANGS_S, stream=True)
        except (requests.Timeout, requests.ConnectionError) as error:
            self.bad[f"{operation}: {type(error).__name__}"] = repr(keywords)[:2000]
            return
        except (requests.RequestException, UnicodeError, ValueError):
            return  # nothing that can be sent
        finally:
            self.waited_s[operation] += time.monotonic() - started_s
        if response.status_code >= 500 and response.status_code not in (501, 503):
            self.bad[f"{operation}: {response.status_code}"] = f"{response.text[:300]} for {keywords!r}"[:2500]
        if response.headers.get("Transfer-Encoding") == "chunked" or "Content-Length" not in response.headers:
            response.close()
        elif response.status_code >= 400 and case.method != "HEAD":
            if not json.loads(response.content).get("message"):
                self.bad[f"{operation}: no message"] = repr(keywords)[:2000]
        else:
            _ = response.content
        if takes_away(case.method, case.path):
            self._fuzzed.restore()

    def tests_of(self, operation: Any) -> list[Callable[[], None]]:
        """Each sends some more: what fits the document, and what does not."""
        chosen = settings(
            max_examples=_EXAMPLES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
        )
        modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
        return [chosen(given(case=operation.as_strategy(generation_mode=mode))(self.send)) for mode in modes]


@pytest.mark.timeout(150 + SECONDS)
@pytest.mark.skipif(not os.path.exists(FACTS), reason="needs BERTH_API_FACTS: a JSON file of Docker's endpoints and definitions")
def test_schemathesis(fuzzed: Fuzzed) -> None:
    engine = fuzzed.engine
    with open(FACTS) as file:
        document = openapi(json.load(file), fuzzed.running)
    operations = [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]
    deadline_s = time.monotonic() + SECONDS
    fuzzer = Fuzzer(fuzzed, deadline_s)
    tests = [test for operation in operations for test in fuzzer.tests_of(operation)]
    with contextlib.closing(fuzzer):
        while time.monotonic() < deadline_s:
            for test in tests:
                if time.monotonic() < deadline_s:
                    with contextlib.suppress(Unsatisfiable):
                        test()
    print(f"{fuzzer.sent} requests to {len(operations)} operations; slowest: {fuzzer.waited_s.most_common(5)}")
    assert not fuzzer.bad, "\n\n".join(f"{key}\n    {value}" for key, value in fuzzer.bad.items())
    assert fuzzer.sent > len(operations)
    assert engine.docker("ps", "-aq", "--no-trunc").stdout
    assert "Traceback" not in engine.log(), engine.log()[-5000:]


# -- values that break things, by the thousand -------------------------------------------------------------------

TEXTS = (
    "", "0", "1", "-1", "9" * 30, "1e9", "1.5", "\0", "\u0663", "\u00b2", "../../etc/passwd", "{}", "[]", "[", "null", '{"a":1}', '{"label":["a=b"]}',
    '{"label":{"x":true}}', '{"status":["running","x"]}', '{"until":["x"]}', '{"until":["1h"]}', '{"before":["gone"]}', '{"name":["("]}', '{"id":[""]}',
    '{"reference":["[a"]}', '{"exited":["x"]}', '{"dangling":["maybe"]}', "true", "maybe", "ctrl-p", "ctrl-\u00e9", "bb", "bb:latest", "none", "host",
    "container:gone", "sha256:" + "a" * 64, "sha256:x", "1m", "-1h", "2024-01-01T00:00:00Z", "2024-13-41", "99999999999999999999.5", "x" * 5000, "/",
    "//", "a/b", "a:b:c", "tcp", "80/tcp", "0-1", "0-99999", ",", "=", "a=", "=b", "a=b", "SIGKILL", "SIGRTMIN+99", "root", "1000:x", "65536:99999999999",
    "\U0001f600", "%", "%00", "\r\nX: y", "private", "shareable", "no-new-privileges", "seccomp={}", "seccomp=[", "apparmor=x", "label=a:b:c:d",
    "/dev/null", "/nowhere", "/proc", "/a:/b", "/a:/b:ro,rw", "/:/x", "x:/y", "json-file", "always", "on-failure:3", "NET_ADMIN", "CAP_X", "ALL",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 7, 1000, 65536, 10**9, 2**31, 2**32, 2**53, 2**63 - 1, -(2**63))


def odd_value(schema: dict[str, Any], random: Random, depth: int = 0) -> Any:
    """One of the schema's type that nobody would send."""
    if "enum" in schema and random.random() < 0.7:
        return random.choice(schema["enum"])
    kind = schema.get("type", "string")
    if random.random() < 0.02:
        return random.choice((None, True, 1.5, "x", [], {}, [None], {"": None}))
    if kind == "integer":
        return random.choice(NUMBERS)
    if kind == "boolean":
        return random.random() < 0.5
    if kind == "array":
        return [odd_value(schema.get("items", {}), random, depth + 1) for _ in range(random.randrange(3))]
    if kind == "object" and "properties" in schema:
        names = list(schema["properties"])
        chosen = {*schema.get("required", []), *random.sample(names, min(len(names), random.randrange(4) if depth else random.randrange(1, 3)))}
        return {name: odd_value(schema["properties"][name], random, depth + 1) for name in names if name in chosen}
    if kind == "object":
        inner = schema.get("additionalProperties") or {}
        return {random.choice(TEXTS): odd_value(inner, random, depth + 1) for _ in range(random.randrange(3))}
    return random.choice(TEXTS)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("berth", timeout=_HANGS_S)
        self.unix_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_HANGS_S)
        self.sock.connect(self.unix_path)


def ask(engine: Engine, method: str, path: str, body: Any = None) -> tuple[int, str]:
    """Status and the beginning of the answer; status 0 for none in time."""
    connection = UnixConnection(f"{engine.exec}/berth.sock")
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        ends = response.getheader("Content-Length") is not None
        return response.status, response.read().decode(errors="replace")[:500] if ends and method != "HEAD" else ""
    except TimeoutError:
        return 0, "nothing came"
    finally:
        connection.close()


@pytest.mark.timeout(120 + SECONDS)
@pytest.mark.skipif(not os.path.exists(FACTS), reason="needs BERTH_API_FACTS: a JSON file of Docker's endpoints and definitions")
def test_odd_values(fuzzed: Fuzzed) -> None:
    """Right types and absurd values: create, start, exec, update and all queries. The seed is printed where it fails."""
    engine = fuzzed.engine
    seed = int(os.environ.get("BERTH_FUZZ_SEED") or time.time())
    random = Random(seed)
    long_lived = "lasting"
    with open(FACTS) as file:
        facts = json.load(file)
    document = openapi(facts, fuzzed.running)
    bad: dict[str, str] = {}
    waited_s: Counter[str] = Counter()
    calls = [(path, method, operation) for path, methods in document["paths"].items() for method, operation in methods.items()]
    rich = [call for call in calls if "requestBody" in call[2]]
    create = document["paths"]["/containers/create"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    deadline_s, sent, made = time.monotonic() + SECONDS / 2, 0, 0

    def check(method: str, path: str, body: Any, status: int, text: str) -> None:
        if status == 0 or (status >= 500 and status not in (501, 503)) or (status >= 400 and method != "HEAD" and '"message"' not in text):
            place = re.sub(r"[0-9a-f]{12,}", "ID", path.partition("?")[0])[:60]
            bad.setdefault(f"{method} {place} {status} {text[:60]}", f"{path[:300]} {text[:300]} for {json.dumps(body)[:1500]}")

    while time.monotonic() < deadline_s:
        template, method, operation = random.choice(calls) if random.random() < 0.6 else random.choice(rich)
        path = template
        for each in operation["parameters"]:
            if each["in"] == "path":
                value = random.choice((*each["schema"].get("enum", [long_lived]), random.choice(TEXTS)))
                path = path.replace(f"{{{each['name']}}}", quote(value, safe="") or "x")
        queries = [(each["name"], odd_value(each["schema"], random)) for each in operation["parameters"] if each["in"] == "query" and random.random() < 0.5]
        if template.endswith(("/stop", "/restart")):  # a negative time means as long as it takes, ten seconds are the default: no hang
            queries = [pair for pair in queries if pair[0] != "t"] + [("t", random.choice(("0", "1", "x")))]
        if queries:
            path += "?" + urlencode([(name, value if isinstance(value, str) else json.dumps(value)) for name, value in queries])
        body = None
        if "requestBody" in operation:
            body = odd_value(operation["requestBody"]["content"]["application/json"]["schema"], random)
            if path.startswith("/containers/create") and isinstance(body, dict):
                body["Image"] = "bb"
                body.setdefault("Cmd", ["true"])
                body.pop("NetworkingConfig", None)
                path = path.partition("?")[0]
                host = odd_value(create["properties"]["HostConfig"], random)
                body["HostConfig"] = {"NetworkMode": "none", **host} if isinstance(host, dict) else host
        started_s = time.monotonic()
        status, text = ask(engine, method.upper(), path, body)
        waited_s[f"{method} {path.partition('?')[0][:40]}"] += time.monotonic() - started_s
        sent += 1
        check(method.upper(), path, body, status, text)
        if status == 201 and path.startswith("/containers/create"):
            made += 1
            identity = json.loads(text)["Id"]
            if random.random() < 0.3:
                outcome = ask(engine, "POST", f"/containers/{identity}/start")
                if outcome[0] != 500 or "the engine made a mistake" in outcome[1]:  # the kernel may refuse what only it can know
                    check("POST", f"/containers/{identity}/start", body, *outcome)
            status, text = ask(engine, "DELETE", f"/containers/{identity}?force=1")
            check("DELETE", f"/containers/{identity}", body, status, text)
        if takes_away(method, template):
            fuzzed.restore()
        if template.startswith("/containers/") and template.endswith(("/pause", "/stop", "/kill", "/restart")):
            for action in ("unpause", "start"):
                ask(engine, "POST", f"/containers/{long_lived}/{action}")
    print(f"{sent} requests, {made} containers, seed {seed}; slowest: {waited_s.most_common(5)}")
    assert not bad, f"BERTH_FUZZ_SEED={seed}\n" + "\n\n".join(f"{key}\n    {value}" for key, value in bad.items())
    assert made or sent < 500, "no odd container was made"
    assert "Traceback" not in engine.log(), engine.log()[-5000:]
