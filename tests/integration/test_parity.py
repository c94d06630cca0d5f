"""Several hundred requests, good and bad, to berth and to Debian's dockerd: what a client can tell apart is a difference.

Compared are the status, the headers that clients read, the words of errors, and the shape of JSON (names and types).
The two differ on purpose where DIFFERENCES says so, each with its reason; anything else fails.
"""

import http.client
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
from dockerd import HAVE_DOCKERD, Dockerd
from harness import Engine
from parity import Answer, Peer, shape, shape_differences

if not HAVE_DOCKERD:
    pytest.skip("needs Debian's docker.io", allow_module_level=True)

LOOP = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
V = "/v1.41"

# One request: its line, and where they are needed body and headers. `#` at the end of a line: another one of the same.
# `~` before it: only the head of the answer is read, for there may be no end.
Request = str | tuple[Any, ...]


def _each(pattern: str, values: str) -> list[Request]:
    """`GET /x?a=@` with every value, percent-encoded."""
    return [pattern.replace("@", quote(value, safe="")) for value in values.split("|")]


_OF_ANY_ID: tuple[Request, ...] = (
    "GET /containers/@/json", "GET /containers/@/top", "GET /containers/@/logs?stdout=1", "GET /containers/@/logs", "GET /containers/@/changes",
    "GET /containers/@/export", "GET /containers/@/stats?stream=0", "GET /containers/@/archive?path=/etc", "HEAD /containers/@/archive?path=/etc",
    "GET /containers/@/archive", "PUT /containers/@/archive?path=/", "PUT /containers/@/archive", "POST /containers/@/rename?name=other",
    "POST /containers/@/rename", ("POST /containers/@/update", {}), "POST /containers/@/attach", "POST /containers/@/resize?h=1&w=1",
    "POST /containers/@/resize", ("POST /containers/@/exec", {"Cmd": ["true"]}), "POST /containers/@/start", "POST /containers/@/stop",
    "POST /containers/@/restart", "POST /containers/@/kill", "POST /containers/@/pause", "POST /containers/@/unpause", "POST /containers/@/wait",
    "DELETE /containers/@", "DELETE /containers/@?force=1", "DELETE /containers/@?link=1", "POST /commit?container=@", "GET /exec/@/json",
    ("POST /exec/@/start", {}), "POST /exec/@/resize?h=1&w=1", "GET /images/@/json", "GET /images/@/history", "GET /images/@/get",
    "POST /images/@/tag?repo=x", "DELETE /images/@",
)  # fmt: skip


def _of_id(identity: str) -> list[Request]:
    return [each.replace("@", identity) if isinstance(each, str) else (each[0].replace("@", identity), *each[1:]) for each in _OF_ANY_ID]


def _create(**fields: Any) -> tuple[Any, ...]:
    """A create of a container that is named below as `made`, so that what was made in spite of it is taken away again."""
    host = {"NetworkMode": "none", **fields.pop("HostConfig", {})}
    return (f"POST /containers/create?name=made#{json.dumps(fields, sort_keys=True)}{json.dumps(host)}", {"Image": "bb", "Cmd": ["true"], "HostConfig": host, **fields})


def _host(**fields: Any) -> tuple[Any, ...]:
    return _create(HostConfig=fields)


_BAD_BODIES: tuple[bytes, ...] = (b"", b"{", b"null", b"[]", b'"x"', b"1", b"{}x", b"{} {}", b"\xff", b"{'a':1}", b'{"a":1,}', b"true")

GROUPS: dict[str, list[Request]] = {
    "an id that is nobody's": [*_of_id("nothing")],
    "the beginning of two ids": [each for each in _of_id("{ambiguous}") if "/images/" not in (each if isinstance(each, str) else each[0])],
    "ids that cannot be": [
        *_each("GET /containers/@/json", " |a b|ä|..|.|-x|a:b|x%00|sha256:x|/|//|a/b"), *_each("GET /images/@/json", "UPPER|a b|ä|a:b:c|-|x@y|sha256:1234567890ab|sha256:"),
        "GET /containers//json", "GET /exec//json", "GET /images//json", "POST /containers//start", "DELETE /containers/", "DELETE /images/",
        "GET /containers/" + "x" * 300 + "/json", "GET /containers/%2Frunning/json", "GET /containers/running%2F/json", "GET /containers/{short running}/json",
        "GET /containers/RUNNING/json",
    ],
    "bodies of create": [("POST /containers/create", body) for body in _BAD_BODIES] + [
        ("POST /containers/create", b"{}", {"Content-Type": "text/plain"}), ("POST /containers/create", b'{"Image":"bb"}', {"Content-Type": "application/xml"}),
        ("POST /containers/create", b"Image=bb", {"Content-Type": "application/x-www-form-urlencoded"}), ("POST /containers/create", b"{}", {"Content-Type": ""}),
        ("POST /containers/create", b"{}", {"Content-Type": "application/json; charset=utf-8"}), "POST /containers/create",
        ("POST /containers/create", {"Image": ""}), ("POST /containers/create", {"Image": "bb"}), ("POST /containers/create", {"Image": "none-such"}),
        ("POST /containers/create", {"Image": "BAD"}), ("POST /containers/create", {"Image": "none-such:tag"}), ("POST /containers/create", {"Image": "a/b/c@sha256:12"}),
        ("POST /containers/create", {"Image": "<id none>"}), ("POST /containers/create", {"HostConfig": None, "Image": "bb"}),
        ("POST /containers/create", {"Image": "bb", "Cmd": []}), ("POST /containers/create", {"Image": "bb", "Cmd": [], "HostConfig": {}}),
        ("POST /containers/create", {"Image": "bb", "Cmd": [""], "HostConfig": {}, "Entrypoint": []}),
        ("POST /containers/create", {"Image": 1}), ("POST /containers/create", {"Image": "bb", "Cmd": 1}), ("POST /containers/create", {"Image": "bb", "Cmd": [1]}),
        ("POST /containers/create", {"Image": "bb", "Env": "A=b"}), ("POST /containers/create", {"Image": "bb", "Tty": "yes"}),
        ("POST /containers/create", {"Image": "bb", "HostConfig": []}), ("POST /containers/create", {"Image": "bb", "HostConfig": {"Memory": "1g"}}),
        ("POST /containers/create", {"Image": "bb", "HostConfig": {"Memory": 1.5}}), ("POST /containers/create", {"Image": "bb", "HostConfig": {"Binds": "x"}}),
        ("POST /containers/create", {"Image": "bb", "Labels": ["a"]}), ("POST /containers/create", {"Image": "bb", "Labels": {"a": 1}}),
        ("POST /containers/create", {"Image": "bb", "ExposedPorts": ["80/tcp"]}), ("POST /containers/create", {"Image": "bb", "NetworkingConfig": 5}),
        ("POST /containers/create", b'{"Image":"bb","HostConfig":{"Memory":99999999999999999999}}'),
    ],
    "names": [
        *[(f"POST /containers/create?name={quote(name, safe='')}", {"Image": "bb", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}})
          for name in ("running", "/running", "a", "-x", "a b", "ä", "a/b", "/", "x" * 2 + ":", ".x", "_x", "a\n", "//x1", "a@b")],
        *[f"POST /containers/created/rename?name={quote(name, safe='')}" for name in ("running", "/running", "created", "/created", "a", "", "-x", "a b", "a/b", "/", "ä", "{running}")],
        "POST /containers/created/rename", "POST /containers/created/rename?name=renamed", "GET /containers/renamed/json", "GET /containers/created/json#renamed",
        "POST /containers/renamed/rename?name=/created", "POST /containers/running/rename?name=was-running", "POST /containers/was-running/rename?name=running",
    ],
    "numbers of create": [
        *[_host(**{name: number}) for name in (
            "Memory", "MemorySwap", "MemoryReservation", "KernelMemory", "CpuShares", "CpuPeriod", "CpuQuota", "CpuRealtimePeriod", "CpuRealtimeRuntime", "NanoCpus",
            "PidsLimit", "OomScoreAdj", "ShmSize", "BlkioWeight", "MemorySwappiness", "CpuCount", "CpuPercent", "IOMaximumIOps") for number in (-1, -2, 1)],
        _host(Memory=-5_000_000), _host(Memory=4_000_000), _host(Memory=10_000_000, MemorySwap=5_000_000), _host(MemorySwap=10_000_000),
        _host(Memory=10_000_000, MemoryReservation=20_000_000), _host(MemoryReservation=1000), _host(CpuPeriod=999), _host(CpuPeriod=1_000_001), _host(CpuQuota=999),
        _host(NanoCpus=10**9, CpuQuota=50_000), _host(NanoCpus=10**9, CpuPeriod=50_000), _host(NanoCpus=10**12), _host(OomScoreAdj=1001), _host(OomScoreAdj=-1001),
        _host(MemorySwappiness=101), _host(BlkioWeight=9), _host(BlkioWeight=1001), _host(BlkioWeight=65536), _host(CpusetCpus="99"), _host(CpusetCpus="x"),
        _host(CpusetMems="99"), _host(CpusetCpus="0-"), _host(CpuShares=1), _host(PidsLimit=0), _host(ShmSize=0), _host(ShmSize=-5), _host(KernelMemory=1),
        _host(Ulimits=[{"Name": "nofile", "Soft": 10, "Hard": 5}]), _host(Ulimits=[{"Name": "nope", "Soft": 1, "Hard": 1}]), _host(Ulimits=[{}]),
        _host(BlkioDeviceReadBps=[{"Path": "/no", "Rate": 1}]), _host(BlkioWeightDevice=[{"Path": "/no", "Weight": 5}]), _create(StopTimeout=-1), _create(StopTimeout=0),
    ],
    "words of create": [
        _create(StopSignal="NOPE"), _create(StopSignal="9"), _create(StopSignal="SIGTERM"), _create(StopSignal="-1"), _create(StopSignal="0"), _create(Hostname="x" * 64),
        _create(Hostname="a_b"), _create(Hostname="-"), _create(Hostname="a b"), _create(Domainname="x" * 300), _create(WorkingDir="rel"), _create(WorkingDir="/a/../b"),
        _create(User="nobody-there"), _create(User="0:0:0"), _create(Env=[""]), _create(Env=["=x"]), _create(Env=["A"]), _create(Env=["A=\nb"]),
        _create(Entrypoint="sh"), _create(Cmd="true"), _create(Entrypoint=[]), _create(Labels={"": "x"}), _create(Volumes={"/data": {}}), _create(Volumes={"rel": {}}),
        _create(Volumes={"/": {}}), _create(ExposedPorts={"80/tcp": {}}), _create(ExposedPorts={"80": {}}), _create(ExposedPorts={"x/tcp": {}}), _create(ExposedPorts={"80/nope": {}}),
        _create(ExposedPorts={"99999/tcp": {}}), _create(MacAddress="nope"), _create(MacAddress="02:42:ac:11:00:02"), _create(Shell=["x"]), _create(OnBuild=["x"]),
        _create(Healthcheck={"Test": ["NOPE"]}), _create(Healthcheck={"Test": ["CMD", "true"], "Interval": 1}), _create(Healthcheck={"Test": ["CMD", "true"], "Interval": -1}),
        _create(Healthcheck={"Test": ["CMD", "true"], "Retries": -1}), _create(Healthcheck={"Test": ["CMD", "true"], "Timeout": 5}), _create(Healthcheck={"StartPeriod": -1}),
        _create(Healthcheck={"Test": []}), _create(Healthcheck={"Test": ["NONE"]}), _create(NoSuchField=1),
        _host(RestartPolicy={"Name": "nope"}), _host(RestartPolicy={"Name": "always", "MaximumRetryCount": 3}), _host(RestartPolicy={"Name": "on-failure", "MaximumRetryCount": -1}),
        _host(RestartPolicy={"Name": "always"}, AutoRemove=True), _host(RestartPolicy={"Name": "no", "MaximumRetryCount": 1}), _host(RestartPolicy={"Name": ""}),
        _host(RestartPolicy={"MaximumRetryCount": 1}), _host(RestartPolicy={"Name": "unless-stopped"}),
        _host(PidMode="nope"), _host(PidMode="container:"), _host(PidMode="container:nothing"), _host(PidMode="host"), _host(IpcMode="nope"), _host(IpcMode="container:nothing"),
        _host(IpcMode="container:running"), _host(IpcMode="none"), _host(UTSMode="nope"), _host(UTSMode="host"), _host(UsernsMode="nope"), _host(UsernsMode="host"), _host(CgroupnsMode="nope"),
        _host(CgroupnsMode="host"), _host(NetworkMode="container:nothing"), _host(NetworkMode="container:"), _host(NetworkMode="host"), _host(Isolation="nope"), _host(Isolation="default"),
        _host(CapAdd=["NOPE"]), _host(CapAdd=["all"]), _host(CapAdd=["net_admin"]), _host(CapAdd=["CAP_NET_ADMIN"]), _host(CapDrop=["NOPE"]), _host(CapDrop=["ALL"]), _host(CapAdd=[""]),
        _host(SecurityOpt=["nope"]), _host(SecurityOpt=["nope=1"]), _host(SecurityOpt=["seccomp={"]), _host(SecurityOpt=["seccomp=unconfined"]), _host(SecurityOpt=["no-new-privileges"]),
        _host(SecurityOpt=["no-new-privileges=maybe"]), _host(SecurityOpt=["label=nope:x"]), _host(SecurityOpt=["apparmor=unconfined"]), _host(SecurityOpt=["systempaths=unconfined"]),
        _host(Sysctls={"nope": "1"}), _host(Sysctls={"net.ipv4.ip_forward": "1"}), _host(Sysctls={"kernel.msgmax": "1"}), _host(Sysctls={"kernel.hostname": "x"}),
        _host(Runtime="nope"), _host(LogConfig={"Type": "json-file", "Config": {"nope": "1"}}), _host(LogConfig={"Type": "json-file", "Config": {"max-size": "x"}}),
        _host(LogConfig={"Type": "json-file", "Config": {"max-file": "0"}}), _host(LogConfig={"Type": "json-file", "Config": {"max-size": "1m", "max-file": "-1"}}),
        _host(LogConfig={"Type": "none", "Config": {"max-size": "1m"}}), _host(LogConfig={"Type": "local"}), _host(LogConfig={"Config": {"max-size": "1m"}}),
        _host(GroupAdd=["nope"]), _host(ExtraHosts=["nope"]), _host(ExtraHosts=["a:1.2.3.4"]), _host(ExtraHosts=["a:nope"]), _host(Dns=["nope"]), _host(Dns=["1.1.1.1"]), _host(DnsSearch=["a b"]),
        _host(Devices=[{"PathOnHost": "/no"}]), _host(Devices=[{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "rwx"}]), _host(DeviceCgroupRules=["nope"]),
        _host(DeviceCgroupRules=["c 1:3 rwm"]), _host(ConsoleSize=[1]), _host(ConsoleSize=[24, 80]), _host(ConsoleSize=[-1, 1]), _host(VolumesFrom=["nothing"]), _host(Cgroup="x"), _host(CgroupParent="/berth-parity"),
        _host(MaskedPaths=[]), _host(ReadonlyPaths=[]), _host(Init=True), _host(AutoRemove=True), _host(Privileged=True), _host(ReadonlyRootfs=True), _host(OomKillDisable=True), _host(Annotations={"a": "b"}),
        _host(ContainerIDFile="/x"), _host(PublishAllPorts=False),
    ],
    "mounts of create": [
        *[_host(Binds=[bind]) for bind in ("rel", "/a", ":", "::", "/nowhere-at-all:", "/tmp:rel", "/tmp:/", "/tmp:/x:nope", "/tmp:/x:ro,rw", "/tmp:/x:ro", "/tmp:/x:z", "/tmp:/x:rshared,ro", "/tmp:/x:ro:z",
                                           "/tmp:/x:rprivate,rslave", "../x:/y", "/tmp:/x/../y")],
        _host(Binds=["/tmp:/x", "/etc:/x"]), _host(Tmpfs={"/t": ""}), _host(Tmpfs={"rel": ""}), _host(Tmpfs={"/t": "nope"}), _host(Tmpfs={"/t": "size=1m,ro"}), _host(Tmpfs={"/": ""}), _host(Binds=["/tmp:/t"], Tmpfs={"/t": ""}),
        *[_host(Mounts=[mount]) for mount in (
            {}, {"Type": "nope", "Target": "/x"}, {"Type": "bind"}, {"Type": "bind", "Target": "/x"}, {"Type": "bind", "Source": "/tmp"}, {"Type": "bind", "Source": "/nowhere-at-all", "Target": "/x"},
            {"Type": "bind", "Source": "rel", "Target": "/x"}, {"Type": "bind", "Source": "/tmp", "Target": "rel"}, {"Type": "bind", "Source": "/tmp", "Target": "/"}, {"Type": "bind", "Source": "/tmp", "Target": "/x"},
            {"Type": "bind", "Source": "/tmp", "Target": "/x", "BindOptions": {"Propagation": "nope"}}, {"Type": "bind", "Source": "/tmp", "Target": "/x", "VolumeOptions": {}},
            {"Type": "bind", "Source": "/tmp", "Target": "/x", "TmpfsOptions": {}}, {"Type": "tmpfs", "Target": "/x"}, {"Type": "tmpfs", "Source": "/tmp", "Target": "/x"}, {"Type": "tmpfs"},
            {"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"SizeBytes": -1}}, {"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777}}, {"Type": "tmpfs", "Target": "/x", "BindOptions": {}},
            {"Type": "npipe", "Source": "x", "Target": "/x"}, {"Type": "bind", "Source": "/tmp", "Target": "/x", "Consistency": "nope"}, {"Type": "bind", "Source": "/tmp", "Target": "/x", "ReadOnly": True})],
        _host(Mounts=[{"Type": "tmpfs", "Target": "/x"}, {"Type": "tmpfs", "Target": "/x"}]), _host(Binds=["/tmp:/x"], Mounts=[{"Type": "tmpfs", "Target": "/x"}]),
    ],
    "volumes": [
        *[("POST /volumes/create", body) for body in (b"{", b"[]", b"null", {}, {"Name": 1}, {"Name": "x", "Labels": ["a"]}, {"Name": "a"}, {"Name": "../x"}, {"Name": "-x1"}, {"Name": "a b"}, {"Name": "x" * 64},
                                                      {"Name": "parity", "Labels": {"a": "b"}}, {"Name": "parity", "Labels": {"a": "c"}}, {"Name": "parity", "Driver": "nope"}, {"Name": "parity2", "Driver": "nope"},
                                                      {"Name": "parity2", "Driver": "local", "DriverOpts": {}}, {"Name": "parity3", "DriverOpts": {"nope": "1"}}, {"Name": "parity3", "DriverOpts": {"type": "tmpfs"}},
                                                      {"Name": "parity3", "DriverOpts": {"device": "tmpfs"}}, {"Name": "parity3", "DriverOpts": {"o": "bind"}}, {"Name": "parity3", "DriverOpts": {"size": "1m"}},
                                                      {"Name": "parity3", "DriverOpts": {"size": "0"}}, {"Name": "parity4", "DriverOpts": {"type": "none", "device": "/nowhere", "o": "bind"}}, {"Name": "parity5", "DriverOpts": {"size": "x"}},
                                                      {"Name": "parity6", "DriverOpts": {"type": "", "device": "", "o": ""}})],
        ("POST /volumes/create", b"Name=x", {"Content-Type": "text/plain"}), "POST /volumes/create",
        "GET /volumes/parity", "GET /volumes/parity3", "GET /volumes/parity6", "GET /volumes/nope", "GET /volumes/", "GET /volumes/a/b", "DELETE /volumes/nope", "DELETE /volumes/nope?force=1", "DELETE /volumes/nope?force=maybe", "DELETE /volumes/a/b",
        *_each("GET /volumes?filters=@", 'x|[]|{}|null|{"nope":["x"]}|{"name":["parity"]}|{"name":["^parity$"]}|{"name":["arit"]}|{"driver":["local"],"name":["parity"]}|{"driver":["nope"]}|{"dangling":["x"]}|{"dangling":["false"]}'
               '|{"label":["a"]}|{"label":["a=b"]}|{"label":["a=c"]}|{"label!":["a"]}|{"name":["parity"],"dangling":["1"]}'),
        _host(Binds=["parity:/a", "parity:/b:ro", "/c"]), _host(Mounts=[{"Type": "volume", "Source": "parity2", "Target": "/v", "VolumeOptions": {"NoCopy": True, "Labels": {"k": "v"}}}, {"Type": "volume", "Target": "/w"}]),
        _create(Volumes={"/v": {}}, HostConfig={"Binds": ["parity:/p:nocopy"]}), _host(VolumesFrom=["running:ro"]), _host(VolumesFrom=["running:nope"]), _host(VolumesFrom=[""]), _host(VolumesFrom=[":ro"]), _host(VolumesFrom=["{running}:z"]),
        *[_host(Binds=[bind]) for bind in ("/p", "/", "", "x:/p:ro", "parity:/p:nope", "parity:rel", "parity:/", "a b:/p", "parity:/p:ro,z", "parity:/p:ro,rw", "parity:/p:rslave", "/tmp:/p:nocopy", "parity:/p:nocopy,nocopy", "parity:/p:z,Z", "parity:/p:",
                                           "parity:/p:ro:x", ":/p", "rel:", "/tmp:/p:cached", "/p:ro")],
        _host(Binds=["parity:/p", "parity:/p"]), _host(Binds=["parity:/p"], Tmpfs={"/p": ""}), _create(Volumes={"/p": {}}, HostConfig={"Tmpfs": {"/p": ""}}), _host(Binds=["parity:/p"], VolumeDriver="nope"),
        *[_host(Mounts=[{"Target": "/v", **mount}]) for mount in (
            {"Type": "volume", "Source": "/tmp"}, {"Type": "volume", "Source": "parity", "BindOptions": {}}, {"Type": "volume", "Source": "parity", "VolumeOptions": {"DriverConfig": {"Name": "nope"}}}, {"Type": "volume", "Source": "x"},
            {"Type": "volume", "Source": "parity9", "VolumeOptions": {"DriverConfig": {"Name": "local", "Options": {"nope": "1"}}}}, {"Type": "volume", "Target": "v"}, {"Type": "volume", "Target": ""}, {"Type": "cluster", "Source": "x"},
            {"Type": "volume", "Source": "parity", "Target": "/etc/passwd"})],
        _create(Volumes={"/etc/passwd": {}}), "DELETE /volumes/parity2", "DELETE /volumes/parity2#again", "DELETE /volumes/parity", "GET /system/df",
        *[f"POST /volumes/prune?filters={quote(text)}" for text in ("x", "[]", '{"nope":["x"]}', '{"until":["1h"]}', '{"all":["1"]}', '{"label":["nope"]}', '{"label":["nope"],"label!":["a"]}')], "POST /volumes/prune", "GET /volumes",
    ],
    "lists": [
        "GET /containers/json", "GET /containers/json?all=1", "GET /containers/json?all=true&size=1", "GET /containers/json?limit=1", "GET /containers/json?limit=-1", "GET /containers/json?limit=x", "GET /containers/json?limit=1.5",
        "GET /containers/json?all=maybe", "GET /containers/json?all=1&limit=0", "GET /containers/json?limit=99999999999999999999", "GET /containers/json?since=running", "GET /containers/json?before=nothing",
        *_each("GET /containers/json?filters=@", 'x|[]|{}|""|null|1|{"name":"x"}|{"name":["run"]}|{"name":{"run":true}}|{"name":{"run":false}}|{"nope":["x"]}|{"status":["nope"]}|{"status":["running"]}|{"status":["Running"]}'
               '|{"status":["created","exited"]}|{"exited":["x"]}|{"exited":["3"]}|{"health":["nope"]}|{"health":["none"]}|{"id":["zz"]}|{"label":["a"]}|{"label":["a=b"]}|{"ancestor":["bb"]}|{"ancestor":["nope"]}|{"ancestor":["BAD NAME"]}'
               '|{"before":["running"]}|{"before":["nothing"]}|{"since":["created"]}|{"since":["nothing"]}|{"volume":["x"]}|{"network":["none"]}|{"network":["nope"]}|{"publish":["80"]}|{"publish":["x"]}|{"expose":["80/tcp"]}|{"expose":["80-90"]}'
               '|{"is-task":["true"]}|{"is-task":["x"]}|{"isolation":["default"]}|{"name":["("]}|{"name":["^running$"]}|{"name":["^/running$"]}|{"name":["r.nning"]}|{"label":["a","b"]}|{"name":[]}|{"name":[1]}|{"name":null}|{"status":["running"],"nope":["x"]}'),
    ],
    "shown": [
        *[f"GET /containers/{name}/json" for name in ("running", "created", "exited", "paused", "tty", "{running}")], "GET /containers/running/json?size=1", "GET /containers/running/top", "GET /containers/running/top?ps_args=-ef",
        "GET /containers/running/top?ps_args=aux", "GET /containers/running/top?ps_args=nope", "GET /containers/running/top?ps_args=-o%20comm", "GET /containers/running/top?ps_args=-o%20pid,comm", "GET /containers/created/top", "GET /containers/exited/top", "GET /containers/paused/top",
        "GET /containers/running/stats?stream=false&one-shot=1", "GET /containers/created/stats?stream=0", "GET /containers/exited/stats?stream=0&one-shot=1", "GET /containers/paused/stats?stream=0&one-shot=1",
        "GET /v1.40/containers/running/stats?stream=0&one-shot=1", "~GET /containers/running/stats", "GET /containers/running/changes", "GET /containers/created/changes", "GET /containers/exited/changes",
        "~GET /containers/exited/export", "~GET /containers/created/export", "~GET /containers/running/export",
    ],
    "logs": [
        *_each("GET /containers/exited/logs?@", "stdout=1"), "GET /containers/exited/logs", "GET /containers/exited/logs?stdout=0", "GET /containers/exited/logs?stdout=1", "GET /containers/exited/logs?stderr=1", "GET /containers/exited/logs?stdout=1&tail=x",
        "GET /containers/exited/logs?stdout=1&tail=-1", "GET /containers/exited/logs?stdout=1&tail=0", "GET /containers/exited/logs?stdout=1&tail=1", "GET /containers/exited/logs?stdout=1&tail=all", "GET /containers/exited/logs?stdout=1&tail=", "GET /containers/exited/logs?stdout=1&since=x",
        "GET /containers/exited/logs?stdout=1&since=-1", "GET /containers/exited/logs?stdout=1&since=1.5", "GET /containers/exited/logs?stdout=1&since=99999999999", "GET /containers/exited/logs?stdout=1&until=x", "GET /containers/exited/logs?stdout=1&until=1", "GET /containers/exited/logs?stdout=1&since=1h",
        "GET /containers/exited/logs?stdout=1&since=2024-01-01T00:00:00Z", "GET /containers/exited/logs?stdout=1&follow=1", "GET /containers/exited/logs?stdout=1&follow=maybe&tail=1", "GET /containers/exited/logs?stdout=yes&details=1", "GET /containers/created/logs?stdout=1",
        "~GET /containers/tty/logs?stdout=1&follow=1", "~GET /containers/running/logs?stdout=1&follow=1", "~GET /containers/paused/logs?stdout=1", "GET /containers/quiet/logs?stdout=1", "GET /containers/quiet/logs", "GET /containers/exited/logs?stdout=1&since=1.x", "GET /containers/exited/logs?stdout=1&since=1.1234567890",
    ],
    "attach": [
        *[line for name in ("running", "created", "exited", "paused", "tty") for line in (f"~POST /containers/{name}/attach?stream=1&stdout=1", f"~POST /containers/{name}/attach", f"~POST /containers/{name}/attach?logs=1&stdout=1", f"~POST /containers/{name}/attach?stream=0")],
        ("~POST /containers/running/attach?stream=1&stdout=1#up", None, {"Connection": "Upgrade", "Upgrade": "tcp"}), ("~POST /containers/tty/attach?stream=1&stdout=1#up", None, {"Connection": "Upgrade", "Upgrade": "tcp"}),
        ("~POST /containers/nothing/attach?stream=1#up", None, {"Connection": "Upgrade", "Upgrade": "tcp"}), ("~POST /containers/exited/attach?stream=1&stdout=1#up", None, {"Connection": "Upgrade", "Upgrade": "tcp"}),
        *_each("~POST /containers/running/attach?stream=1&detachKeys=@", "nope|ctrl-|ctrl-1|a,b|ctrl-p,|ctrl-a,b|ctrl-@|ä"), "GET /containers/running/attach", "POST /containers/running/attach/ws", "GET /containers/running/attach/ws", "GET /containers/nothing/attach/ws", "GET /containers/paused/attach/ws",
        *[f"POST /containers/{name}/resize?{size}" for name in ("running", "tty", "created", "exited", "paused") for size in ("h=24&w=80", "h=x&w=80", "h=24", "w=80", "", "h=-1&w=5", "h=0&w=0", "h=99999&w=99999", "h=1.5&w=1", "h=99999999999999999999&w=1")],
    ],
    "execs": [
        *[(f"POST /containers/{name}/exec", {"Cmd": ["true"]}) for name in ("running", "created", "exited", "paused", "nothing")],
        *[("POST /containers/running/exec", body) for body in (*_BAD_BODIES, {}, {"Cmd": []}, {"Cmd": None}, {"Cmd": "true"}, {"Cmd": [1]}, {"Cmd": ["true"], "DetachKeys": "nope"}, {"Cmd": ["true"], "Env": ["A"]}, {"Cmd": ["true"], "User": "nobody-there"},
                                                                 {"Cmd": ["true"], "WorkingDir": "rel"}, {"Cmd": ["true"], "Tty": "x"}, {"Cmd": [""]}, {"Cmd": ["true"], "Privileged": True})],
        ("POST /containers/running/exec", b'{"Cmd":["true"]}', {"Content-Type": "text/plain"}), "POST /containers/running/exec", ("POST /containers/paused/exec", b"{"), ("POST /containers/created/exec", {}), ("POST /containers/nothing/exec", b"{"),
        "GET /exec/{exec}/json", "POST /exec/{exec}/resize?h=x&w=1", "POST /exec/{exec}/resize", *[("POST /exec/{exec}/start", body) for body in (b"{", b"[]", b"1")],
        ("POST /exec/{exec}/start", {"Detach": "x"}), ("POST /exec/{exec}/start", b"{}", {"Content-Type": "text/plain"}),
        ("POST /exec/{exec}/start", {"Detach": True}), ("POST /exec/{exec}/start#again", {"Detach": True}),
        ("POST /exec/{exec-slow}/start", {"Detach": True}), "GET /exec/{exec-slow}/json", "POST /exec/{exec-slow}/resize?h=1&w=1", "POST /exec/{exec-slow}/resize?h=-1&w=1", ("POST /exec/{exec-slow}/start#again", {"Detach": True}), ("POST /exec/{exec-slow}/start#again2", {}),
        ("POST /exec/{exec-missing}/start", {"Detach": True}), ("POST /exec/{exec-missing2}/start", {}), ("~POST /exec/{exec-missing3}/start#up", {}, {"Connection": "Upgrade", "Upgrade": "tcp"}), ("~POST /exec/{exec-tty}/start#up", {"Tty": True}, {"Connection": "Upgrade", "Upgrade": "tcp"}),
        ("~POST /exec/{exec-plain}/start", {}), ("POST /exec/{exec-user}/start", {"Detach": True}), ("POST /exec/{exec-dir}/start", {"Detach": True}), "POST /exec/{exec-plain2}/start", "GET /exec/{exec-missing}/json", ("POST /exec/nothing/start", b"{"), "GET /exec/{short exec}/json",
    ],
    "life": [
        "POST /containers/running/start", "POST /containers/paused/start", ("POST /containers/running/start", b"{"), ("POST /containers/running/start#host", {"Binds": ["/a:/b"]}), ("POST /v1.23/containers/running/start", {}), ("POST /containers/running/start#text", b"x", {"Content-Type": "text/plain"}),
        "POST /containers/created/stop", "POST /containers/exited/stop", "POST /containers/exited/stop?t=x", "POST /containers/running/stop?t=x", "POST /containers/exited/stop?t=-1", "POST /containers/exited/restart?t=x", "POST /containers/running/stop?t=1.5",
        *_each("POST /containers/running/kill?signal=@", "NOPE|0|-1|99|SIGNOPE|9x|x|SIGRTMIN+99|1.5|99999999999999999999| "), "POST /containers/created/kill", "POST /containers/exited/kill", "POST /containers/exited/kill?signal=NOPE", "POST /containers/running/kill?signal=CONT",
        "POST /containers/running/kill?signal=SIGCONT", "POST /containers/running/kill?signal=18", "POST /containers/running/kill?signal=sigcont", "POST /containers/running/kill?signal=WINCH", "POST /containers/paused/kill?signal=CONT",
        "POST /containers/paused/pause", "POST /containers/created/pause", "POST /containers/exited/pause", "POST /containers/running/unpause", "POST /containers/created/unpause", "POST /containers/exited/unpause",
        "POST /containers/running/pause", "POST /containers/running/pause#again", "POST /containers/running/restart?t=x", "POST /containers/running/unpause#paused", "POST /containers/running/unpause#again", "DELETE /containers/running", "DELETE /containers/paused", "DELETE /containers/running?v=1",
        "DELETE /containers/running?link=1", "DELETE /containers/created?link=1", "DELETE /containers/running?force=0", "DELETE /containers/created/", "POST /containers/paused/restart?t=0", "POST /containers/paused/pause#after",
        "POST /containers/exited/wait", "POST /containers/exited/wait?condition=not-running", "POST /containers/created/wait", "~POST /containers/running/wait", "~POST /containers/exited/wait?condition=next-exit", "~POST /containers/created/wait?condition=removed",
        "POST /v1.29/containers/exited/wait", "POST /v1.24/containers/exited/wait?condition=nope", "POST /containers/missing-program/start", "GET /containers/missing-program/json", "POST /containers/not-a-program/start", "POST /containers/missing-program/wait",
    ],
    "update": [
        *[("POST /containers/created/update", body) for body in _BAD_BODIES], ("POST /containers/created/update", b"{}", {"Content-Type": "text/plain"}), "POST /containers/created/update",
        *[(f"POST /containers/{name}/update", body) for name in ("created", "running") for body in (
            {}, {"Memory": -1}, {"Memory": 1}, {"Memory": "x"}, {"Memory": 64 << 20}, {"Memory": 64 << 20, "MemorySwap": -1}, {"Memory": 64 << 20, "MemorySwap": 32 << 20}, {"MemorySwap": 1}, {"CpuShares": -1}, {"CpuShares": 512}, {"CpuPeriod": 1}, {"CpuQuota": 1}, {"CpuQuota": -1},
            {"NanoCpus": -1}, {"NanoCpus": 10**9}, {"NanoCpus": 10**12}, {"NanoCpus": 10**9, "CpuQuota": 5000}, {"PidsLimit": -1}, {"PidsLimit": 100}, {"BlkioWeight": 1}, {"CpusetCpus": "99"}, {"CpusetCpus": "x"}, {"CpusetCpus": "0"}, {"RestartPolicy": {"Name": "nope"}},
            {"RestartPolicy": {"Name": "always"}}, {"RestartPolicy": {"Name": "no"}}, {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 2}}, {"RestartPolicy": {}}, {"Nope": 1}, {"MemoryReservation": 1 << 30}, {"KernelMemory": 1})],
        ("POST /containers/auto/update", {"RestartPolicy": {"Name": "always"}}), ("POST /containers/exited/update", {"Memory": 64 << 20, "MemorySwap": -1}), ("POST /containers/paused/update", {"CpuShares": 100}),
    ],
    "files": [
        *[f"{method} /containers/{name}/archive?path={path}" for method in ("HEAD", "~GET") for name in ("running", "created") for path in ("/etc/passwd", "etc/passwd", "/etc", "/etc/", "/nope", "/etc/passwd/", "/etc/passwd/x", "/evil", "/evil/etc", "", "/.", "/etc/.", "/..", "%00")],
        "GET /containers/running/archive", "HEAD /containers/running/archive", "PUT /containers/running/archive", ("PUT /containers/created/archive?path=/", b"no tar at all, certainly"), ("PUT /containers/created/archive?path=/nope", b""), ("PUT /containers/created/archive?path=/etc/passwd", b""),
        ("PUT /containers/created/archive?path=/", b""), ("PUT /containers/created/archive?path=/etc/passwd/", b""), ("PUT /containers/running/archive?path=rel", b""), ("PUT /containers/created/archive?path=/etc&noOverwriteDirNonDir=maybe", b""), "PUT /containers/created/archive?path=/",
        "POST /commit", "POST /commit?container=", "POST /commit?container=exited&repo=BAD", "POST /commit?container=exited&repo=good&tag=b:d", "POST /commit?container=exited&repo=a&changes=NOPE", "POST /commit?container=exited&changes=NOPE%20x", "POST /commit?container=exited&changes=CMD%20true",
        ("POST /commit?container=exited&repo=parity", {}), ("POST /commit?container=exited", b"{"), ("POST /commit?container=exited", b"null"), ("POST /commit?container=exited#text", b"{}", {"Content-Type": "text/plain"}), ("POST /commit?container=running&pause=maybe&repo=parity", None),
        ("POST /commit?container=nothing#body", b"{"), ("POST /commit?container=exited&changes=EXPOSE%20x", None), ("POST /commit?container=exited&changes=ENV%20x", None), ("POST /commit?container=exited&changes=FROM%20bb", None), ("POST /commit?container=exited&changes=RUN%20true", None),
    ],
    "images": [
        "GET /images/json", "GET /images/json?all=1", "GET /images/json?digests=1", "GET /images/json?filter=bb", *_each("GET /images/json?filters=@", 'x|[]|{}|{"dangling":["false"]}|{"reference":["bb"]}'),
        "GET /images/bb/json", "GET /images/bb:latest/json", "GET /images/bb:nope/json", "GET /images/docker.io/library/bb/json", "GET /images/{image}/json", "GET /images/{short image}/json", "GET /images/library/bb/json", "GET /images/nope/nope/json", "GET /images/localhost:5000/x/json", "GET /images/bb/history", "GET /images/{image}/history",
        *_each("POST /images/bb/tag?repo=@", "BAD|a b||good|good:x|a/b/c|-x|sha256|sha256:x|localhost:5000/x|ä|good@sha256:12"), *_each("POST /images/bb/tag?repo=good&tag=@", "x|X|a b|-a|a:b||ä|" + "x" * 200), "POST /images/bb/tag", "POST /images/nothing/tag?repo=BAD",
        "DELETE /images/bb", "DELETE /images/{image}", "DELETE /images/bb?force=maybe", "DELETE /images/good:x", "DELETE /images/good", "DELETE /images/good#again", "DELETE /images/a/b/c", "DELETE /images/sha256:1234567890ab", "DELETE /images/{short image}",
        "GET /images/get", "GET /images/get?names=", "GET /images/get?names=nothing", "GET /images/get?names=bb&names=nothing", "~GET /images/bb/get", "~GET /images/get?names=bb", ("POST /images/load", b"no tar"), ("POST /images/load?quiet=1", b""), "POST /images/load",
        ("POST /images/create?fromSrc=-", b"no tar"), ("POST /images/create?fromSrc=-&repo=BAD", b""), ("POST /images/create?fromSrc=-&changes=NOPE", b""), "POST /images/create", "GET /images/search?term=x&limit=x",
        ("POST /images/prune", None), *[f"POST /images/prune?filters={quote(text)}" for text in ("x", "[]", '{"nope":["x"]}', '{"dangling":["maybe"]}', '{"until":["x"]}', '{"dangling":["true"]}', '{"until":["1h","2h"]}', '{"label":["nope"]}')],
    ],
    "prunes": [
        *[f"POST /containers/prune?filters={quote(text)}" for text in ("x", "[]", '{"nope":["x"]}', '{"until":["x"]}', '{"until":["1h"]}', '{"until":["1h","2h"]}', '{"label":["nope"]}', '{"label":["a=b","c"]}', '{"label!":["x"],"until":["1h"]}', '{"dangling":["true"]}', '{"until":["2999-01-01"],"label":["nope"]}')],
        "POST /build/prune", "POST /build/prune?filters=x", "GET /containers/prune",
    ],
    "system": [
        "GET /_ping", "HEAD /_ping", "POST /_ping", "GET /version", "GET /info", "GET /system/df", "GET /auth", *[("POST /auth", body) for body in (b"{", b"[]", {"username": 1})],
        "~GET /events", "GET /events?since=1&until=2", "GET /events?until=x", "GET /events?since=x", "GET /events?since=5&until=2", *_each("GET /events?until=1&filters=@", 'x|[]|{"nope":["x"]}|{"type":["nope"]}|{"type":["container"]}|{"event":["nope"]}|{"container":["nothing"]}|{"label":["a"]}'), "GET /events?until=1&since=0",
        "GET /events?until=1.5", "GET /nope", "GET /", "POST /nope", "GET /containers", "GET /containers/json/", "PUT /containers/json", "DELETE /containers/json", "PATCH /containers/json", "HEAD /containers/json", "HEAD /version", "HEAD /info", "HEAD /containers/running/json", "HEAD /images/json",
        "OPTIONS /containers/json", "OPTIONS /nope", "POST /containers/json", "GET /containers/create", "GET /containers/running/start", "PUT /containers/running/json", "GET /CONTAINERS/json", "GET //containers/json", "GET /containers//running/json", "GET /containers/../containers/json", "GET /version/", "GET /./version",
        "GET /networks", "GET /networks/nothing", "GET /networks/none", "GET /networks/host", "DELETE /networks/nothing", "DELETE /networks/host", ("POST /networks/nothing/connect", {"Container": "running"}), "GET /networks/", "GET /volumes", "GET /volumes/nothing", "DELETE /volumes/nothing",
    ],
    "swarm and plugins": [
        *[f"GET /{what}" for what in ("swarm", "services", "tasks", "nodes", "secrets", "configs", "swarm/unlockkey", "services/x", "tasks/x", "nodes/x", "secrets/x", "configs/x", "services/x/logs?stdout=1", "tasks/x/logs?stdout=1")],
        *[f"DELETE /{what}/x" for what in ("services", "nodes", "secrets", "configs")], *[(f"POST /{what}/x/update?version=1", {}) for what in ("services", "nodes", "secrets", "configs")], *[f"POST /{what}/x/update#none" for what in ("services", "nodes", "secrets", "configs")],
        *[(f"POST /{what}/create", {}) for what in ("services", "secrets", "configs")], ("POST /swarm/update?version=1", {}), ("POST /swarm/leave", None), ("POST /swarm/leave?force=1", None), ("POST /swarm/unlock", {"UnlockKey": "x"}), ("POST /swarm/join#bad", b"{"), ("POST /swarm/update?version=x", {}), ("POST /swarm/unlock#bad", b"{"),
        "GET /services?filters=x", "GET /nodes?filters=x", "GET /plugins", "GET /plugins?filters=x", "GET /plugins/x/json", "DELETE /plugins/x", "POST /plugins/x/enable", "POST /plugins/x/enable?timeout=1", "POST /plugins/x/disable", ("POST /plugins/x/set", []), ("POST /plugins/x/set#bad", b"{"), "GET /plugins/a/b:c/json",
        "POST /plugins/x/push", "GET /plugins/privileges", ("POST /plugins/pull", b"{"),
    ],
    "versions": [
        *[f"GET /{version}/{path}" for version in ("v1.11", "v1.12", "v1.21", "v1.99", "v2.0", "v0.1", "v1", "v1.x", "1.41", "v1.41.1", "v", "v01.41", "V1.41", "v1.24x", "v-1.2", "v1.041") for path in ("version", "_ping")], "GET /v1.99/nope", "HEAD /v1.99/_ping", "POST /v1.99/containers/create", "OPTIONS /v1.99/version",
        *[f"GET /v{version}/{path}" for version in ("1.22", "1.24", "1.30", "1.40") for path in ("containers/nothing/json", "containers/json?all=1", "containers/running/json", "images/json", "images/bb/json", "info", "version", "system/df", "networks", "volumes", "exec/{exec}/json", "events?since=1&until=2", "images/bb/history", "containers/running/top", "containers/created/changes", "containers/exited/logs?stdout=1")],
        ("POST /v1.23/containers/create", {"Image": "nothing"}), ("POST /v1.23/containers/running/exec", {"Cmd": []}), ("POST /v1.23/containers/nothing/kill", None), *[(f"POST /v{version}/containers/running/kill?signal=NOPE", None) for version in ("1.19", "1.22", "1.24")], *[f"POST /v{version}/containers/exited/kill" for version in ("1.19", "1.20", "1.22", "1.24")],
        *[(f"POST /v{version}/containers/exited/wait", None) for version in ("1.22", "1.29", "1.30")], *[(f"~POST /v{version}/containers/running/attach?stream=1&stdout=1", None, {"Connection": "Upgrade", "Upgrade": "tcp"}) for version in ("1.22", "1.30", "1.40")],
        "GET /v1.22/containers/running/archive?path=/nope", "GET /v1.24/containers/running/logs", "DELETE /v1.24/containers/running", "POST /v1.22/containers/running/start", "POST /v1.24/containers/exited/rename?name=running",
    ],
}  # fmt: skip

# What differs on purpose: the request, the difference, and why. `for` is followed by what dockerd 20.10 says.
_NEVER_STARTS = "dockerd makes a container that cannot start; berth says so at once"
_LATER = "comes with another part of berth: networks, volumes, registries, builds"
_NEW_WORDS = "the words of dockerd 28"
DIFFERENCES: list[tuple[str, str, str]] = [
    # What newer versions say.
    (r"archive", r"^said 'bad parameter: path cannot be empty' for 'bad parameter: pathcannot", "a space that dockerd forgot"),
    (r"GET /images/\S+/json", r"^said .* for 'no such image: ", _NEW_WORDS + ", which say it once"),
    (r"", r"^said 'invalid reference format: repository name \(library/", _NEW_WORDS),
    (r"", r"^said \"unsupported Content-Type header", _NEW_WORDS),
    (r"", r"^said .invalid restart policy: ", _NEW_WORDS),
    (r"Runtime", r"^said 'unknown or invalid runtime name", _NEW_WORDS),
    (r"^DELETE", r"^said 'cannot remove container ", _NEW_WORDS),
    (r"/exec/", r"^said 'exec command <exec[^>]*> (has already run|is already running)' for 'Error: Exec", _NEW_WORDS),
    (r"(create|exec|update)$", r"(^said 'invalid JSON: Extra data|^status 400 for 200)", "dockerd 28 no longer takes what comes after the JSON value"),
    (r"(update|start|volumes/create)$", r"^(status 20[01] for (400|500)|said '' for '(got )?EOF)", "dockerd 28 takes an empty body for an empty object"),
    (r"/volumes", r"Labels: .*com.docker.volume.anonymous", "dockerd 28 marks those that nobody named"),
    (r"GET /(\S+/)?volumes", r"^Volumes\[\]\.(Labels|Options): ", "some have none, and the list is in the order of names"),
    (r"/volumes/create", r"^Options: .null. for \{\}", "no options are none"),
    (r"cluster|npipe", r"^said 'invalid mount config for type .(cluster|npipe).: .*' for '.*: mount type unknown", "why it is not known"),
    (r"resize\?h=-1", r"^(status 400 for (200|409)|said 'invalid resize height)", "dockerd 28 knows that no terminal has a negative size"),
    (r"/update$", r"^(status 200 for 400|said '' for 'Minimum kernel memory)", "KernelMemory is ignored, as by dockerd 28"),
    (r"create.*KernelMemory", r"^(status 201 for 400|said '' for 'Minimum kernel memory)", "KernelMemory is ignored, as by dockerd 28"),
    (r"/(json|info)", r"^(HostConfig\.)?KernelMemory(TCP)?: missing", "dockerd 28 leaves it out"),
    (r"", r"NetworkSettings\.Networks\.none\.(DNSNames|GwPriority): one more", "dockerd 28 shows them to clients of every version"),
    (r"/wait", r"^Error: missing, \"null\"", "dockerd 28 leaves it out where there is none"),
    (r"/logs", r"^headers .'Content-Type': 'application/vnd.docker.raw-stream for None'", "dockerd 28 names the type"),
    (r"/logs.*since=2024", r"^(status 200 for 500|said '')", "a time as clients write it is a time"),
    (r"_ping", r"^headers .'Swarm': 'inactive for None'", "dockerd sends it since 1.42"),
    (r"", r"client version \S+ is too (old|new)", "berth serves 1.22 to 1.51, dockerd 20.10 1.12 to 1.41"),
    (r"/v1\.(12|19|2[01]|41\.1)/", r"^status (400 for (200|204|409)|200 for 400)", "berth serves 1.22 to 1.51, dockerd 20.10 1.12 to 1.41"),
    (r"(Volume|Tmpfs)Options", r"^(status 201 for 400|said '' for 'invalid mount config)", "ignored for clients before 1.42, as by dockerd 28"),
    (r"ConsoleSize.*-1", r"^(status 201 for 500|said '')", "ignored for clients before 1.42, as by dockerd 28"),
    # What berth does otherwise.
    (r"containers/create", r"^(status 400 for 201|said .* for ''$)", _NEVER_STARTS),
    (r"label=nope", r"^status 501 for 201", _NEVER_STARTS),
    (r"systempaths", r"^(status 201 for 500|said '' for 'invalid --security-opt)", "dockerd leaves this option to the command line; berth knows it too"),
    (r"containers/create$", r"^said .* for '(Config cannot be empty|No command specified)|Content-Type specified \(\) ", "an image is what is missed first; a body without a type is taken for JSON"),
    (r"/update$", r"^(status 400 for 200|said .* for ''$)", "what no running container could have is refused for others too"),
    (r"(^|/)attach", r"^headers .*'Content-Type': 'application/json for (application/vnd.docker.raw-stream|None)'", "an error is JSON here too"),
    (r"/stats", r"^headers .'Content-Type': 'application/json for None'", "a type for a stream of JSON"),
    (r"/stats", r"^memory_stats\.stats\.\w+: one more", "all that the kernel tells"),
    (r"/exec", r"^said 'Container <paused> is paused", "the container is named by its id, as elsewhere"),
    (r"/exec/.*/start", r"^(status (409|400) for 200|said .* for ''$)", "no stream is begun for an exec that cannot start"),
    (r"start$", r"^said 'exec: .* for '(OCI runtime exec|failed to create shim task)", "there is no shim and no second runtime to be told of"),
    (r"/images/", r"^GraphDriver\.Data\.\w+: missing", "an image has no directories of its own"),
    (r"/info", r"^(DriverStatus|Runtimes\.\S+|Warnings): ", "what each engine found on this host"),
    (r"^HEAD", r"^status 200 for 404", "HEAD is served wherever GET is"),
    (r"/images/load", r"^(status 400 for 200|said .* for '')", "an archive that cannot be read is an error, not a success that tells of one"),
    (r"/images/get", r"^(status 400 for 200|said \"no image named)", "an archive of nothing helps nobody"),
    (r"POST /images/nothing/tag", r"^(status 400 for 404|said 'invalid reference)", "what is wrong with the request comes before what is not there"),
    (r"DELETE /images/\{", r"^said 'unable to delete", "images made by commit have no parents"),
    (r"/images/json|/df", r"elements for|Labels: ", "images made by commit have no parents, so that some of dockerd's are hidden"),
    # Other parts of berth.
    (r"", r"^status 501 for (400|500)", _LATER),
    (r"", r"^said .*this version of berth", _LATER),
    (r"(swarm|services|nodes|secrets|configs|plugins)", r"^(status (503|404|501) for|said)", "there is no swarm and no plugin: a body that is wrong changes nothing"),
]
seen_on_purpose: set[int] = set()
groups_seen: set[str] = set()


# -- what the requests are about ------------------------------------------------------------------------------

_CONTAINERS: dict[str, tuple[str, dict[str, Any]]] = {
    "running": ("running", {"Cmd": LOOP, "Labels": {"a": "b"}}), "created": ("created", {"Cmd": ["true"]}),
    "exited": ("exited", {"Cmd": ["sh", "-c", "echo one; echo two; exit 3"]}), "paused": ("paused", {"Cmd": LOOP}),
    "tty": ("running", {"Cmd": LOOP, "Tty": True, "OpenStdin": True}), "auto": ("created", {"Cmd": ["true"], "HostConfig": {"AutoRemove": True}}),
    "quiet": ("exited", {"Cmd": ["true"], "HostConfig": {"LogConfig": {"Type": "none"}}}), "missing-program": ("created", {"Cmd": ["no-such-program"]}),
    "not-a-program": ("created", {"Cmd": ["/etc/passwd"]}),
}  # fmt: skip
_EXECS: dict[str, dict[str, Any]] = {
    "exec": {"Cmd": ["true"]}, "exec-slow": {"Cmd": ["sleep", "1000"]}, "exec-missing": {"Cmd": ["no-such-program"]}, "exec-missing2": {"Cmd": ["no-such-program"]},
    "exec-missing3": {"Cmd": ["no-such-program"], "AttachStdout": True}, "exec-tty": {"Cmd": ["true"], "Tty": True, "AttachStdout": True}, "exec-plain": {"Cmd": ["true"], "AttachStdout": True},
    "exec-plain2": {"Cmd": ["true"]}, "exec-user": {"Cmd": ["true"], "User": "nobody-there"}, "exec-dir": {"Cmd": ["true"], "WorkingDir": "rel"},
}  # fmt: skip


def furnish(peer: Peer) -> None:
    """Brings every object that requests name into its state; what is in it already stays."""
    if "image" not in peer.ids:
        peer.ids["image"] = _done(peer.ask("GET", "/images/bb/json")).body["Id"]
    _done(peer.ask("POST", "/images/{image}/tag?repo=bb"))
    known = {each["Names"][0]: each for each in peer.ask("GET", "/containers/json?all=1").body}
    for name, (state, fields) in _CONTAINERS.items():
        is_there = known.pop(f"/{name}", None)
        if is_there is None or is_there["State"] != state or is_there["Id"] != peer.ids.get(name):
            _make(peer, name, state, fields)
    for stray in known.values():
        if stray["Id"] not in peer.ids.values():
            peer.ask("DELETE", f"/containers/{stray['Id']}?force=1")
    _make_ambiguous(peer)
    for name, config in _EXECS.items():
        peer.ids[name] = _done(peer.ask("POST", "/containers/running/exec", config)).body["Id"]
    for short in ("running", "exec", "image"):
        peer.ids[f"short {short}"] = peer.ids[short].removeprefix("sha256:")[:12]


def _make(peer: Peer, name: str, state: str, fields: dict[str, Any]) -> None:
    peer.ask("DELETE", f"/containers/{name}?force=1")
    body = {"Image": "bb", **fields, "HostConfig": {"NetworkMode": "none", **fields.get("HostConfig", {})}}
    peer.ids[name] = _done(peer.ask("POST", f"/containers/create?name={name}", body)).body["Id"]
    if state != "created":
        _done(peer.ask("POST", f"/containers/{name}/start"))
    if state == "exited":
        _done(peer.ask("POST", f"/containers/{name}/wait"))
    if state == "paused":
        _done(peer.ask("POST", f"/containers/{name}/pause"))


_MORE = 8  # with the others more than there are hexadecimal digits


def _make_ambiguous(peer: Peer) -> None:
    """Two containers whose ids begin with the same digit: of seventeen there always are two."""
    if "ambiguous" in peer.ids:
        return
    firsts = [identity[0] for name, identity in peer.ids.items() if name in _CONTAINERS]
    for number in range(_MORE):
        peer.ids[f"more{number}"] = identity = _done(peer.ask("POST", f"/containers/create?name=more{number}", {"Image": "bb", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}})).body["Id"]
        firsts.append(identity[0])
    peer.ids["ambiguous"] = next(first for first in firsts if firsts.count(first) > 1)


def _done(answer: Answer) -> Answer:
    assert answer.status < 400, answer
    return answer


# -- comparing ------------------------------------------------------------------------------------------------


def _sent(peer: Peer, request: Request) -> Answer:
    line, body, headers = (*(request if isinstance(request, tuple) else (request,)), None, None)[:3]
    method, target = line.lstrip("~").partition("#")[0].split(" ", 1)
    prefix = "" if target.startswith(("/v", "/V", "/1.")) and not target.startswith(("/version", "/volumes")) else V
    answer = peer.ask(method, prefix + target, body, headers, head_only=line.startswith("~") or method == "HEAD")
    if answer.status == 201 and target.startswith("/containers/create"):
        peer.ask("DELETE", f"/containers/{answer.body['Id']}?force=1")
    return answer


# Words of Go's decoders, which no client matches on.
_DECODERS = re.compile(r"json: cannot unmarshal|unexpected EOF|^(got )?EOF|invalid character '|strconv\.|failed to parse value as time")
_ALWAYS_SENT = {"Api-Version", "Ostype", "Docker-Experimental"}


def _difference(theirs: Answer, ours: Answer, docker: Peer, berth: Peer) -> list[str]:
    """What is told apart. Four things are no difference here:

    - 400, 404 or 409 where 20.10 says 500 for a mistake of the client's: newer versions of dockerd no longer do;
    - the words of Go's JSON and number decoders;
    - the case of a message's first letter (lower in newer versions), and a message that goes on after dockerd's words;
    - an empty list or object where Go has null, and headers that berth sends always and dockerd most of the time.
    """
    said_theirs, said_ours = docker.plain(theirs.message), berth.plain(ours.message)
    if theirs.status == 500 and ours.status in (400, 404, 409) and (said_ours or ours.body is None):
        return []
    found = []
    if theirs.status != ours.status:
        found.append(f"status {ours.status} for {theirs.status}")
    elif others := _other_headers(theirs.headers, ours.headers):
        found.append(f"headers {others}")
    if not (said_ours.lower().startswith(said_theirs.lower()) and bool(said_ours) == bool(said_theirs)) and not (_DECODERS.search(said_theirs) and said_ours):
        found.append(f"said {said_ours!r} for {said_theirs!r}")
    if theirs.status == ours.status < 400:
        if isinstance(theirs.body, dict | list):
            found += shape_differences(shape(theirs.body), shape(ours.body))
            if isinstance(theirs.body, list) and isinstance(ours.body, list) and len(theirs.body) != len(ours.body):
                found.append(f"{len(ours.body)} elements for {len(theirs.body)}")
        elif theirs.body != ours.body:
            found.append(f"body {ours.body!r:.100} for {theirs.body!r:.100}")
    return found


def _other_headers(theirs: dict[str, str], ours: dict[str, str]) -> dict[str, str]:
    """Name -> what berth sends for it and dockerd does not."""
    names = (theirs.keys() | ours.keys()) - _ALWAYS_SENT
    names |= {name for name in _ALWAYS_SENT if name in theirs and name not in ours}
    # The stat has a time and a mode in it: the files of the two containers are not the same.
    equal = {name for name in names if theirs.get(name) == ours.get(name) or (name.endswith("-Stat") and name in theirs and name in ours)}
    return {name: f"{ours.get(name)} for {theirs.get(name)}" for name in sorted(names - equal)}


def _on_purpose(line: str, text: str) -> bool:
    for index, (request, difference, _) in enumerate(DIFFERENCES):
        if re.search(request, line) and re.search(difference, text):
            seen_on_purpose.add(index)
            return True
    return False


def differences(docker: Peer, berth: Peer, requests: list[Request]) -> list[str]:
    """What a client of berth would see otherwise, a text for each request."""
    found = []
    with ThreadPoolExecutor(2) as pool:  # each engine has its requests in order; the two need not wait for one another
        theirs, ours = (pool.submit(lambda peer: [_tried(peer, request) for request in requests], peer) for peer in (docker, berth))
        answers = zip(requests, theirs.result(), ours.result(), strict=True)
    for request, their, our in answers:
        line = request if isinstance(request, str) else request[0]
        if isinstance(their, Exception) or isinstance(our, Exception):
            each = [f"{our!r} for {their!r}"]
        else:
            each = [text for text in _difference(their, our, docker, berth) if not _on_purpose(line, text)]
        if each:
            found.append("\n    ".join([line if isinstance(request, str) else f"{line} {request[1]!r:.150}", *each]))
    return found


def _tried(peer: Peer, request: Request) -> Answer | Exception:
    try:
        return _sent(peer, request)
    except (OSError, http.client.HTTPException) as error:
        return error


@pytest.fixture(scope="module")
def peers(rootfs_tar: str) -> Iterator[tuple[Peer, Peer]]:
    """dockerd and berth, each with the same containers; what of them a group changed is made anew for the next."""
    daemon = Dockerd("--storage-driver", "overlay2")
    try:
        engine = Engine()
        engine.docker("import", rootfs_tar, "bb")
        yield Peer(daemon.host.removeprefix("unix://")), Peer(f"{engine.exec}/berth.sock")
        engine.finish()
    finally:
        daemon.finish()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("group", GROUPS)
def test_what_a_client_is_told(peers: tuple[Peer, Peer], group: str) -> None:
    docker, berth = peers
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(furnish, peers))
    found = differences(docker, berth, GROUPS[group])
    groups_seen.add(group)
    assert not found, "\n".join([f"{len(found)} of {len(GROUPS[group])} requests:", *found])


def test_the_table_of_differences_is_true() -> None:
    """An entry that nothing needs any more would hide the next difference."""
    if groups_seen != set(GROUPS):
        pytest.skip("not all groups of requests were sent")
    unused = [entry for index, entry in enumerate(DIFFERENCES) if index not in seen_on_purpose]
    assert not unused, unused
