"""Properties of the bundle parser, over bundles made from its tables; and two seconds of its fuzzer."""

import copy
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("hypothesis", reason="property tests need hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berth.errors import InvalidSpec, NotImplementedHere
from berth.runtime import spec, spec_fields
from berth.runtime.spec_fields import Array, Kind, Map, Node, Object
from spec_example import FULL, VALUES

SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, max_examples=150)


def _mend_rlimits(limits: list) -> list:
    """Each name once, soft within hard; the other functions here do the same for their rules."""
    named = {limit["type"]: limit for limit in limits}
    return [{**limit, "soft": 0} for limit in named.values()]


def _mend_scheduler(scheduler: dict) -> dict:
    return {name: value for name, value in scheduler.items() if name not in ("priority", "runtime", "deadline", "period")}


def _mend_mappings(mappings: list) -> list:
    return [{"containerID": 10 * n, "hostID": 1000 + 10 * n, "size": 10} for n in range(len(mappings))]


def _mend_seccomp(seccomp: dict) -> dict:
    left_out = {"listenerMetadata"} if not seccomp.get("listenerPath") else set()
    return _without_errno({name: value for name, value in seccomp.items() if name not in left_out}, "defaultAction", "defaultErrnoRet")


def _without_errno(entry: dict, action: str = "action", errno: str = "errnoRet") -> dict:
    return entry if entry[action] in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE") else {n: v for n, v in entry.items() if n != errno}


def _mend_devices(devices: dict) -> dict:
    return {name: {**device, "name": name} for name, device in devices.items()}


def _unique(field: str):
    return lambda entries: list({entry[field]: entry for entry in entries}.values())


def _mend_linux(linux: dict) -> dict:
    """The namespaces that the other fields need."""
    kinds = {entry["type"] for entry in linux.get("namespaces") or []} | {"uts", "network"}
    kinds |= {"time"} if linux.get("timeOffsets") else set()
    maps = [name for name in ("uidMappings", "gidMappings") if linux.get(name)]
    ids = [{"containerID": 0, "hostID": 1, "size": 1}]
    linux = {name: value for name, value in linux.items() if name not in ("namespaces", "intelRdt", "personality")}
    if maps or "user" in kinds:
        kinds.add("user")
        linux |= {"uidMappings": linux.get("uidMappings") or ids, "gidMappings": linux.get("gidMappings") or ids}
    return {**linux, "namespaces": [{"type": kind} for kind in sorted(kinds)]}


_F = spec_fields
_CPU, _MEMORY = _F.RESOURCES.fields["cpu"], _F.RESOURCES.fields["memory"]
_BLOCK = _F.RESOURCES.fields["blockIO"]
_SYSCALLS = _F.SECCOMP.fields["syscalls"]
assert isinstance(_BLOCK, Object)
assert isinstance(_SYSCALLS, Array)
_MENDERS = {
    id(_F.PROCESS.fields["rlimits"]): _mend_rlimits, id(_F.PROCESS.fields["scheduler"]): _mend_scheduler,
    id(_F.ID_MAPPINGS): _mend_mappings, id(_F.SECCOMP): _mend_seccomp, id(_SYSCALLS.item): _without_errno,
    id(_F.LINUX.fields["netDevices"]): _mend_devices, id(_F.LINUX.fields["namespaces"]): _unique("type"),
    id(_F.LINUX.fields["devices"]): lambda devices: [{**device, "major": 1, "minor": 3} for device in devices],
    id(_F.RESOURCES.fields["hugepageLimits"]): _unique("pageSize"),
    id(_F.RESOURCES.fields["rdma"]): lambda entries: {name: {**entry, "hcaHandles": 1} for name, entry in entries.items()},
    id(_BLOCK.fields["weightDevice"]): lambda entries: [{**entry, "weight": 10} for entry in entries],
    id(_MEMORY): lambda memory: {**memory, "swap": -1},
    id(_CPU): lambda cpu: {**cpu, "burst": 0, "realtimeRuntime": 0},
    id(_F.LINUX.fields["memoryPolicy"]): lambda policy: {**policy, "mode": "MPOL_PREFERRED"},
    id(_F.LINUX): _mend_linux,
    id(_F.CONFIG): lambda config: {**config, "linux": config.get("linux") or _mend_linux({}), "mounts": [
        {name: value for name, value in mount.items() if not name.endswith("Mappings")} for mount in config.get("mounts") or []
    ]},
}  # fmt: skip
UNKNOWN = st.dictionaries(st.sampled_from(["x-unknown", "newField", ""]), st.sampled_from([None, 1, "x", [1, None], {"a": {}}]), max_size=1)


def made(node: Node) -> st.SearchStrategy:
    """Right values for a place in the table, with an unknown or a null field here and there."""
    strategy: st.SearchStrategy
    if isinstance(node, Kind):
        return st.sampled_from(VALUES[node][0])
    if isinstance(node, Array):
        strategy = st.lists(made(node.item), min_size=int(node.filled), max_size=3)
    elif isinstance(node, Map):
        strategy = st.dictionaries(st.sampled_from(VALUES[node.key][0]), made(node.item), max_size=2)
    else:
        assert isinstance(node, Object)
        optional = {name: made(child) | st.none() for name, child in node.fields.items() if name not in node.required}
        known = st.fixed_dictionaries({name: made(node.fields[name]) for name in node.required}, optional=optional)
        strategy = st.builds(lambda one, two: {**two, **one}, known, UNKNOWN)
    return strategy.map(_MENDERS[id(node)]) if id(node) in _MENDERS else strategy


BUNDLES = made(spec_fields.CONFIG)


@SETTINGS
@given(BUNDLES)
def test_right_bundles_pass_and_come_out_as_they_went_in(document: dict) -> None:
    before = copy.deepcopy(document)
    spec.check(document)
    assert document == before
    assert spec.parse(json.dumps(document).encode(), "x") == before


@SETTINGS
@given(made(spec_fields.PROCESS), made(spec_fields.RESOURCES))
def test_parts_alone_pass(process: dict, resources: dict) -> None:
    spec.check_process(process)
    spec.check_resources(resources)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(max_size=5), c, max_size=3),
)


def _places(value: object) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in ((value, key), *_places(item))]


@SETTINGS
@given(BUNDLES, st.integers(0, 1 << 30), JSON | st.sampled_from([value for pair in VALUES.values() for value in pair[1]]))
def test_one_change_is_right_or_refused(document: dict, at: int, value: object) -> None:
    places = _places(document)
    holder, key = places[at % len(places)]
    holder[key] = value
    try:
        spec.check(document)
    except (InvalidSpec, NotImplementedHere) as error:
        message = str(error)
    else:
        return
    top = {name for name in document if isinstance(name, str)} | {*spec_fields.CONFIG.fields}
    assert message.startswith(tuple(top))


@SETTINGS
@given(BUNDLES, st.sampled_from(["ociVersion", "root", "process", "linux", "mounts", "hooks"]), JSON)
def test_a_section_of_anything_is_right_or_refused_with_its_path(document: dict, name: str, value: object) -> None:
    document[name] = value
    try:
        spec.check(document)
    except InvalidSpec as error:
        paths = [line.partition(":")[0] for line in str(error).split("\n")]
    except NotImplementedHere:
        return
    else:
        return
    # A name that was right may need the namespace that is gone now.
    assert all(path.startswith((name, "hostname", "domainname")) for path in paths)


@pytest.fixture(scope="module")
def fuzzer() -> ModuleType:
    path = Path(__file__).parents[2] / "tools/fuzz_spec.py"
    found = importlib.util.spec_from_file_location("fuzz_spec", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_fuzzer_finds_nothing(fuzzer: ModuleType) -> None:
    """A number of inputs and not a time, so that it is the same test everywhere; about two seconds."""
    outcomes = fuzzer.run(seconds=60, seed=3, most=4000)
    assert sum(outcomes.values()) == 4000
    assert {"unread", "refused", "lacking", "planned"} <= set(outcomes)


def test_the_fuzzer_would_find_something(fuzzer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_fields.OOM_SCORE, "accepts", lambda value: -1000 <= value <= 1000)  # no look at the type
    with pytest.raises(TypeError) as caught:
        fuzzer.run(seconds=60, seed=3, most=100_000)
    assert "seed 3, input" in caught.value.__notes__[0]


def test_the_example_survives_the_fuzzer_s_own_check(fuzzer: ModuleType) -> None:
    assert fuzzer.try_document(FULL) == "lacking"
