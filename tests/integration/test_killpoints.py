"""The engine killed right before a file operation, SQL statement or message of each verb, and what the next one finds.

BERTH_KILLPOINTS=all tries every point (minutes), 100:200 those of all; without it each verb is tried at three: one of each kind, in turn the
first, the middle and the last. What is there afterwards is read from SQLite, /proc, the cgroups and the directories.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator

import pytest
from harness import Engine, all_pids, comm, group_file, group_names, has_ended, mounts, parent, read, wait_until
from killpoints import KINDS, LAYOUT

pytestmark = [pytest.mark.root, pytest.mark.timeout(3600 if os.environ.get("BERTH_KILLPOINTS") else 120)]

Json = dict | list | None


class Killed:
    """An engine that kills itself where it is told."""

    def __init__(self, control: str, enter: tuple[str, ...] = ()) -> None:
        """enter: the command that takes the engine to its host, which then has the default network."""
        self.control = control
        self.turn = 0
        self.leave_alone()
        wrapper = (*enter, sys.executable, os.path.join(os.path.dirname(__file__), "killpoints.py"), control)
        self.engine = Engine((), wrapper, bridge=bool(enter))
        self.archive = b""

    def count(self, kind: str = "", at: int = 0) -> None:
        """From now on, and to be killed before the occurrence `at` of a kind."""
        self.turn += 1
        self._write(self.turn, KINDS.index(kind), at)

    def leave_alone(self) -> None:
        self._write(0, 0, 0)

    def _write(self, *numbers: int) -> None:
        with open(self.control, "r+b" if os.path.exists(self.control) else "wb") as file:
            file.write(LAYOUT.pack(*numbers))

    def points(self) -> list[str]:
        return read(f"{self.control}.log").splitlines()

    def forget_points(self) -> None:
        os.truncate(f"{self.control}.log", 0)

    def ask(self, method: str, path: str, body: Json | bytes = None) -> tuple[int, object]:
        """One request on a connection of its own; (0, None) if the engine dies over it."""
        connection = http.client.HTTPConnection("berth", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(f"{self.engine.exec}/berth.sock")
            data = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
            kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
            connection.request(method, path, data, {"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text

    def do(self, method: str, path: str, body: Json | bytes = None) -> object:
        status, answer = self.ask(method, path, body)
        assert 200 <= status < 300, (method, path, status, answer)
        return answer

    # -- seen without the engine --------------------------------------------------------------------

    def rows(self, query: str) -> list[tuple]:
        connection = sqlite3.connect(f"file:{self.engine.data}/berth.db?mode=ro", uri=True)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def records(self) -> dict[str, dict]:
        """Name -> record."""
        return {name: json.loads(record) for name, record in self.rows("SELECT name, record FROM containers")}

    def tags(self) -> dict[str, str]:
        return dict(self.rows("SELECT name, image FROM tags"))

    def running(self) -> set[str]:
        """Ids of containers whose programs run under a monitor."""
        found = set()
        for pid in all_pids():
            match = re.search(re.escape(self.engine.data) + r"/containers/([0-9a-f]{64})/", read(f"/proc/{pid}/mountinfo"))
            if match and comm(parent(pid)) == "berth-monitor":
                found.add(match[1])
        return found

    def alive(self) -> set[str]:
        """Ids of containers whose programs should run."""
        return {record["id"] for record in self.records().values() if record["status"] in ("running", "paused")}

    def check(self) -> None:
        """What must hold whatever the moment was."""
        data = self.engine.data
        records = {record["id"]: record for record in self.records().values()}
        assert len(records) == len(self.rows("SELECT id FROM containers"))
        listed = self.do("GET", "/containers/json?all=1")
        assert isinstance(listed, list)
        assert sorted(entry["Id"] for entry in listed) == sorted(records)
        for base in (f"{data}/containers", f"{self.engine.exec}/containers"):
            wait_until(lambda base=base: set(os.listdir(base)) <= set(records), f"directories of nobody in {base}")
        wait_until(lambda: self.running() == self.alive(), "monitors of nobody, or none of somebody")
        alive = self.alive()
        ever = set(re.findall(r"[0-9a-f]{64}", read(f"{data}/records/journal") + read(f"{data}/records/snapshot")))
        self.engine.seen_ids |= ever
        wait_until(lambda: not (ever - alive) & set().union(*group_names().values()), "cgroups of containers that do not run")
        self.wait_until_removed()
        unfinished = [name for directory in (data, f"{data}/records") for name in os.listdir(directory) if name.endswith(".new")]
        assert not unfinished
        self.check_volumes(records)
        chains = {chain for (chain,) in self.rows("SELECT chain FROM chains")}
        assert set(os.listdir(f"{data}/layers")) == set(os.listdir(f"{data}/recipes")) == {chain[7:] for chain in chains}
        images = {identity for (identity,) in self.rows("SELECT id FROM images")}
        assert set(self.tags().values()) == images, "an image without a name, or a name without an image"
        assert chains >= {chain for (chain,) in self.rows("SELECT chain FROM images")}

    def volumes(self) -> dict[str, dict]:
        """Name -> record."""
        return {name: json.loads(record) for name, record in self.rows("SELECT name, record FROM volumes")}

    def files_of(self, volume: str) -> list[str]:
        return sorted(os.listdir(f"{self.engine.data}/volumes/{volume}/_data"))

    def check_volumes(self, records: dict[str, dict]) -> None:
        """Directories and records are the same; anonymous ones are somebody's; only what a running container has is mounted."""
        top, known = f"{self.engine.data}/volumes", self.volumes()
        wait_until(lambda: set(os.listdir(top)) == set(known), "directories of volumes that are no more")
        assert {name: os.listdir(f"{top}/{name}") for name in known} == {name: ["_data"] for name in known}
        used = {point["name"] for record in records.values() for point in record["mounts"] if point["kind"] == "volume"}
        assert {name for name, record in known.items() if "com.docker.volume.anonymous" in record["labels"]} <= used
        assert used <= set(known)
        running = [record for record in records.values() if record["status"] in ("running", "paused")]
        in_use = {point["name"] for record in running for point in record["mounts"] if point["kind"] == "volume"}
        expected = {f"{top}/{name}/_data" for name in in_use if known[name]["options"]}

        def mounted() -> set[str]:
            return {line.split()[4] for line in mounts() - self.engine.mounts_before if self.engine.top in line}

        wait_until(lambda: mounted() == expected, "mounts of volumes that nobody uses")

    def set_aside(self) -> list[str]:
        """Files of databases that were not believed."""
        return [f"{self.engine.data}/{name}" for name in os.listdir(self.engine.data) if "damaged" in name]

    def clean(self) -> None:
        for record in self.records().values():
            status, answer = self.ask("DELETE", f"/containers/{record['id']}?force=1")
            assert status in (204, 404, 409), answer  # it may be going already
        wait_until(lambda: not self.records(), "containers")
        for name in self.volumes():
            self.do("DELETE", f"/volumes/{name}")
        for name in self.tags():
            if name != "bb:latest":
                self.do("DELETE", f"/images/{name}")
        self.wait_until_removed()

    def wait_until_removed(self) -> None:
        """Until the files of layers that are to go are gone, or the engine is."""
        process = self.engine.process
        assert process
        wait_until(lambda: os.listdir(f"{self.engine.data}/tmp") == [] or process.poll() is not None, "layers that nobody uses")


@pytest.fixture(scope="module")
def killed(rootfs_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    engine = Killed(str(tmp_path_factory.mktemp("killpoints") / "control"))
    engine.engine.docker("import", rootfs_tar, "bb")
    made = _ended(engine, "archived", "echo $RANDOM > /archived")
    engine.do("POST", f"/commit?container={made}&repo=loaded&tag=1")
    saved = engine.do("GET", "/images/loaded:1/get")
    assert isinstance(saved, bytes)
    engine.archive = saved
    engine.clean()
    yield engine
    engine.engine.finish()


def _create(killed: Killed, name: str, *command: str) -> str:
    body = {"Image": "bb", "Cmd": list(command or ("sleep", "1000")), "HostConfig": {"NetworkMode": "none"}}
    answer = killed.do("POST", f"/containers/create?name={name}", body)
    assert isinstance(answer, dict)
    return str(answer["Id"])


def _up(killed: Killed, name: str, *command: str) -> str:
    identity = _create(killed, name, *command)
    killed.do("POST", f"/containers/{identity}/start")
    return identity


def _ended(killed: Killed, name: str, script: str) -> str:
    identity = _up(killed, name, "sh", "-c", script)
    killed.do("POST", f"/containers/{identity}/wait")
    return identity


def _one_of(seen: object, *allowed: object) -> None:
    assert seen in allowed


def _seen(killed: Killed, name: str) -> tuple[str, int] | None:
    record = killed.records().get(name)
    return (record["status"], record["exit_code"]) if record else None


def _memory_agrees(killed: Killed) -> None:
    record = killed.records()["kp"]
    limit = record["host"].get("Memory") or 0
    _one_of(limit, 64 << 20, 128 << 20)
    assert group_file(record["id"], "memory", "memory.limit_in_bytes") == str(limit)


def _prepare_update(killed: Killed) -> None:
    body = {"Image": "bb", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none", "Memory": 64 << 20, "MemorySwap": -1}}
    killed.do("POST", "/containers/create?name=kp", body)
    killed.do("POST", "/containers/kp/start")


def _freezer_agrees(killed: Killed) -> None:
    record = killed.records()["kp"]
    frozen = group_file(record["id"], "freezer", "freezer.state")
    _one_of((record["status"], frozen), ("running", "THAWED"), ("paused", "FROZEN"))


def _paused(killed: Killed) -> None:
    _up(killed, "kp")
    killed.do("POST", "/containers/kp/pause")


def _exec(killed: Killed) -> None:
    status, answer = killed.ask("POST", "/containers/kp/exec", {"Cmd": ["touch", "/done"]})
    if status == 201 and isinstance(answer, dict):
        killed.ask("POST", f"/exec/{answer['Id']}/start", {"Detach": True})


def _named(killed: Killed, name: str) -> None:
    """An image of its own layer."""
    made = _ended(killed, "source", "echo x > /made")
    killed.do("POST", f"/commit?container={made}&repo={name}&tag=1")
    killed.do("DELETE", f"/containers/{made}")


_WITH_VOLUMES = {"Image": "bb", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none", "Binds": ["kpv:/etc", "kpm:/m", "/anon"]}}
_ETC = ["group", "passwd", "plain"]


def _prepare_volumes(killed: Killed) -> None:
    """One in memory, one that holds something."""
    killed.do("POST", "/volumes/create", {"Name": "kpm", "DriverOpts": {"type": "tmpfs", "device": "tmpfs"}})


def _create_with_volumes(killed: Killed) -> None:
    _prepare_volumes(killed)
    killed.do("POST", "/containers/create?name=kp", _WITH_VOLUMES)


def _volumes_are_whole(killed: Killed) -> None:
    """What came of a container with volumes: none of it, or all; and a start fills what is empty still."""
    seen = _seen(killed, "kp")
    _one_of(seen, None, ("created", 0), _RUNNING)
    if seen is None:
        assert set(killed.volumes()) <= {"kpv", "kpm"}
        return
    assert len(killed.volumes()) == 3
    _one_of(killed.files_of("kpv"), [], _ETC, sorted([*_ETC, "hostname", "hosts", "resolv.conf"]))
    if seen == ("created", 0):
        killed.do("POST", "/containers/kp/start")
    assert set(killed.files_of("kpv")) >= set(_ETC)
    killed.check_volumes({record["id"]: record for record in killed.records().values()})


def _volume_or_nothing(killed: Killed) -> None:
    """A volume that holds a file, or no volume."""
    if "kpv" in killed.volumes():
        assert killed.files_of("kpv") == ["file"]


def _prepare_named_volume(killed: Killed) -> None:
    killed.do("POST", "/volumes/create", {"Name": "kpv"})
    with open(f"{killed.engine.data}/volumes/kpv/_data/file", "w") as file:
        file.write("x")


_OTHER_MOUNTS = {"MountRemove": ["/first"], "MountAdd": [
    {"Type": "bind", "Source": "/usr", "Target": "/second"}, {"Type": "volume", "Source": "kpv", "Target": "/third"}, {"Type": "tmpfs", "Target": "/fourth"},
    {"Type": "volume", "Target": "/fifth"}, {"Type": "volume", "Source": "kpm", "Target": "/sixth"}]}  # fmt: skip


def _up_with_a_mount(killed: Killed) -> None:
    _prepare_volumes(killed)
    body = {"Image": "bb", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none", "Binds": ["/usr:/first"]}}
    killed.do("POST", "/containers/create?name=kp", body)
    killed.do("POST", "/containers/kp/start")


def _mounts_agree(killed: Killed) -> None:
    """As before or as after, and in the record what is in the container, each once."""
    record = killed.records()["kp"]
    known = [point["destination"] for point in record["mounts"]]
    _one_of(sorted(known), ["/first"], sorted(("/second", "/third", "/fourth", "/fifth", "/sixth")))
    assert not record["pending_mounts"]
    there = [line.split()[4] for line in read(f"/proc/{record['pid']}/mountinfo").splitlines()]
    assert sorted(place for place in there if re.fullmatch("/(first|second|third|fourth|fifth|sixth)", place)) == sorted(known)


class Verb:
    """prepare: what is there before; act: the request; check: that it is as before or as after."""

    def __init__(self, prepare: Callable[[Killed], object], act: Callable[[Killed], object], check: Callable[[Killed], None]) -> None:
        self.prepare = prepare
        self.act = act
        self.check = check


_RUNNING, _KILLED = ("running", 0), ("exited", 137)
_BODY = {"Image": "bb", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
VERBS = {
    "create": Verb(
        lambda k: None, lambda k: k.ask("POST", "/containers/create?name=kp", _BODY), lambda k: _one_of(_seen(k, "kp"), None, ("created", 0))
    ),
    "start": Verb(
        lambda k: _create(k, "kp"), lambda k: k.ask("POST", "/containers/kp/start"), lambda k: _one_of(_seen(k, "kp"), ("created", 0), _RUNNING)
    ),
    "stop": Verb(
        lambda k: _up(k, "kp"), lambda k: k.ask("POST", "/containers/kp/stop?t=0"), lambda k: _one_of(_seen(k, "kp"), _RUNNING, _KILLED)
    ),
    "kill": Verb(
        lambda k: _up(k, "kp"), lambda k: k.ask("POST", "/containers/kp/kill"), lambda k: _one_of(_seen(k, "kp"), _RUNNING, _KILLED)
    ),
    "restart": Verb(
        lambda k: _up(k, "kp"), lambda k: k.ask("POST", "/containers/kp/restart?t=0"), lambda k: _one_of(_seen(k, "kp"), _RUNNING, _KILLED)
    ),
    "rm": Verb(
        lambda k: _ended(k, "kp", "exit 7"), lambda k: k.ask("DELETE", "/containers/kp"), lambda k: _one_of(_seen(k, "kp"), ("exited", 7), None)
    ),
    "rm-force": Verb(
        lambda k: _up(k, "kp"), lambda k: k.ask("DELETE", "/containers/kp?force=1"), lambda k: _one_of(_seen(k, "kp"), _RUNNING, _KILLED, None)
    ),
    "rename": Verb(
        lambda k: _create(k, "kp"), lambda k: k.ask("POST", "/containers/kp/rename?name=kp2"),
        lambda k: _one_of((_seen(k, "kp"), _seen(k, "kp2")), (None, ("created", 0)), (("created", 0), None)),
    ),
    "update": Verb(_prepare_update, lambda k: k.ask("POST", "/containers/kp/update", {"Memory": 128 << 20}), _memory_agrees),
    "pause": Verb(lambda k: _up(k, "kp"), lambda k: k.ask("POST", "/containers/kp/pause"), _freezer_agrees),
    "unpause": Verb(_paused, lambda k: k.ask("POST", "/containers/kp/unpause"), _freezer_agrees),
    "commit-running": Verb(
        lambda k: _up(k, "kp"), lambda k: k.ask("POST", "/commit?container=kp&repo=made&tag=1"),
        lambda k: (_one_of(_seen(k, "kp"), _RUNNING), _freezer_agrees(k)) and None,
    ),
    "exec": Verb(lambda k: _up(k, "kp"), _exec, lambda k: _one_of(_seen(k, "kp"), _RUNNING)),
    "commit": Verb(
        lambda k: _ended(k, "kp", "echo x > /file"), lambda k: k.ask("POST", "/commit?container=kp&repo=made&tag=1"),
        lambda k: _one_of(set(k.tags()), {"bb:latest"}, {"bb:latest", "made:1"}),
    ),
    "load": Verb(
        lambda k: None, lambda k: k.ask("POST", "/images/load", k.archive),
        lambda k: _one_of(set(k.tags()), {"bb:latest"}, {"bb:latest", "loaded:1"}),
    ),
    "tag": Verb(
        lambda k: None, lambda k: k.ask("POST", "/images/bb/tag?repo=more&tag=1"),
        lambda k: _one_of(set(k.tags()), {"bb:latest"}, {"bb:latest", "more:1"}),
    ),
    "rmi": Verb(
        lambda k: _named(k, "goes"), lambda k: (k.ask("DELETE", "/images/goes:1"), k.wait_until_removed()),
        lambda k: _one_of(set(k.tags()), {"bb:latest"}, {"bb:latest", "goes:1"}),
    ),
    "volume-create": Verb(
        lambda k: None, lambda k: k.ask("POST", "/volumes/create", {"Name": "kpv", "Labels": {"a": "b"}}),
        lambda k: _one_of([(v["name"], v["labels"]) for v in k.volumes().values()], [], [("kpv", {"a": "b"})]),
    ),
    "volume-rm": Verb(_prepare_named_volume, lambda k: k.ask("DELETE", "/volumes/kpv"), _volume_or_nothing),
    "volume-prune": Verb(_prepare_named_volume, lambda k: k.ask("POST", "/volumes/prune?filters=%7B%22all%22%3A%5B%221%22%5D%7D"), _volume_or_nothing),
    "create-volumes": Verb(_prepare_volumes, lambda k: k.ask("POST", "/containers/create?name=kp", _WITH_VOLUMES), _volumes_are_whole),
    "start-volumes": Verb(_create_with_volumes, lambda k: k.ask("POST", "/containers/kp/start"), _volumes_are_whole),
    "rm-volumes": Verb(
        _create_with_volumes, lambda k: k.ask("DELETE", "/containers/kp?v=1"),
        lambda k: _one_of((_seen(k, "kp"), len(k.volumes())), (("created", 0), 3), (None, 2)),
    ),
    "update-mounts": Verb(_up_with_a_mount, lambda k: k.ask("POST", "/containers/kp/update", _OTHER_MOUNTS), _mounts_agree),
    "prune": Verb(
        lambda k: [_ended(k, name, "exit 7") for name in ("kp", "kp2")], lambda k: k.ask("POST", "/containers/prune"),
        lambda k: [_one_of(_seen(k, name), ("exited", 7), None) for name in ("kp", "kp2")] and None,
    ),
}  # fmt: skip


def chosen_points(turn: int, points: list[str]) -> list[tuple[str, int]]:
    """(kind, occurrence) to kill at. turn: which of the first, the middle and the last is begun with."""
    counts = {kind: sum(point.startswith(f"{kind} ") for point in points) for kind in KINDS[1:]}
    if which := os.environ.get("BERTH_KILLPOINTS"):
        every = [(kind, at) for kind, count in counts.items() for at in range(1, count + 1)]
        begin, _, end = which.replace("all", "0:").partition(":")
        return every[int(begin) : int(end or len(every))]
    picks = {kind: (1, (count + 1) // 2, count)[(turn + number) % 3] for number, (kind, count) in enumerate(counts.items())}
    return [(kind, at) for kind, at in picks.items() if at]


@pytest.mark.parametrize("verb", VERBS)
def test_killed_within(killed: Killed, verb: str) -> None:
    chosen = VERBS[verb]
    killed.clean()  # of a verb that failed
    chosen.prepare(killed)
    killed.count()
    chosen.act(killed)
    killed.leave_alone()
    points = killed.points()
    killed.forget_points()
    killed.clean()
    assert points
    hit = 0
    todo = chosen_points(list(VERBS).index(verb), points)
    for kind, at in todo:
        chosen.prepare(killed)
        killed.count(kind, at)
        chosen.act(killed)
        killed.leave_alone()
        seen = killed.points()
        killed.forget_points()
        last = (seen or ["none"])[-1]
        hit += sum(point.startswith(f"{kind} ") for point in seen) >= at
        killed.engine.kill()  # one that has not met the point
        killed.engine.start()
        try:
            killed.check()
            chosen.check(killed)
            assert not killed.set_aside()
            killed.clean()
        except AssertionError as error:
            raise AssertionError(f"{verb}, killed before {kind} {at} ({last}): {error}\n{killed.engine.log()[-3000:]}") from error
    assert hit >= (len(todo) + 1) // 2, f"only {hit} of {len(todo)} points were met: the engine does not do the same twice"


def _leave_work(killed: Killed) -> int:
    """An engine that is gone, and all that the next one has to mend; returns the pid of a program that runs on."""
    for name, script in (("kp-run", "sleep 1000"), ("kp-lost", "sleep 1000"), ("kp-always", "sleep 1000"), ("kp-rm", "sleep 1000")):
        host = {"NetworkMode": "none", "AutoRemove": name == "kp-rm", "RestartPolicy": {"Name": name[3:] if name == "kp-always" else "no"}}
        killed.do("POST", f"/containers/create?name={name}", {"Image": "bb", "Cmd": ["sh", "-c", f"exec {script}"], "HostConfig": host})
        killed.do("POST", f"/containers/{name}/start")
    _ended(killed, "kp-ended", "exit 7")
    killed.do("POST", "/containers/create?name=kp-created-rm", {**_BODY, "HostConfig": {"NetworkMode": "none", "AutoRemove": True}})
    killed.do("POST", "/images/bb/tag?repo=more&tag=1")
    pids = {name: killed.engine.pid(name) for name in ("kp-run", "kp-lost", "kp-always", "kp-rm")}
    monitors = {name: parent(pid) for name, pid in pids.items()}
    killed.engine.kill()
    os.kill(monitors["kp-lost"], signal.SIGKILL)
    for name in ("kp-always", "kp-rm"):
        os.kill(pids[name], signal.SIGKILL)
    gone = {monitors[name] for name in ("kp-lost", "kp-always", "kp-rm")}
    wait_until(lambda: all(has_ended(pid) for pid in (*gone, pids["kp-lost"])), "monitors")
    for path in ("tmp/half", f"recipes/{'a' * 64}/recipe", f"layers/{'b' * 64}/file", f"containers/{'c' * 64}/upper/file"):
        os.makedirs(os.path.dirname(f"{killed.engine.data}/{path}"), exist_ok=True)
        with open(f"{killed.engine.data}/{path}", "w") as file:
            file.write("of nobody")
    os.truncate(f"{killed.engine.data}/berth.db", 4096)
    os.unlink(f"{killed.engine.data}/berth.db-wal")
    return pids["kp-run"]


def _mended(killed: Killed, running: int) -> None:
    wait_until(lambda: _seen(killed, "kp-always") == _RUNNING, "the policy to start it")
    killed.check()
    assert _seen(killed, "kp-run") == _RUNNING
    assert killed.records()["kp-run"]["pid"] == running
    assert comm(running) == "sleep"
    assert killed.records()["kp-always"]["restarts"] == 1
    assert _seen(killed, "kp-lost") == _KILLED
    assert _seen(killed, "kp-ended") == ("exited", 7)
    assert _seen(killed, "kp-rm") is _seen(killed, "kp-created-rm") is None
    assert set(killed.tags()) == {"bb:latest", "more:1"}
    assert len(killed.set_aside()) >= 1
    for path in killed.set_aside():
        os.unlink(path)
    killed.clean()


def test_killed_while_it_mends(killed: Killed) -> None:
    """One that starts over a damaged database, with containers that ended meanwhile, is killed as well."""
    killed.clean()
    running = _leave_work(killed)
    killed.count()
    killed.engine.start()
    wait_until(lambda: _seen(killed, "kp-always") == _RUNNING, "the policy to start it")
    killed.leave_alone()
    points = killed.points()
    killed.forget_points()
    _mended(killed, running)
    hit = 0
    todo = chosen_points(len(VERBS), points)
    for kind, at in todo:
        running = _leave_work(killed)
        killed.count(kind, at)
        with contextlib.suppress(AssertionError):
            killed.engine.start()
            process = killed.engine.process
            assert process
            wait_until(lambda: process.poll() is not None or _seen(killed, "kp-always") == _RUNNING, "the policy to start it")  # noqa: B023
        killed.leave_alone()
        seen = killed.points()
        killed.forget_points()
        hit += sum(point.startswith(f"{kind} ") for point in seen) >= at
        killed.engine.kill()
        killed.engine.start()
        try:
            _mended(killed, running)
        except AssertionError as error:
            last = (seen or ["none"])[-1]
            raise AssertionError(f"killed before {kind} {at} ({last}): {error}\n{killed.engine.log()[-3000:]}") from error
    assert hit >= (len(todo) + 1) // 2, f"only {hit} of {len(todo)} points were met"
