"""The systemd driver's decisions: names, properties, annotations, and the calls it makes to a fake systemd."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from berth.errors import BerthError, Conflict, InvalidSpec, NotImplementedHere, SystemFailure, Unavailable
from berth.linux import cgroup, cgroup_systemd, dbus

INFINITY = (1 << 64) - 1


@pytest.mark.parametrize(
    ("path", "rootless", "name", "at"),
    [
        ("system.slice:docker:1", False, "docker-1.scope", "/system.slice/docker-1.scope"),
        (":berth:x", False, "berth-x.scope", "/system.slice/berth-x.scope"),
        (":berth:x", True, "berth-x.scope", "/user.slice/berth-x.scope"),
        ("-.slice:p:n", False, "p-n.scope", "/p-n.scope"),
        ("a-b-c.slice:p:n", False, "p-n.scope", "/a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
        ("a.slice:p:a-b.slice", False, "a-b.slice", "/a.slice/a-b.slice"),
    ],
)
def test_paths(path: str, rootless: bool, name: str, at: str) -> None:
    unit = cgroup_systemd.parse_path(path, rootless=rootless)
    assert (unit.name, unit.path) == (name, at)


@pytest.mark.parametrize(
    "path",
    ["", "x", "/a/b", "a.slice:b", "a.slice:b:c:d", "a.slice:b:", "a:b:c", ".slice:b:c", "a--b.slice:b:c", "-a.slice:b:c", "a-.slice:b:c",
     "a/b.slice:b:c", "..slice/:b:c", ":../x:c", ":b:c/d", ":b:c d", ":b:c@d", ":b:" + "c" * 250, "::-.slice/x.slice", ":b:\n"],
)  # fmt: skip
def test_malformed_paths(path: str) -> None:
    with pytest.raises(InvalidSpec, match=r"linux\.cgroupsPath"):
        cgroup_systemd.parse_path(path)


CASES = [
    (2, {}, []),
    (2, {"memory": {"limit": 100, "swap": 300, "reservation": 50}}, [("MemoryMax", "t", 100), ("MemoryLow", "t", 50), ("MemorySwapMax", "t", 200)]),
    (2, {"memory": {"limit": 100, "swap": -1}}, [("MemoryMax", "t", 100), ("MemorySwapMax", "t", INFINITY)]),
    (2, {"cpu": {"shares": 1024}}, [("CPUWeight", "t", 39)]),
    (2, {"cpu": {"shares": 1024, "idle": 1}}, [("CPUWeight", "t", 0)]),
    (2, {"cpu": {"quota": 50000, "period": 200000}}, [("CPUQuotaPeriodUSec", "t", 200000), ("CPUQuotaPerSecUSec", "t", 250000)]),
    (2, {"cpu": {"quota": 12345, "period": 100000}}, [("CPUQuotaPeriodUSec", "t", 100000), ("CPUQuotaPerSecUSec", "t", 130000)]),
    (2, {"cpu": {"quota": -1, "period": 1000}}, [("CPUQuotaPeriodUSec", "t", 1000), ("CPUQuotaPerSecUSec", "t", INFINITY)]),
    (2, {"cpu": {"cpus": "0-2,9", "mems": "0"}}, [("AllowedCPUs", "ay", b"\x07\x02"), ("AllowedMemoryNodes", "ay", b"\x01")]),
    (2, {"pids": {"limit": 17}}, [("TasksMax", "t", 17)]),
    (2, {"pids": {"limit": -1}}, [("TasksMax", "t", INFINITY)]),
    (2, {"blockIO": {"weight": 1000}}, [("IOWeight", "t", 10000)]),
    (2, {"unified": {"memory.high": "5", "memory.min": "max", "pids.max": "3", "io.max": "8:0 rbps=1"}},
     [("MemoryHigh", "t", 5), ("MemoryMin", "t", INFINITY), ("TasksMax", "t", 3)]),
    (1, {"memory": {"limit": 100, "swap": 300}}, [("MemoryLimit", "t", 100)]),
    (1, {"cpu": {"shares": 512, "quota": 1000}}, [("CPUShares", "t", 512), ("CPUQuotaPeriodUSec", "t", 100000), ("CPUQuotaPerSecUSec", "t", 10000)]),
    (1, {"blockIO": {"weight": 300}, "pids": {"limit": -1}}, [("BlockIOWeight", "t", 300), ("TasksMax", "t", INFINITY)]),
]  # fmt: skip


@pytest.mark.parametrize(("version", "resources", "expected"), CASES)
def test_properties(version: int, resources: dict, expected: list) -> None:
    assert cgroup_systemd.properties(resources, version) == expected
    for _, signature, value in expected:
        dbus.pack(signature, (value,))


def test_an_older_systemd_is_told_less() -> None:
    resources = {"cpu": {"cpus": "0", "quota": 1000, "period": 1000, "shares": 1024, "idle": 1}}
    names = [name for name, _, _ in cgroup_systemd.properties(resources, 2, 239)]
    assert names == ["CPUWeight", "CPUQuotaPerSecUSec"]
    assert cgroup_systemd.properties(resources, 2, 239)[0] == ("CPUWeight", "t", 39)


@pytest.mark.parametrize("cpus", ["a", "3-1", "-1", "99999", "1,,2"])
def test_cpu_lists_that_are_none(cpus: str) -> None:
    with pytest.raises(InvalidSpec):
        cgroup_systemd.properties({"cpu": {"cpus": cpus}}, 2)


_DENY: dict[str, Any] = {"allow": False, "access": "rwm"}


def _rule(kind: str, major: int | None, minor: int | None, access: str, allow: bool = True) -> dict[str, Any]:
    return {"allow": allow, "type": kind, "major": major, "minor": minor, "access": access}


DEVICES: list[tuple[list[dict], list, list]] = [
    ([_DENY], [], []),
    ([_DENY, _rule("c", 1, 3, "rwm")], [("/dev/char/1:3", "rwm")], [("/dev/char/1:3", "rwm")]),
    ([_DENY, _rule("b", 8, None, "r")], [("block-8", "r")], [("block-8", "r")]),
    ([_DENY, _rule("c", None, -1, "m")], [("char-*", "m")], [("char-*", "m")]),
    ([_DENY, _rule("c", None, 5, "r")], [("char-*", "r")], []),  # not to be said: wider in v2, narrower in v1
    ([_DENY, _rule("c", 1, 3, "rwm"), _rule("c", 1, 3, "w", False)], [("/dev/char/1:3", "rm")], [("/dev/char/1:3", "rm")]),
    ([_DENY, _rule("c", 1, 3, "rw"), _rule("c", 1, None, "rwm", False)], [], []),
    ([_DENY, _rule("c", 1, 3, "r"), _rule("c", 1, 3, "w")], [("/dev/char/1:3", "rw")], [("/dev/char/1:3", "rw")]),
]


@pytest.mark.parametrize(("rules", "version_2", "version_1"), DEVICES)
def test_devices(rules: list[dict], version_2: list, version_1: list) -> None:
    for version, allowed in ((2, version_2), (1, version_1)):
        expected = [("DevicePolicy", "s", "strict"), ("DeviceAllow", "a(ss)", allowed)]
        assert cgroup_systemd.properties({"devices": rules}, version) == expected


def test_devices_allowed_but_for_some() -> None:
    everything: dict[str, Any] = {"allow": True, "access": "rwm"}
    auto = [("DevicePolicy", "s", "auto"), ("DeviceAllow", "a(ss)", [])]
    assert cgroup_systemd.device_properties([everything], 1) == cgroup_systemd.device_properties([everything], 2) == auto
    but = [everything, _rule("c", 1, 3, "r", False)]
    assert cgroup_systemd.device_properties(but, 2) == auto  # ours alone decides
    assert cgroup_systemd.device_properties(but, 1)[0] == ("DevicePolicy", "s", "strict")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("TimeoutStopUSec", "uint64 123456789", ("TimeoutStopUSec", "t", 123456789)),
        ("TimeoutStopSec", "1.5", ("TimeoutStopUSec", "t", 1_500_000)),
        ("CollectMode", "'inactive-or-failed'", ("CollectMode", "s", "inactive-or-failed")),
        ("SendSIGHUP", "true", ("SendSIGHUP", "b", True)),
        ("After", "['a,b.service', \"c.service\"]", ("After", "as", ["a,b.service", "c.service"])),
        ("KillSignal", "15", ("KillSignal", "i", 15)),
    ],
)
def test_annotations(name: str, text: str, expected: tuple) -> None:
    assert cgroup_systemd.annotated_properties({f"org.systemd.property.{name}": text, "other": "x"}) == [expected]


@pytest.mark.parametrize(
    ("name", "text"),
    [("Af", "1"), ("After1", "1"), ("After", "[]"), ("After", "nonsense"), ("KillSignal", "byte 300"), ("TimeoutStopSec", "'a'"),
     ("SuccessAction", "'poweroff-force'"), ("Conflicts", "['ssh.service']"), ("Slice", "'system.slice'"), ("PIDs", "[uint32 1]"),
     ("DevicePolicy", "'auto'"), ("Delegate", "false")],
)  # fmt: skip
def test_annotations_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidSpec, match=f"annotations.*{name}"):
        cgroup_systemd.annotated_properties({f"org.systemd.property.{name}": text})


def test_no_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup_systemd.os.path, "isdir", lambda path: False)
    with pytest.raises(NotImplementedHere, match=r"no /run/systemd/system\); use --cgroup-manager cgroupfs"):
        cgroup_systemd.addresses()
    for name in ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotImplementedHere, match="XDG_RUNTIME_DIR and DBUS_SESSION_BUS_ADDRESS are not set"):
        cgroup_systemd.addresses(rootless=True)


def test_a_real_path_can_be_opened_but_not_made() -> None:
    group = cgroup_systemd.open_cgroup("/system.slice/berth-x.scope", cgroup.Hierarchies({}, "/nowhere"))
    assert (group.path, group.unit.name) == ("/system.slice/berth-x.scope", "berth-x.scope")
    with pytest.raises(InvalidSpec, match="expected slice:prefix:name"):
        group.create()


# -- against a fake systemd --------------------------------------------------------------------------


class Systemd:
    """Answers as systemd's own socket does, from a script of errors and results; remembers what it was told."""

    def __init__(self, path: str) -> None:
        self.calls: list[tuple[str, tuple]] = []
        self.errors: dict[str, list[str]] = {}
        self.result = "done"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(b"DATA\r\nOK 1\r\n")
                data = b""
                while new := connection.recv(65536):
                    data += new
                    while len(data) >= 16 and len(data) >= (length := dbus.message_length(data[:16])):
                        connection.sendall(self._answer(dbus.Message(data[:length])))
                        data = data[length:]

    def _answer(self, call: dbus.Message) -> bytes:
        self.calls.append((call.member, call.values()))
        to = [(dbus.REPLY_SERIAL, call.serial)]
        if self.errors.get(call.member):
            name = "org.freedesktop.systemd1." + self.errors[call.member].pop(0)
            return dbus.message(dbus.ERROR, 5, [*to, (dbus.ERROR_NAME, name)], "s", ("said no",))
        if call.member == "Get":
            return dbus.message(
                dbus.RETURN, 5, to, "v", (("s", {"Version": "252.30-1~deb12u2", "ControlGroup": "/base"}[call.values()[1]]),)
            )
        if call.member not in ("StartTransientUnit", "StopUnit"):
            return dbus.message(dbus.RETURN, 5, to)
        at = [
            (dbus.PATH, "/org/freedesktop/systemd1"),
            (dbus.INTERFACE, "org.freedesktop.systemd1.Manager"),
            (dbus.MEMBER, "JobRemoved"),
        ]
        other = dbus.message(dbus.SIGNAL, 5, at, "uoss", (1, "/job/1", "x.scope", "failed"))
        ours = dbus.message(dbus.SIGNAL, 5, at, "uoss", (2, "/job/2", "y.scope", self.result))
        return other + ours + dbus.message(dbus.RETURN, 5, to, "o", ("/job/2",))  # the signal may be first

    def names(self) -> list[str]:
        return [name for name, _ in self.calls if name != "Get"]


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    path = str(tmp_path / "private")
    fake = Systemd(path)
    monkeypatch.setattr(cgroup_systemd, "addresses", lambda *, rootless=False: [(path, False)])
    yield fake
    fake.close()


@pytest.fixture
def group(tmp_path: Path) -> cgroup_systemd.SystemdCgroup:
    """Rootless, so that no file outside of the temporary directory is written."""
    found = cgroup_systemd.open_cgroup(":berth:x", cgroup.Hierarchies({}, str(tmp_path)), rootless=True)
    found._patience_s = 5
    return found


def test_start_and_stop(systemd: Systemd, group: cgroup_systemd.SystemdCgroup) -> None:
    group.create()
    assert group.path == "/base/user.slice/berth-x.scope"
    group.apply({})
    Path(group.files.directories[0]).mkdir(parents=True)  # another's unit of the same name, say
    assert (group.open_to_clone_into(), group.enter()) == (-1, False)
    assert systemd.names() == []  # nothing before there is a process
    group.add(77)
    saved = group.saved()
    assert (saved["manager"], saved["path"], saved["rootless"]) == ("systemd", "/base/user.slice/berth-x.scope", True)
    assert cgroup_systemd.open_cgroup(saved["path"], cgroup.Hierarchies({}, "/x")).unit.name == "berth-x.scope"
    name, (unit, mode, given, aux) = systemd.calls[-1]
    assert (name, unit, mode, aux) == ("StartTransientUnit", "berth-x.scope", "fail", [])
    properties = dict(given)
    assert properties["PIDs"] == ("au", [77])
    assert properties["Slice"] == ("s", "user.slice")
    assert properties["Delegate"] == ("b", True)
    assert properties["DefaultDependencies"] == ("b", False)
    assert group.remove()
    assert systemd.names() == ["StartTransientUnit", "StopUnit", "ResetFailedUnit"]


def test_a_failed_unit_is_reset_once(systemd: Systemd, group: cgroup_systemd.SystemdCgroup) -> None:
    systemd.errors["StartTransientUnit"] = ["UnitExists"]
    group.create()
    group.add(77)
    assert systemd.names() == ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]


@pytest.mark.parametrize(("error", "kind"), [("UnitExists", Conflict), ("NoSuchProcess", cgroup_systemd.Refused)])
def test_what_was_not_started_is_not_stopped(
    systemd: Systemd, group: cgroup_systemd.SystemdCgroup, error: str, kind: type[BerthError]
) -> None:
    systemd.errors["StartTransientUnit"] = [error] * 2
    group.create()
    with pytest.raises(kind):
        group.add(77)
    group.kill()
    assert group.remove()
    assert "StopUnit" not in systemd.names()


def test_a_job_that_fails_gives_its_result(systemd: Systemd, group: cgroup_systemd.SystemdCgroup) -> None:
    systemd.result = "timeout"
    group.create()
    with pytest.raises(SystemFailure, match=r"berth-x\.scope: the job's result is 'timeout'"):
        group.add(77)
    assert group.remove()
    assert "StopUnit" in systemd.names()


def test_a_unit_that_is_gone_is_stopped_already(systemd: Systemd, group: cgroup_systemd.SystemdCgroup) -> None:
    systemd.errors["StopUnit"] = ["NoSuchUnit"]
    assert group.remove()


def test_wrong_limits_are_found_before_the_start(systemd: Systemd, group: cgroup_systemd.SystemdCgroup) -> None:
    group.create()
    with pytest.raises(InvalidSpec):
        group.apply({"cpu": {"cpus": "x"}})


def test_systemd_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: cgroup_systemd.SystemdCgroup) -> None:
    monkeypatch.setattr(cgroup_systemd, "addresses", lambda *, rootless=False: [(str(tmp_path / "none"), False)])
    with pytest.raises(Unavailable):
        group.create()


def test_our_own_time_is_small(systemd: Systemd, group: cgroup_systemd.SystemdCgroup) -> None:
    """The processor time of a whole start with limits, without what systemd does; the fake's is in another thread."""
    limits: dict[str, Any] = {
        "memory": {"limit": 1 << 26},
        "pids": {"limit": 9},
        "devices": [_DENY, *(_rule("c", 1, n, "rwm") for n in range(9))],
    }
    spent = []
    for _ in range(20):
        group._unborn, group._resources = True, {}
        began = time.thread_time()
        with group._manager() as manager:
            group._resources = limits
            group._start(manager, [77])
        spent.append(time.thread_time() - began)
    assert min(spent) < 0.003  # 0.2 ms on a quiet machine
