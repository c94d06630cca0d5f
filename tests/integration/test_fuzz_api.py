"""schemathesis against every endpoint that is served: no request gets a 500 of berth's making, and none hangs.

The OpenAPI document is made here from the facts about Docker's API (paths, parameters, payload types); where
they or schemathesis are not there, the test is skipped.
"""

import contextlib
import json
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from harness import REPOSITORY, Engine
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: tools/setup --dev")
requests = pytest.importorskip("requests")

pytestmark = pytest.mark.root

FACTS = os.environ.get("BERTH_API_FACTS") or os.path.join(os.path.dirname(REPOSITORY), "shared/data/docker_api_endpoints.json")
SECONDS = float(os.environ.get("BERTH_FUZZ_SECONDS", "35"))
_HANGS_S = 12


@pytest.fixture(scope="module")
def fuzzed(rootfs_tar: str) -> Iterator[tuple[Engine, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    engine = Engine(("-H", f"tcp://127.0.0.1:{port}"), hosts=True)
    engine.docker("import", rootfs_tar, "bb")
    yield engine, f"http://127.0.0.1:{port}"
    engine.finish()


# -- the facts as OpenAPI -------------------------------------------------------------------------------------

_STUBS = ("Swarm", "Service", "Task", "Node", "Secret", "Config", "Plugin", "Network", "Volume", "Session", "Distribution")
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
    if path in ("/auth", "/swarm/init", "/commit"):
        return {"type": "object"}
    return None


def openapi(facts: dict[str, Any], container: str) -> dict[str, Any]:
    """Of the endpoints that are served."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in facts["endpoints"]:
        path, method = endpoint["path"], endpoint["method"].lower()
        if path.endswith("/ws") or method == "head" or endpoint["tag"] in _STUBS:
            continue
        parameters = []
        for each in endpoint["params"] or []:
            if each["in"] not in ("query", "path"):
                continue
            schema = schema_of(each.get("type", "string"), facts["definitions"])
            if each["in"] == "path" and path.startswith("/containers"):
                schema = {"type": "string", "enum": [container, "nothing", container[:3], "a%2Fb", "\u00e4"]}
            elif each["name"] in ("t", "until"):
                schema = {"enum": ["0", "1", "-2", "x", "1m"]}
            parameters.append({"name": each["name"], "in": each["in"], "required": each["in"] == "path" or each["name"] == "until", "schema": schema})
        operation: dict[str, Any] = {"parameters": parameters, "responses": {"default": {"description": "any"}}}
        body = body_of(path, facts["definitions"])
        if body is not None and method == "post":
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
        paths.setdefault(path, {})[method] = operation
    return {"openapi": "3.0.3", "info": {"title": "berth", "version": "1.51"}, "paths": paths}


# -- the requests ------------------------------------------------------------------------------------------------


class Fuzzer:
    """Sends what schemathesis makes up, and keeps what should not have been answered so."""

    def __init__(self, url: str, deadline_s: float) -> None:
        self.url, self.deadline_s = url, deadline_s
        self.sent = 0
        self.bad: dict[str, str] = {}
        self.waited_s: Counter[str] = Counter()
        self._session = requests.Session()

    def send(self, case: Any) -> None:
        if time.monotonic() > self.deadline_s:
            return
        keywords = case.as_transport_kwargs(base_url=self.url)
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

    def run(self, operation: Any, examples: int) -> None:
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            with contextlib.suppress(Unsatisfiable):
                settings(
                    max_examples=examples, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
                )(given(case=operation.as_strategy(generation_mode=mode))(self.send))()


@pytest.mark.timeout(180)
@pytest.mark.skipif(not os.path.exists(FACTS), reason="needs BERTH_API_FACTS: a JSON file of Docker's endpoints and definitions")
def test_schemathesis(fuzzed: tuple[Engine, str]) -> None:
    engine, url = fuzzed
    container = engine.up()
    engine.docker("create", "--name", "stopped", "--network", "none", "bb", "true")
    with open(FACTS) as file:
        document = openapi(json.load(file), container)
    # What would take away from the others that they ask about.
    for path, method in (("/containers/prune", "post"), ("/images/prune", "post"), ("/images/{name}", "delete"), ("/containers/{id}", "delete")):
        document["paths"].get(path, {}).pop(method, None)
    operations = [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]
    deadline_s = time.monotonic() + SECONDS
    fuzzer = Fuzzer(url, deadline_s)
    examples = 4
    while time.monotonic() < deadline_s:
        for operation in operations:
            fuzzer.run(operation, examples)
        examples *= 2
    print(f"{fuzzer.sent} requests to {len(operations)} operations; slowest: {fuzzer.waited_s.most_common(5)}")
    assert not fuzzer.bad, "\n\n".join(f"{key}\n    {value}" for key, value in fuzzer.bad.items())
    assert fuzzer.sent > len(operations)
    assert engine.docker("ps", "-aq", "--no-trunc").stdout
    assert "Traceback" not in engine.log(), engine.log()[-5000:]
