"""Events beside dockerd's: the same deeds on both engines make the same events, and the same filters choose the same of them."""

import http.client
import json
import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from dockerd import Dockerd
from harness import Engine

pytestmark = pytest.mark.root

_DEADLINE_S = 60
_IDS = re.compile(r"[0-9a-f]{64}|\b[0-9a-f]{12}\b")


class Seen:
    """One engine, driven by Docker's CLI, and a stream of its events."""

    def __init__(self, env: dict[str, str], path: Path) -> None:
        self.env, self.path = env, path
        path.mkdir()
        self.socket = env["DOCKER_HOST"].removeprefix("unix://")
        self.since = f"{time.time():.9f}"
        url = f"http://x/v1.41/events?since={self.since}"
        self.stream = subprocess.Popen(["curl", "-sN", "--unix-socket", self.socket, url], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.all: list[dict] = []
        self._rest = b""

    def close(self) -> None:
        self.stream.kill()
        self.stream.communicate()

    def docker(self, *words: str) -> str:
        """Its output; the exit code is no matter here. `@` stands for a directory of this engine's own."""
        done = subprocess.run(
            ["docker", *(word.replace("@", str(self.path)) for word in words)], env=self.env, capture_output=True, text=True,
            errors="replace", timeout=_DEADLINE_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.stdout.strip()

    def until(self, last: str) -> list[dict]:
        """The events that come, up to the one of this type and action."""
        found: list[dict] = []
        assert self.stream.stdout
        while True:
            while b"\n" not in self._rest:
                assert select.select([self.stream.stdout], [], [], _DEADLINE_S)[0], f"no {last!r} after {found}"
                data = os.read(self.stream.stdout.fileno(), 65536)
                assert data, f"the stream ended without {last!r}"
                self._rest += data
            line, _, self._rest = self._rest.partition(b"\n")
            found.append(json.loads(line))
            if f"{found[-1]['Type']} {found[-1]['Action']}".startswith(last):
                self.all += found
                return found

    def past(self, **query: str) -> list[dict]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.socket)
            client = http.client.HTTPConnection("x")
            client.sock = connection
            client.request("GET", f"/v1.41/events?{urlencode({'since': self.since, **query})}")
            response = client.getresponse()
            text = response.read().decode()
            assert response.status == 200, text
        return [json.loads(line) for line in text.splitlines()]


def shown(event: dict) -> str:
    """All of an event but its time, with ids as ID."""
    actor = event["Actor"]
    attributes = {key: value for key, value in sorted((actor["Attributes"] or {}).items()) if key not in ("execDuration", "reclaimed")}
    legacy = [event.get(key, "-") for key in ("status", "id", "from", "scope")]
    return _IDS.sub("ID", f"{event['Type']} {event['Action']} {actor['ID']} {attributes} {legacy}")


@pytest.fixture
def both(engine: Engine, real: Dockerd, tmp_path: Path) -> Iterator[Callable[..., tuple[list[str], list[str]]]]:
    for env in (real.env, engine.env):  # images without a name that other tests have left would be in a prune's events
        subprocess.run(["docker", "image", "prune", "-f"], env=env, capture_output=True, check=True)
    sides = [Seen(real.env, tmp_path / "real"), Seen(engine.env, tmp_path / "berth")]

    def deed(last: str, *words: str) -> None:
        theirs, ours = ([shown(event) for event in side.until(last)] for side in sides if side.docker(*words) is not None)
        # The signal and the death that it causes race with dockerd as with us: each kind has its own order.
        for kind in (lambda text: "kill" in text.split()[1], lambda text: "kill" not in text.split()[1]):
            assert [text for text in ours if kind(text)] == [text for text in theirs if kind(text)], words

    deed.sides = sides  # type: ignore[attr-defined]
    yield deed  # type: ignore[misc]
    for side in sides:
        side.close()


NONE = ("--network", "none")
LIFE: list[tuple[str, tuple[str, ...]]] = [
    ("container create", ("create", "--name", "evd", *NONE, "--label", "a=b", "-i", "bb", "sh", "-c", "read x; exit 3")),
    ("container start", ("start", "evd")),
    ("container exec_die", ("exec", "evd", "echo", "hi", "there")),
    ("container exec_die", ("exec", "-d", "evd", "false")),
    ("container exec_start", ("exec", "evd", "nosuch")),
    ("container pause", ("pause", "evd")),
    ("container unpause", ("unpause", "evd")),
    ("container rename", ("rename", "evd", "evd2")),
    ("container update", ("update", "--cpu-shares", "100", "evd2")),
    ("container top", ("top", "evd2")),
    ("container archive-path", ("cp", "evd2:/etc/passwd", "@/passwd")),
    ("container extract-to-dir", ("cp", "@/passwd", "evd2:/tmp/")),
    ("container export", ("export", "-o", "@/export.tar", "evd2")),
    ("container commit", ("commit", "--pause=false", "-m", "words", "-c", "LABEL c=d", "evd2", "evd-image:1")),
    ("container kill", ("kill", "-s", "CHLD", "evd2")),
    ("container restart", ("restart", "-t", "0", "evd2")),
    ("container stop", ("stop", "-t", "0", "evd2")),
    ("container start", ("start", "evd2")),
    ("container destroy", ("rm", "-f", "evd2")),
    ("container destroy", ("run", "--rm", *NONE, "--name", "evd3", "bb", "sh", "-c", "exit 2")),
    ("container destroy", ("run", "--rm", "--network", "host", "--name", "evd4", "--label", "x=1", "bb", "true")),
    ("container destroy", ("run", "--rm", *NONE, "--name", "evd5", "bb", "nosuch")),
    ("container start", ("run", "-d", *NONE, "--name", "evd6", "bb", "sleep", "1000")),
    ("container start", ("run", "-d", "--network", "container:evd6", "--name", "evd7", "bb", "sleep", "1000")),
    ("container destroy", ("rm", "-f", "evd7")),
    ("container destroy", ("rm", "-f", "evd6")),
    ("container health_status", ("run", "-d", *NONE, "--name", "evd8", "--health-cmd", "true", "--health-interval", "1s", "bb", "sleep", "1000")),
]
# Where a container names a volume that is there, dockerd 20.10 says once more that it was made; newer ones do not.
VOLUMES: list[tuple[str, tuple[str, ...]]] = [
    ("volume create", ("volume", "create", "--label", "a=b", "evd-one")),
    ("container create", ("create", "--name", "evd9", *NONE, "--mount", "src=evd-two,dst=/b,readonly", "bb", "true")),
    ("volume unmount", ("start", "evd9")),
    ("volume unmount", ("start", "evd9")),
    ("container destroy", ("rm", "-v", "evd9")),
    ("container destroy", ("run", "--rm", *NONE, "--name", "evd10", "-v", "/anon", "bb", "true")),
    ("container destroy", ("run", "--rm", *NONE, "--name", "evd11", "-v", "/anon", "bb", "nosuch")),
    ("container create", ("create", "--name", "evd12", *NONE, "-v", "/anon", "bb", "true")),
    ("container create", ("create", "--name", "evd13", *NONE, "--volumes-from", "evd12:ro", "bb", "true")),
    ("container destroy", ("rm", "-v", "evd12")),
    ("volume unmount", ("start", "evd13")),
    ("container destroy", ("rm", "-v", "evd13")),
    ("volume destroy", ("volume", "rm", "evd-one")),
    ("volume destroy", ("volume", "rm", "evd-two")),
]
IMAGES: list[tuple[str, tuple[str, ...]]] = [
    ("image tag", ("tag", "bb", "evd-tag:1")),
    ("image tag", ("tag", "evd-tag:1", "evd-tag:2")),
    ("image save", ("save", "-o", "@/one.tar", "evd-tag")),
    ("image untag", ("rmi", "evd-tag:1")),
    ("image load", ("load", "-i", "@/one.tar")),
    ("image delete", ("rmi", "evd-image:1")),
    ("image import", ("import", "-c", "LABEL e=f", "@/export.tar", "evd-import:1")),
    ("image save", ("save", "-o", "@/import.tar", "evd-import:1")),
    ("image delete", ("rmi", "evd-import:1")),
    ("image load", ("load", "-i", "@/import.tar")),
    ("image untag", ("rmi", "evd-tag:1")),
    ("image untag", ("rmi", "evd-tag:2")),
    ("image delete", ("rmi", "-f", "evd-import:1")),
    ("image import", ("import", "@/export.tar")),
    ("image prune", ("image", "prune", "-f")),
    ("container prune", ("container", "prune", "-f", "--filter", "label=evd-nothing")),
    ("network prune", ("network", "prune", "-f")),
    ("volume prune", ("volume", "prune", "-f")),
]
FILTERS: list[dict[str, list[str]]] = [
    {"container": ["evd"]}, {"container": ["evd2"]}, {"container": ["evd", "evd3"]}, {"container": ["none"]}, {"container": [""]},
    {"container": ["{id}"]}, {"container": ["{id12}"]}, {"container": ["/evd"]}, {"container": ["nosuch"]},
    {"event": ["start"]}, {"event": ["die", "start"]}, {"event": ["exec_create"]}, {"event": ["exec"]}, {"event": ["exec_start: echo hi there"]},
    {"event": ["exec_start", "dis"]}, {"event": ["health_status"]}, {"event": ["connect"]}, {"event": ["tag", "untag", "prune"]},
    {"image": ["bb"]}, {"image": ["bb:latest"]}, {"image": ["evd-tag"]}, {"image": ["evd-tag:1"]}, {"image": ["{image}"]}, {"image": ["b"]},
    {"label": ["a"]}, {"label": ["a=b"]}, {"label": ["a=c"]}, {"label": ["a=b", "x"]}, {"label": ["c=d"]}, {"label": ["image=bb"]},
    {"label": ["e"], "type": ["image"]}, {"type": ["network"]}, {"type": ["container", "image"]}, {"type": ["volume"]}, {"type": ["con"]},
    {"daemon": ["evd"]}, {"daemon": ["nosuch"]}, {"scope": ["local"]}, {"scope": ["swarm"]}, {"scope": ["l"]},
    {"network": ["none"]}, {"network": ["ho"]}, {"network": ["evd3"]}, {"volume": ["evd3"]}, {"plugin": ["evd3"]}, {"node": ["x"]},
    {"type": ["network"], "network": ["none"], "event": ["connect"]}, {"container": ["evd"], "event": ["die"], "image": ["bb"]},
    {"container": ["evd"], "network": ["none"]}, {"nosuch": ["x"]}, {},
]  # fmt: skip


def test_same_deeds_same_events_same_filters(both: Callable[..., None]) -> None:
    sides: list[Seen] = both.sides  # type: ignore[attr-defined]
    for last, words in LIFE:
        both(last, *words)
    for side in sides:  # a probe may run at this moment: the rest of this container's life is not compared
        side.docker("rm", "-f", "evd8")
        side.until("container destroy")
    for last, words in IMAGES:
        both(last, *words)
    found: list[list[list[str]]] = []
    for side in sides:
        until = f"{time.time():.9f}"
        times = [event["timeNano"] for event in side.all]
        assert times == sorted(times)
        assert all(event["time"] == event["timeNano"] // 1_000_000_000 for event in side.all)
        # What was streamed is what is kept; a prune of images may come after one that another test caused.
        assert [shown(event) for event in side.past(until=until)] == [shown(event) for event in side.all]
        identity = next(event["Actor"]["ID"] for event in side.all if event["Action"] == "create")
        image = next(event["Actor"]["ID"] for event in side.all if event["Action"] == "tag")
        found.append([])
        for filters in FILTERS:
            text = json.dumps(filters).replace("{id}", identity).replace("{id12}", identity[:12]).replace("{image}", image)
            # Without the container whose probes come when they come, and without what races: the order is compared above.
            events = [e for e in side.past(until=until, filters=text) if e["Actor"]["Attributes"].get("name") != "evd8"]
            probed = {e["Actor"]["ID"] for e in side.all if e["Actor"]["Attributes"].get("name") == "evd8"}
            found[-1].append(sorted(shown(e) for e in events if e["Actor"]["Attributes"].get("container") not in probed))
    for filters, theirs, ours in zip(FILTERS, *found, strict=True):
        assert ours == theirs, filters
    assert {bool(chosen) for chosen in found[0]} == {True, False}


def test_events_of_volumes(both: Callable[..., None]) -> None:
    for last, words in VOLUMES:
        both(last, *words)


def test_filter_forms_and_spans(both: Callable[..., None]) -> None:
    sides: list[Seen] = both.sides  # type: ignore[attr-defined]
    for side in sides:
        side.docker("run", "--rm", *NONE, "--name", "evspan", "bb", "true")
        events = side.until("container destroy")
        until = f"{time.time():.9f}"
        # the old form of filters, a map, with the same result
        old = json.dumps({"container": {"evspan": True}, "event": {"die": True, "start": True}})
        assert [e["Action"] for e in side.past(until=until, filters=old)] == ["start", "die"]
        start = next(e["timeNano"] for e in events if e["Action"] == "start")
        at = f"{start // 10**9}.{start % 10**9:09d}"
        assert [e["Action"] for e in side.past(since=at, until=at, filters=old)] == ["start"]
        assert side.past(since="1", until="2") == []
