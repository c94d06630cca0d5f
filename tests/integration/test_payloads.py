"""Every answer of berth against the definitions of Docker's API: each field is there with its type, and none that dockerd lacks.

The definitions (tests/data/docker_payloads.json) are of a newer version than berth serves; what is not there yet, and what
dockerd sends although they leave it out, is listed here with the reason.
"""

import json
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
from harness import REPOSITORY, Engine
from parity import Answer, Peer

with open(os.path.join(REPOSITORY, "tests/data/docker_payloads.json")) as _file:
    DEFINITIONS: dict[str, Any] = json.load(_file)["definitions"]

# What the table of endpoints calls only "object".
DEFINITIONS |= {
    "ExecInspect": {"type": "object", "properties": {
        "CanRemove": "boolean", "DetachKeys": "string", "ID": "string", "Running": "boolean", "ExitCode": "integer", "ProcessConfig": "ExecProcess",
        "OpenStdin": "boolean", "OpenStderr": "boolean", "OpenStdout": "boolean", "ContainerID": "string", "Pid": "integer"}},
    "ExecProcess": {"type": "object", "properties": {
        "privileged": "boolean", "user": "string", "tty": "boolean", "entrypoint": "string", "arguments": "array<string>"}},
    "DiskUsage": {"type": "object", "properties": {
        "LayersSize": "integer", "Images": "array<ImageSummary>", "Containers": "array<ContainerSummary>", "Volumes": "array<Volume>",
        "BuildCache": "array<object>"}},
    "ContainersPruned": {"type": "object", "properties": {"ContainersDeleted": "array<string>", "SpaceReclaimed": "integer"}},
    "VolumesPruned": {"type": "object", "properties": {"VolumesDeleted": "array<string>", "SpaceReclaimed": "integer"}},
    "ImagesPruned": {"type": "object", "properties": {"ImagesDeleted": "array<ImageDeleteResponseItem>", "SpaceReclaimed": "integer"}},
}  # fmt: skip

# Fields that may be absent or null, as a path, and why.
ABSENT: dict[str, str] = {
    r"(ImageManifestDescriptor|Descriptor|Manifests|Identity|OsVersion|Variant)$": "of images from an index, of other systems, or later than 1.51",
    r"OCIDescriptor\.(urls|annotations|data|platform|artifactType)$|Manifests\.(Descriptor\.\w+|AttestationData|ImageData\.(Platform\.\S+|Identity))$": "where there is one",
    r"Storage$|\.os_type$|(^ContainerSummary|Containers)\.Health$|\.NRI$": "later than 1.51",
    r"ContainerInspectResponse\.(SizeRw|SizeRootFs)$|(ContainerSummary|Containers)\.(SizeRw|SizeRootFs)$": "where the size is asked for",
    r"State\.Health$": "where there is a check",
    r"HostConfig\.(Annotations|Init|Mounts|StorageOpt|Tmpfs|Sysctls|KernelMemory|KernelMemoryTCP)$": "dockerd leaves them out where they say nothing",
    r"HostConfig\.Mounts\.(\w+Options(\.\w+)?|Consistency|ReadOnly|Source)$": "dockerd leaves them out where they say nothing",
    r"HostConfig\.(MemorySwappiness|OomKillDisable|PidsLimit)$": "null: nothing is said",
    r"Config\.(ExposedPorts|Healthcheck|ArgsEscaped|NetworkDisabled|StopSignal|StopTimeout|Shell|MacAddress)$": "dockerd leaves them out where they say nothing",
    r"Healthcheck\.\w+$": "dockerd leaves out what is 0",
    r"Mounts\.(Name|Driver)$": "of volumes alone",
    r"Volumes?\.(Status|ClusterVolume|UsageData|Labels|Options)$": "of other drivers and swarms; usage in `system df`; null where there are none",
    r"SystemInfo\.(ProductLicense|DefaultAddressPools|FirewallBackend|DiscoveredDevices|CDISpecDirs|Containerd)$": "there is no containerd, no firewall and no CDI here yet",
    r"RegistryConfig\.ExtraFields$|Swarm\.(Nodes|Managers|Cluster)$|Runtimes\.\w+\.(runtimeArgs|status)$": "dockerd leaves them out where there is nothing to say",
    r"^SystemVersion\.Experimental$": "dockerd leaves out what is false",
    r"ProcessConfig\.user$": "dockerd leaves it out where none is given",
    r"ExecInspect\.ExitCode$": "null until it has ended",
    r"ContainerStatsResponse\.(networks|num_procs|storage_stats)": "interfaces come with networks; the others are of Windows",
    r"_stats\.(commitbytes|commitpeakbytes|privateworkingset|max_usage|failcnt)$|cpu_stats\.(system_cpu_usage|online_cpus|cpu_usage\.percpu_usage)$": "of Windows, or of one version of cgroups",
    r"pids_stats\.limit$": "where there is one",
    r"ContainerWaitResponse\.Error$": "where there is one",
    r"ImageDeleteResponseItem\.(Untagged|Deleted)$": "one of the two",
}  # fmt: skip
# Fields that the definitions lack and dockerd 28 sends.
MORE: dict[str, str] = {
    r"NetworkSettings\.(Bridge|HairpinMode|LinkLocalIPv6\w+|Secondary\w+|EndpointID|Gateway|GlobalIPv6\w+|IPAddress|IPPrefixLen|IPv6Gateway|MacAddress)$": "until 1.52",
    r"^ImageInspect\.(Parent|DockerVersion)$": "until 1.52",
    r"^DiskUsage\.BuilderSize$": "until 1.42; newer ones do not mind",
    r"^EventMessage\.(status|id|from)$": "until 1.52",
    r"SystemInfo\.(BridgeNfIp6tables|BridgeNfIptables)$": "until 1.50",
    r"Config\.(OnBuild|Volumes)$": "of older definitions",
    r"memory_stats\.stats\.": "what the kernel tells",
    r"HostConfig\.(Memory|Cpu)\w+$": "of older definitions",
}  # fmt: skip


def problems(value: Any, fact: Any, path: str) -> list[str]:
    """Where a value is not as the fact about it says; see DEFINITIONS for how facts are written."""
    if isinstance(fact, str):
        if found := re.fullmatch(r"array<(.*)>", fact):
            return _problems_of_list(value, found[1], path)
        if found := re.fullmatch(r"map<(.*)>", fact):
            return _problems_of_map(value, found[1], path)
        if fact in DEFINITIONS:
            return problems(value, DEFINITIONS[fact], path)
        types: dict[str, Any] = {"string": str, "integer": int, "boolean": bool, "number": int | float, "array": list, "object": dict}
        right = types.get(fact, object)
        if value is None and right is list:
            return []  # Go's empty list
        fits = isinstance(value, right) and not (isinstance(value, bool) and right is int)
        return [] if fits else [f"{path}: {value!r:.60} is no {fact}"]
    if not isinstance(fact, dict):
        return []
    fields = _fields(fact)
    if not fields:
        return problems(value, fact["type"], path) if fact.get("type") and fact["type"] != "object" else []
    return _problems_of_object(value, fields, path)


def _listed(path: str, reasons: dict[str, str]) -> bool:
    return any(re.search(pattern, path.replace("[]", "")) for pattern in reasons)


def _fields(fact: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in fact.get("allOf") or []:
        found |= _fields(DEFINITIONS[part] if isinstance(part, str) else part)
    return found | (fact.get("properties") or {}) | (fact.get("object") or {})


def _problems_of_list(value: Any, inner: str, path: str) -> list[str]:
    if value is None:
        return []  # Go's empty list
    if not isinstance(value, list):
        return [f"{path}: {value!r:.60} is no list"]
    return [text for item in value for text in problems(item, inner, f"{path}[]")]


def _problems_of_map(value: Any, inner: str, path: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, dict):
        return [f"{path}: {value!r:.60} is no object"]
    return [text for key, item in value.items() for text in problems(item, inner, f"{path}.{key}")]


def _problems_of_object(value: Any, fields: dict[str, Any], path: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, dict):
        return [f"{path}: {value!r:.60} is no object"]
    found = []
    for name, fact in fields.items():
        where = f"{path}.{name}"
        if value.get(name) is None and _listed(where, ABSENT):
            continue
        found += problems(value[name], fact, where) if name in value else [f"{where}: missing"]
    unknown = [f"{path}.{name}" for name in value.keys() - fields.keys()]
    return found + [f"{where}: unknown" for where in unknown if not _listed(where, MORE)]


def check(answer: Answer, fact: str) -> None:
    assert answer.status < 300, answer
    name = re.sub(r"array<(.*)>", r"\1", fact)
    values = answer.body if isinstance(answer.body, list) and fact == name else [answer.body]
    found = [text for value in values for text in problems(value, fact, name)]
    assert not found, "\n".join(sorted(set(found)))


@pytest.fixture
def peer(engine: Engine) -> Peer:
    return Peer(f"{engine.exec}/berth.sock")


HEALTHY = ("--health-cmd", "true", "--health-interval", "1s")


def test_containers(peer: Peer, up: Callable[..., str]) -> None:
    identity = up("-v", "/tmp:/x:ro", "--tmpfs", "/t", "--memory", "64m", "--label", "a=b", "--cap-add", "NET_ADMIN", *HEALTHY)
    check(peer.ask("GET", f"/containers/{identity}/json"), "ContainerInspectResponse")
    check(peer.ask("GET", f"/containers/{identity}/json?size=1"), "ContainerInspectResponse")
    check(peer.ask("GET", "/containers/json?all=1&size=1"), "array<ContainerSummary>")
    check(peer.ask("GET", f"/containers/{identity}/top"), "ContainerTopResponse")
    check(peer.ask("GET", f"/containers/{identity}/stats?stream=0&one-shot=1"), "ContainerStatsResponse")
    check(peer.ask("POST", f"/containers/{identity}/update", {"CpuShares": 100}), "ContainerUpdateResponse")
    made = peer.ask("POST", f"/containers/{identity}/exec", {"Cmd": ["touch", "/made"], "AttachStdout": True, "User": "root"})
    check(made, "IDResponse")
    check(peer.ask("GET", f"/exec/{made.body['Id']}/json"), "ExecInspect")
    assert peer.ask("POST", f"/exec/{made.body['Id']}/start", {}).status == 200
    check(peer.ask("GET", f"/exec/{made.body['Id']}/json"), "ExecInspect")
    check(peer.ask("GET", f"/containers/{identity}/changes"), "array<FilesystemChange>")


def test_a_life(engine: Engine, peer: Peer) -> None:
    made = peer.ask("POST", "/containers/create?name=payload", {"Image": "bb", "Cmd": ["true"], "Labels": {"payload": "1"}, "HostConfig": {"NetworkMode": "none"}})
    check(made, "ContainerCreateResponse")
    check(peer.ask("GET", "/containers/payload/json"), "ContainerInspectResponse")
    assert peer.ask("POST", "/containers/payload/start").status == 204
    check(peer.ask("POST", "/containers/payload/wait"), "ContainerWaitResponse")
    engine.seen_ids.add(made.body["Id"])
    events = peer.ask("GET", f"/events?since=1&until=0s&filters={json.dumps({'container': [made.body['Id']]}).replace(' ', '')}")
    assert len(events.body) >= 3
    check(events, "EventMessage")
    filters = json.dumps({"label": ["payload"]}).replace(" ", "")
    pruned = peer.ask("POST", f"/containers/prune?filters={filters}")
    assert pruned.body["ContainersDeleted"] == [made.body["Id"]]
    check(pruned, "ContainersPruned")


def test_volumes(engine: Engine, peer: Peer) -> None:
    check(peer.ask("POST", "/volumes/create", {"Name": "payload", "Labels": {"payload": "1"}}), "Volume")
    made = peer.ask("POST", "/containers/create", {"Image": "bb", "Cmd": ["true"], "Volumes": {"/a": {}}, "HostConfig": {
        "NetworkMode": "none", "Binds": ["payload:/p:ro"], "Mounts": [{"Type": "image", "Source": "bb", "Target": "/i"}, {"Type": "tmpfs", "Target": "/t"}]}})  # fmt: skip
    check(made, "ContainerCreateResponse")
    check(peer.ask("GET", f"/containers/{made.body['Id']}/json"), "ContainerInspectResponse")
    check(peer.ask("GET", "/containers/json?all=1"), "array<ContainerSummary>")
    check(peer.ask("GET", "/volumes/payload"), "Volume")
    check(peer.ask("GET", "/volumes"), "VolumeListResponse")
    check(peer.ask("GET", "/system/df"), "DiskUsage")
    assert peer.ask("DELETE", f"/containers/{made.body['Id']}?v=1").status == 204
    pruned = peer.ask("POST", f"/volumes/prune?filters={json.dumps({'label': ['payload'], 'all': ['1']}).replace(' ', '')}")
    assert pruned.body["VolumesDeleted"] == ["payload"]
    check(pruned, "VolumesPruned")


def test_images(engine: Engine, peer: Peer) -> None:
    for options in ("", "?manifests=1"):
        check(peer.ask("GET", f"/images/json{options}"), "array<ImageSummary>")
        check(peer.ask("GET", f"/images/bb/json{options}"), "ImageInspect")
    check(peer.ask("GET", "/images/bb/history"), "array<ImageHistoryResponseItem>")
    assert peer.ask("POST", "/images/bb/tag?repo=payload").status == 201
    check(peer.ask("DELETE", "/images/payload"), "array<ImageDeleteResponseItem>")
    check(peer.ask("POST", f"/images/prune?filters={json.dumps({'label': ['payload']}).replace(' ', '')}"), "ImagesPruned")


def test_the_engine(peer: Peer) -> None:
    check(peer.ask("GET", "/info"), "SystemInfo")
    check(peer.ask("GET", "/version"), "SystemVersion")
    check(peer.ask("GET", "/system/df"), "DiskUsage")


def test_a_wrong_payload_is_seen() -> None:
    """The checks themselves."""
    good = {"Id": "x", "Warnings": None}
    assert problems(good, "ContainerCreateResponse", "C") == []
    assert problems({**good, "Id": 1}, "ContainerCreateResponse", "C") == ["C.Id: 1 is no string"]
    assert problems({"Id": "x"}, "ContainerCreateResponse", "C") == ["C.Warnings: missing"]
    assert problems({**good, "More": 1}, "ContainerCreateResponse", "C") == ["C.More: unknown"]
    assert problems({**good, "Warnings": [1]}, "ContainerCreateResponse", "C") == ["C.Warnings[]: 1 is no string"]
