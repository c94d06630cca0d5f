"""Every field of config.json wrong in turn: the path, the value and what was expected are in the message."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.errors import InvalidSpec, NotImplementedHere
from berth.runtime import spec, spec_fields
from berth.runtime.spec_fields import Array, Kind, Map, Node, Object
from berth.runtime.spec_rules import Problems, show
from spec_example import FULL, HOOK, MAPPINGS, VALUES

Steps = tuple[str | int, ...]


def walk(node: Node, value: object, steps: Steps = ()) -> Iterator[tuple[Steps, Node]]:
    """Each place of the example together with the table's entry for it."""
    yield steps, node
    if isinstance(node, Object):
        assert isinstance(value, dict)
        for name, child in node.fields.items():
            assert name in value, f"the example lacks {'.'.join(map(str, steps))}.{name}"
            yield from walk(child, value[name], (*steps, name))
    elif isinstance(node, (Array, Map)):
        assert value, f"the example has an empty {steps}"
        first = next(iter(value)) if isinstance(value, dict) else 0
        yield from walk(node.item, value[first], (*steps, first))  # type: ignore[index]


PLACES = list(walk(spec_fields.CONFIG, FULL))
MAP_PLACES = {steps for steps, node in PLACES if isinstance(node, Map)}


def path_of(steps: Steps) -> str:
    text = ""
    for index, step in enumerate(steps):
        if isinstance(step, int):
            text += f"[{step}]"
        elif steps[:index] in MAP_PLACES:
            text += f"[{json.dumps(step)}]"
        else:
            text += f".{step}" if text else step
    return text


def put(steps: Steps, value: object) -> dict:
    """The example with another value in one place."""
    document: dict = copy.deepcopy(FULL)
    holder: object = document
    for step in steps[:-1]:
        holder = holder[step]  # type: ignore[index]
    holder[steps[-1]] = value  # type: ignore[index]
    return document


def problems(document: object) -> list[str]:
    """The lines of the error; none if all is right, or right but not to be had here."""
    before = copy.deepcopy(document)
    try:
        spec.check(document)
    except InvalidSpec as error:
        return str(error).split("\n")
    except NotImplementedHere:
        pass
    finally:
        assert document == before, "check changed what it was given"
    return []


def minimal(**changes: object) -> dict:
    linux = changes.pop("linux", {})
    return {
        "ociVersion": "1.2.0", "root": {"path": "rootfs"}, "process": {"args": ["true"], "cwd": "/"},
        "linux": {"namespaces": [{"type": kind} for kind in ("mount", "pid", "uts")], **linux}, **changes,  # type: ignore[dict-item]
    }  # fmt: skip


# -- generated from the table ----------------------------------------------------------------------


def test_the_example_is_right() -> None:
    assert problems(FULL) == []


def test_the_table_has_every_field_of_the_example() -> None:
    """The example was written from the specification, so this finds a field that the table lacks."""

    def known(node: Node, value: object, path: str) -> None:
        if isinstance(node, Object):
            assert set(value) <= set(node.fields), path  # type: ignore[call-overload]
            for name, item in value.items():  # type: ignore[attr-defined]
                known(node.fields[name], item, f"{path}.{name}")
        elif isinstance(node, Array):
            for item in value:  # type: ignore[attr-defined]
                known(node.item, item, path)

    known(spec_fields.CONFIG, FULL, "")


def test_every_kind_of_value_is_tried() -> None:
    kinds = {node for _, node in PLACES if isinstance(node, Kind)} | {node.key for _, node in PLACES if isinstance(node, Map)}
    assert kinds == set(VALUES)


@pytest.mark.parametrize(("kind", "values"), VALUES.items(), ids=lambda value: value.expected[:30] if isinstance(value, Kind) else "")
def test_right_and_wrong_values(kind: Kind, values: tuple[list, list]) -> None:
    right, wrong = values
    assert [value for value in right if not kind.accepts(value)] == []
    assert [value for value in wrong if kind.accepts(value)] == []


@pytest.mark.parametrize(("steps", "node"), [place for place in PLACES if place[0]], ids=lambda value: path_of(value) if isinstance(value, tuple) else "")
def test_each_field_wrong_in_turn(steps: Steps, node: Node) -> None:
    if isinstance(node, Kind):
        wrong = VALUES[node][1]
    elif isinstance(node, Array):
        wrong = ["x", 1, True, {}, *([[]] if node.filled else [])]
    else:
        wrong = ["x", 1, False, [], [{}]]
    for value in wrong:
        line = f"{path_of(steps)}: expected {node.expected}, got {show(value)}"
        if value is not None or isinstance(steps[-1], int):
            assert line in problems(put(steps, value)), value


@pytest.mark.parametrize(("steps", "node"), [place for place in PLACES if isinstance(place[1], Object)], ids=lambda v: path_of(v) if isinstance(v, tuple) else "")
def test_each_required_field_missing(steps: Steps, node: Object) -> None:
    for name in node.required:
        line = f"{path_of((*steps, name))}: is missing, expected {node.fields[name].expected}"
        assert line in problems(put((*steps, name), None))
        document = put((*steps, name), None)
        holder = document
        for step in steps:
            holder = holder[step]
        del holder[name]
        assert line in problems(document)


@pytest.mark.parametrize("steps", [steps for steps, _ in PLACES if steps and isinstance(steps[-1], str) and steps[:-1] not in MAP_PLACES], ids=path_of)
def test_null_is_absent(steps: Steps) -> None:
    document = put(steps, None)
    without = copy.deepcopy(document)
    holder = without
    for step in steps[:-1]:
        holder = holder[step]
    del holder[steps[-1]]
    assert problems(document) == problems(without)


@pytest.mark.parametrize("steps", [steps for steps, node in PLACES if isinstance(node, Map)], ids=path_of)
def test_each_map_has_names_of_its_kind(steps: Steps) -> None:
    node = dict(PLACES)[steps]
    assert isinstance(node, Map)
    item = next(child for place, child in PLACES if place[:-1] == steps)
    assert item is node.item
    for name in VALUES[node.key][1]:
        if isinstance(name, str):
            found = problems(put((*steps, name), {}))
            assert f"{path_of(steps)}[{show(name)}]: expected {node.key.expected} as the name, got {show(name)}" in found


# -- contradictions, by hand ---------------------------------------------------------------------------

IDS = {"containerID": 0, "hostID": 1000, "size": 10}
USER = [{"type": "user"}]


@pytest.mark.parametrize(
    ("document", "line"),
    [
        (minimal(linux={"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "pid"}]}),
         'linux.namespaces[2].type: "pid" is listed twice, first in linux.namespaces[0]'),
        (minimal(linux={"namespaces": [{"type": "pid", "path": "proc/1"}]}), 'linux.namespaces[0].path: expected an absolute path, got "proc/1"'),
        (minimal(linux={"namespaces": USER, "gidMappings": [IDS]}), "linux.uidMappings: is missing, a new user namespace needs uidMappings and gidMappings"),
        (minimal(linux={"namespaces": USER, "uidMappings": [IDS]}), "linux.gidMappings: is missing, a new user namespace needs uidMappings and gidMappings"),
        (minimal(linux={"gidMappings": [IDS]}), "linux.gidMappings: expected a user namespace in linux.namespaces beside it, got none"),
        (minimal(linux={"uidMappings": [{**IDS, "size": 0}]}), "linux.uidMappings[0].size: expected a whole number from 1 to 4294967295, got 0"),
        (minimal(linux={"uidMappings": [{**IDS, "hostID": 4294967290}]}),
         "linux.uidMappings[0].size: 10 ids from hostID 4294967290 go past the last id, 4294967294"),
        (minimal(linux={"uidMappings": [IDS, {"containerID": 10, "hostID": 1009, "size": 1}]}),
         "linux.uidMappings[1].hostID: 1009 is also in the range of linux.uidMappings[0]"),
        (minimal(linux={"uidMappings": [IDS, {"containerID": 9, "hostID": 5, "size": 1}]}),
         "linux.uidMappings[1].containerID: 9 is also in the range of linux.uidMappings[0]"),
        (minimal(linux={"uidMappings": [{"containerID": n, "hostID": n, "size": 1} for n in range(341)]}),
         "linux.uidMappings: has 341 entries, the kernel takes at most 340"),
        (minimal(hostname="x", linux={"namespaces": []}), 'hostname: "x" cannot be set without a uts namespace'),
        (minimal(domainname="x", linux={"namespaces": []}), 'domainname: "x" cannot be set without a uts namespace'),
        (minimal(linux={"timeOffsets": {"boottime": {"secs": 1}}}),
         "linux.timeOffsets: cannot be set without a new time namespace in linux.namespaces"),
        (minimal(linux={"timeOffsets": {"boottime": {}}, "namespaces": [{"type": "time", "path": "/proc/1/ns/time"}]}),
         "linux.timeOffsets: cannot be set without a new time namespace in linux.namespaces"),
        (minimal(linux={"netDevices": {"eth0": {}}}), "linux.netDevices: cannot be moved without a network namespace in linux.namespaces"),
        (minimal(linux={"netDevices": {"eth0": {"name": "a"}, "eth1": {"name": "a"}}}),
         'linux.netDevices["eth1"].name: "a" is also the name of linux.netDevices["eth0"]'),
        (minimal(linux={"devices": [{"type": "c", "path": "/dev/x", "major": 1}]}), "linux.devices[0].minor: is missing, expected a device number"),
        (minimal(linux={"resources": {"memory": {"limit": 200, "swap": 100}}}),
         "linux.resources.memory.swap: 100 is below limit 200; it is the limit of memory and swap together"),
        (minimal(linux={"resources": {"cpu": {"quota": 1000, "burst": 1001}}}), "linux.resources.cpu.burst: 1001 is above quota 1000"),
        (minimal(linux={"resources": {"cpu": {"realtimeRuntime": 2, "realtimePeriod": 1}}}),
         "linux.resources.cpu.realtimeRuntime: 2 is above realtimePeriod 1"),
        (minimal(linux={"resources": {"blockIO": {"throttleReadBpsDevice": [{"major": 1, "minor": 1, "rate": 1}, {"major": 1, "minor": 1, "rate": -1}]}}}),
         "linux.resources.blockIO.throttleReadBpsDevice[1].rate: expected a whole number from 0 to 18446744073709551615, got -1"),
        (minimal(linux={"resources": {"blockIO": {"weightDevice": [{"major": 1, "minor": 1}]}}}),
         "linux.resources.blockIO.weightDevice[0]: has neither weight nor leafWeight, expected at least one"),
        (minimal(linux={"resources": {"rdma": {"a": {}}}}), 'linux.resources.rdma["a"]: has neither hcaHandles nor hcaObjects, expected at least one'),
        (minimal(linux={"resources": {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}, {"pageSize": "2MB", "limit": 2}]}}),
         'linux.resources.hugepageLimits[1].pageSize: "2MB" is listed twice, first in linux.resources.hugepageLimits[0]'),
        (minimal(linux={"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}}),
         "linux.seccomp.defaultErrnoRet: 1 cannot go with defaultAction SCMP_ACT_ALLOW, expected SCMP_ACT_ERRNO or SCMP_ACT_TRACE"),
        (minimal(linux={"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_KILL", "errnoRet": 1}]}}),
         "linux.seccomp.syscalls[0].errnoRet: 1 cannot go with action SCMP_ACT_KILL, expected SCMP_ACT_ERRNO or SCMP_ACT_TRACE"),
        (minimal(linux={"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}}),
         'linux.seccomp.listenerMetadata: "x" is given without a listenerPath'),
        (minimal(linux={"memoryPolicy": {"mode": "MPOL_BIND"}}), "linux.memoryPolicy.nodes: is missing, expected a list of nodes for mode MPOL_BIND"),
        (minimal(linux={"memoryPolicy": {"mode": "MPOL_LOCAL", "nodes": "1"}}), 'linux.memoryPolicy.nodes: "1" cannot go with mode MPOL_LOCAL, expected none'),
        (minimal(mounts=[{"destination": "/a"}, {"destination": "/b", "uidMappings": MAPPINGS}]),
         "mounts[1].gidMappings: is missing, expected an array as there is uidMappings"),
        (minimal(hooks={"poststop": [*HOOK, {"path": "a"}]}), 'hooks.poststop[1].path: expected an absolute path, got "a"'),
        (minimal(annotations={"": "x"}), 'annotations[""]: expected a string that is not empty as the name, got ""'),
        (minimal(annotations={"a.b": 1}), 'annotations["a.b"]: expected a string, got 1'),
    ],
)  # fmt: skip
def test_contradictions(document: dict, line: str) -> None:
    assert problems(document) == [line]


@pytest.mark.parametrize(
    ("process", "line"),
    [
        ({"rlimits": [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]}, "process.rlimits[0].soft: 2 is above hard 1"),
        ({"rlimits": [{"type": "RLIMIT_CORE", "soft": -1, "hard": 1}]}, "process.rlimits[0].soft: -1 is above hard 1"),
        ({"rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}] * 2}, 'process.rlimits[1].type: "RLIMIT_CORE" is listed twice, first in process.rlimits[0]'),
        ({"scheduler": {"policy": "SCHED_OTHER", "priority": 5}},
         "process.scheduler.priority: 5 cannot go with policy SCHED_OTHER, expected SCHED_FIFO or SCHED_RR"),
        ({"scheduler": {"policy": "SCHED_FIFO", "runtime": 5}}, "process.scheduler.runtime: 5 cannot go with policy SCHED_FIFO, expected SCHED_DEADLINE"),
        ({"scheduler": {"policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 4}},
         "process.scheduler: expected runtime <= deadline <= period, got 5, 4, 0"),
        ({"args": []}, "process.args: expected an array with at least one entry, got []"),
        ({"cwd": "tmp\x1b[31m"}, 'process.cwd: expected an absolute path, got "tmp\\u001b[31m"'),
        ({"capabilities": ["CAP_KILL"]}, "process.capabilities: expected an object, got an array"),
    ],
)  # fmt: skip
def test_a_process_alone(process: dict, line: str) -> None:
    whole = {"args": ["a"], "cwd": "/", **process}
    assert problems(minimal(process=whole)) == [line]
    with pytest.raises(InvalidSpec) as caught:
        spec.check_process(whole, "here")
    assert str(caught.value) == line.replace("process", "here")


@pytest.mark.parametrize(
    "document",
    [
        minimal(linux={"namespaces": [{"type": "user", "path": "/proc/1/ns/user"}]}),
        minimal(linux={"namespaces": [{"type": "user", "path": "/proc/1/ns/user"}], "uidMappings": [IDS], "gidMappings": [IDS]}),
        minimal(linux={"uidMappings": [], "timeOffsets": {}, "netDevices": {}}, hostname=""),
        minimal(linux={"devices": [{"type": "p", "path": "/run/fifo"}]}),
        minimal(linux={"resources": {"memory": {"limit": 200, "swap": -1}, "pids": {}, "cpu": {"quota": -1, "burst": 5}}}),
        minimal(linux={"resources": {"memory": {"limit": 100000, "reservation": 200000}}}),
        minimal(linux={"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}}),
        minimal(linux={"intelRdt": {}}), minimal(linux={"intelRdt": {"closID": "", "schemata": [], "enableCMT": False}}),
        minimal(windows={"layerFolders": 1}, vm=[], zos="x", solaris=3, freebsd={}),
    ],
)  # fmt: skip
def test_what_only_looks_wrong(document: dict) -> None:
    spec.check(document)


@pytest.mark.parametrize(
    ("linux", "path"),
    [({"intelRdt": {"closID": "x"}}, "linux.intelRdt"), ({"personality": {"domain": "LINUX", "flags": ["X"]}}, "linux.personality.flags")],
)
def test_what_berth_lacks_is_named(linux: dict, path: str) -> None:
    with pytest.raises(NotImplementedHere) as caught:
        spec.check(minimal(linux=linux))
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("command", [["runc", "spec"], ["runc", "spec", "--rootless"], ["crun", "spec"]], ids=" ".join)
def test_what_other_runtimes_write_is_right(tmp_path: Path, command: list[str]) -> None:
    """All but `crun spec --rootless`: a user namespace without maps, which crun makes up and runc refuses."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert spec.load(str(tmp_path))["process"]["args"]


# -- the report --------------------------------------------------------------------------------------------


def test_all_problems_at_once_and_none_twice() -> None:
    document = minimal(hostname=5, linux={"namespaces": [{"type": "x"}], "timeOffsets": {"monotonic": {}}}, root={})
    document["process"]["cwd"] = "x"
    assert problems(document) == [
        "root.path: is missing, expected a string that is not empty and has no NUL",
        'process.cwd: expected an absolute path, got "x"',
        "linux.namespaces[0].type: expected one of pid, network, mount, ipc, uts, user, cgroup, time, got \"x\"",
        "hostname: expected a name of at most 64 bytes without NUL, got 5",
    ]  # fmt: skip


def test_twenty_problems_are_enough() -> None:
    for count, last in ((20, None), (21, "and 1 more"), (999, "and 979 more"), (1000, "and at least 980 more"), (10**6, "and at least 980 more")):
        found = problems(minimal(linux={"maskedPaths": ["x"] * count}))
        assert found[19] == 'linux.maskedPaths[19]: expected an absolute path, got "x"'
        assert found[20:] == ([last] if last else [])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"), (True, "true"), (1.5, "1.5"), ("é\n", '"\\u00e9\\n"'), ([], "[]"), ({}, "{}"), ([1], "an array"), ({"a": 1}, "an object"),
        ("x" * 100, '"' + "x" * 79 + "... (102 characters)"), (10**5000, "a int"), (object(), "a object"),
    ],
    ids=lambda value: value[:9] if isinstance(value, str) else "",
)  # fmt: skip
def test_values_are_shown_on_one_short_line(value: object, text: str) -> None:
    assert show(value) == text


# -- the file ------------------------------------------------------------------------------------------------


def refused(path: Path, words: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InvalidSpec) as caught:
        spec.load("/nowhere", str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_in_place_of_the_bundle_s(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(json.dumps({**minimal(), "unknown": {"kept": None}}))
    assert spec.load("/nowhere", str(file))["unknown"] == {"kept": None}
    (tmp_path / "config.json").symlink_to(file)
    assert spec.load(str(tmp_path))["unknown"] == {"kept": None}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"), (b"{", "not JSON"), (b'{"a": NaN}', "NaN is no number"), (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"), ('{"a": 1}'.encode("utf-16"), "byte 0 is not UTF-8"), (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[" * 100_000, "nested more than 64 levels deep"), (b'{"a":' * 65 + b"{}" + b"}" * 65, "nested more than 64 levels deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"), (b" " * (16 << 20) + b"{}", "larger than 16 MiB"),
    ],
    ids=range(11),
)  # fmt: skip
def test_files_that_are_no_json(tmp_path: Path, data: bytes, words: str) -> None:
    file = tmp_path / "c"
    file.write_bytes(data)
    refused(file, words)


def test_a_document_may_be_as_deep_as_the_limit() -> None:
    assert spec.parse(b'{"a":' * 63 + b"{}" + b"}" * 63, "x") is not None
    assert spec.parse(b'{"a": 1, "a": 2}', "x") == {"a": 2}
    for data, shown in ((b"3", "3"), (b"[]", "[]"), (b"null", "null")):
        with pytest.raises(InvalidSpec) as caught:
            spec.check(spec.parse(data, "x"))
        assert str(caught.value) == f"config.json: expected an object, got {shown}"


def test_what_is_no_regular_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo", "is not a regular file")
    refused(tmp_path, "is not a regular file")
    refused(Path("/dev/zero"), "is not a regular file")
    refused(tmp_path / "missing", "no such file")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop", "cannot be opened")
    with pytest.raises(InvalidSpec, match="cannot be opened"):
        spec.read("a\0b")


def test_the_parser_stays_light() -> None:
    """The budget of a cold start is 15 ms: not even json is imported before something is wrong."""
    code = "import os, stat, sys; before = set(sys.modules); import berth.runtime.spec; print(*sorted(set(sys.modules) - before))"
    out = subprocess.run([sys.executable, "-ISc", f"import sys; sys.path.insert(0, 'src'); {code}"], capture_output=True, text=True, check=True).stdout
    assert [name for name in out.split() if not name.startswith("berth")] == ["_json"]


def test_resources_alone() -> None:
    spec.check_resources(FULL["linux"]["resources"])
    with pytest.raises(InvalidSpec) as caught:
        spec.check_resources({"memory": {"limit": "1g"}}, "resources")
    assert str(caught.value).startswith('resources.memory.limit: expected a number from 0 to 9223372036854775807, or -1 for no limit, got "1g"')
    with pytest.raises(InvalidSpec, match=r"^linux\.resources: expected an object, got an array$"):
        spec.check_resources([1])


def test_problems_without_any_do_not_raise() -> None:
    Problems().raise_any()
