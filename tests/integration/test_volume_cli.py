"""What berth's command line asks of an engine for volumes and mounts, beside what Docker's asks: the same JSON, the same words.

Both talk to an engine that only writes down (recorder.py), so this needs neither containers nor rights.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from harness import REPOSITORY
from recorder import Recorder, Seen

if not shutil.which("docker") or not re.search(
    r"version (2[89]|[3-9]\d)\.", subprocess.run(["docker", "--version"], capture_output=True, text=True, check=True).stdout
):
    pytest.skip("needs Docker's CLI of version 28 or newer", allow_module_level=True)

BERTH = [sys.executable, "-IS", f"{REPOSITORY}/src/berth/cli/__main__.py"]
_VOLUME: dict[str, Any] = {"CreatedAt": "2026-01-02T03:04:05Z", "Driver": "local", "Labels": None, "Mountpoint": "/v/_data", "Name": "", "Options": None, "Scope": "local"}
ANSWERS: dict[str, tuple[int, Any]] = {
    "GET /volumes": (200, {"Volumes": [{**_VOLUME, "Name": "a", "Labels": {"x": "y"}}, {**_VOLUME, "Name": "bb", "Labels": None}], "Warnings": None}),
    "GET /volumes/a": (200, {**_VOLUME, "Name": "a", "Labels": {"x": "y"}}), "GET /volumes/no": (404, {"message": "get no: no such volume"}),
    "POST /volumes/create": (201, {**_VOLUME, "Name": "made", "Labels": None}), "DELETE /volumes/no": (404, {"message": "get no: no such volume"}),
    "DELETE /volumes/used": (409, {"message": "remove used: volume is in use - [x]"}),
    "POST /volumes/prune": (200, {"VolumesDeleted": ["a", "bb"], "SpaceReclaimed": 1234567}),
    **{f"POST /{kind}/prune": (200, {f"{name}Deleted": None, "SpaceReclaimed": 5}) for kind, name in (("containers", "Containers"), ("images", "Images"))},
    "POST /networks/prune": (200, {"NetworksDeleted": None}), "POST /build/prune": (200, {"CachesDeleted": None, "SpaceReclaimed": 0}),
    "GET /system/df": (200, {"LayersSize": 0, "Images": [], "Containers": [], "BuildCache": [], "Volumes": [
        {**_VOLUME, "Name": "a", "Labels": None, "UsageData": {"RefCount": 1, "Size": 1500}}, {**_VOLUME, "Name": "bb", "Labels": None, "UsageData": {"RefCount": 0, "Size": 4500}}]}),
}  # fmt: skip


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with Recorder() as made:
        made.answers = ANSWERS
        yield made


def plain(value: Any, name: str = "") -> Any:
    """Without what says the same as if it were not there."""
    if isinstance(value, dict):
        found = {key: plain(item, key) for key, item in value.items()}
        if name in ("Volumes", "Tmpfs", "Labels", "Options", "DriverOpts"):
            return found
        return {key: item for key, item in found.items() if item not in (None, "", 0, False, [], {}, -1, [0, 0])}
    return [plain(item) for item in value] if isinstance(value, list) else value


def asked(seen: Seen) -> list[tuple[str, Any]]:
    """Requests, without the prune of builds and what the other CLI asks besides."""
    found = []
    for target, body in seen.requests:
        if "/build/" in target or "/_ping" in target or target.startswith("GET /containers/") or target == "GET /info":
            continue
        path, mark, filters = target.partition("?filters=")
        target = path + mark + json.dumps(json.loads(filters), sort_keys=True) if filters else target
        shown = plain(body)
        if isinstance(shown, dict) and "ClusterVolumeSpec" in (body or {}):
            shown = {**{key: item for key, item in shown.items() if key != "ClusterVolumeSpec"}, "cluster": True}
        if isinstance(shown, dict) and "Binds" in shown.get("HostConfig", {}):
            shown["HostConfig"]["Binds"] = sorted(shown["HostConfig"]["Binds"])  # Docker's order is that of a map: any
        found.append((target, shown))
    return found


# The JSON, what is printed, and the exit code.
SAME = r"""
create --mount type=volume,source=v,target=/t bb
create --mount src=v,dst=/t bb
create --mount dst=/t bb
create --mount type=bind,src=./x,dst=/t bb
create --mount type=bind,src=.,dst=/t bb
create --mount type=bind,src=x,dst=/t bb
create --mount type=volume,src=v,dst=/t,readonly bb
create --mount type=volume,src=v,dst=/t,ro=T bb
create --mount type=volume,src=v,dst=/t,ro=false bb
create --mount type=volume,src=v,dst=/t,volume-nocopy,volume-label=a=b,volume-label=c,volume-driver=local,volume-opt=type=nfs,volume-opt=o=addr=1.2.3.4,volume-subpath=a/b bb
create --mount type=volume,src=v,dst=/t,volume-nocopy=false bb
create --mount type=volume,src=v,dst=/t,volume-opt=x bb
create --mount type=tmpfs,src=v,dst=/t bb
create --mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777 bb
create --mount type=image,src=bb,dst=/t,image-subpath=a/b bb
create --mount type=cluster,src=v,dst=/t bb
create --mount type=npipe,src=v,dst=/t bb
create --mount type=VOLUME,src=v,dst=/t bb
create --mount TYPE=bind,SRC=/a,DST=/t bb
create --mount type=bind,src=/a,dst=/t,bind-propagation=RSLAVE bb
create --mount type=bind,src=/a,dst=/t,bind-nonrecursive bb
create --mount type=bind,src=/a,dst=/t,bind-recursive=enabled bb
create --mount type=bind,src=/a,dst=/t,bind-recursive=disabled bb
create --mount type=bind,src=/a,dst=/t,readonly,bind-recursive=writable bb
create --mount type=bind,src=/a,dst=/t,readonly,bind-recursive=readonly,bind-propagation=rprivate bb
create --mount type=bind,src=/a,dst=/t,consistency=Cached bb
create --mount type=bind,dst=/t bb
create --mount type=bind,src=,dst=/t bb
create --mount 'type=bind,src= /a,dst=/t' bb
create --mount 'type=bind,"src=/a,b",dst=/t' bb
create --mount type=bind,src=/a,dst=/t,src=/b bb
create -v data:/t bb
create -v /t bb
create -v /a:/t:ro -v data:/u:nocopy,ro bb
create -v ./a:/t bb
create -v .:/t bb
create -v ../a:/t:z bb
create -v a/b:/t bb
create -v data:/t:idmap=owner -v /a:/b:idmap bb
create -v /t/ -v /t bb
create -v / bb
create --volumes-from a --volumes-from b:ro bb
create --volume-driver x -v data:/t bb
create --tmpfs /t --tmpfs /u:size=1m,ro bb
create --tmpfs /t:size=1m --tmpfs /t bb
volume create
volume create v
volume create --name v
volume create -d local -o a=b -o c --label x=y --label z v
volume create -o =x v
volume create --scope multi v
volume create --type mount --required-bytes 1g --group g --secret a=b --topology-required x=y v
volume ls
volume list -q
volume ls -f name=x -f dangling=true -f label=a=b
volume ls --cluster
volume ls --cluster -q
volume ls --format '{{.Name}} {{.Driver}} {{.Scope}} {{.Mountpoint}} {{.Labels}} {{.Label "x"}} {{.Links}} {{.Size}} {{.Status}} {{.Availability}} {{.Group}}'
volume ls --format json
volume ls --format 'table {{.Name}}\t{{.Mountpoint}}'
volume ls --format '{{.Nope}}'
volume rm a used
volume rm no a
volume rm -f no
volume remove a
volume prune -f
volume prune -af
volume prune -f --filter label=x --filter label!=y
volume prune -f --filter all=1
volume prune
volume prune -a
volume inspect a
volume inspect a no
volume inspect -f '{{.Name}} {{.Labels.x}}' a
volume inspect no
volume update a
volume update no
inspect --type volume a
system prune -f --volumes
system prune -f --volumes --filter label=x
system prune --volumes
system df
system df --format '{{json .}}'
rm -v x
"""


@pytest.mark.parametrize("line", SAME.strip().splitlines())
def test_the_same_request(recorder: Recorder, line: str) -> None:
    docker, berth = recorder.run(["docker"], *shlex.split(line)), recorder.run(BERTH, *shlex.split(line))
    assert asked(berth) == asked(docker), berth
    assert (berth.code, berth.output) == (docker.code, docker.output), (docker, berth)
    assert bool(berth.errors) == bool(docker.errors), (docker, berth)


def test_the_table_of_volumes_in_df(recorder: Recorder) -> None:
    docker, berth = recorder.run(["docker"], "system", "df", "-v"), recorder.run(BERTH, "system", "df", "-v")
    tables = [[" ".join(line.split()) for line in seen.output.split("Local Volumes")[1].split("Build cache")[0].splitlines()] for seen in (docker, berth)]
    assert tables[0] == tables[1]
    assert "bb 0 4.5kB" in tables[0]


# Before anybody is asked; after `|`: how the line of both begins.
MISTAKES = r"""
create --mount type=volume,src=v,dst=/t,ro=x bb | invalid argument "type=volume,src=v,dst=/t,ro=x" for "--mount" flag: invalid value for ro: x
create --mount type=volume,src=v,dst=/t,volume-nocopy=x bb | invalid argument "type=volume,src=v,dst=/t,volume-nocopy=x" for "--mount" flag: invalid value for volume-nocopy: x
create --mount type=bind,src=/a,dst=/t,volume-nocopy bb | invalid argument "type=bind,src=/a,dst=/t,volume-nocopy" for "--mount" flag: cannot mix 'volume-*' options with mount type 'bind'
create --mount type=volume,src=v,dst=/t,bind-propagation=rslave bb | invalid argument "type=volume,src=v,dst=/t,bind-propagation=rslave" for "--mount" flag: cannot mix 'bind-*'
create --mount type=tmpfs,dst=/t,tmpfs-size=x bb | invalid argument "type=tmpfs,dst=/t,tmpfs-size=x" for "--mount" flag: invalid value for tmpfs-size: x
create --mount type=tmpfs,dst=/t,tmpfs-mode=9 bb | invalid argument "type=tmpfs,dst=/t,tmpfs-mode=9" for "--mount" flag: invalid value for tmpfs-mode: 9
create --mount type=tmpfs,dst=/t,tmpfs-options=exec bb | invalid argument "type=tmpfs,dst=/t,tmpfs-options=exec" for "--mount" flag: unexpected key 'tmpfs-options' in 'tmpfs-options=exec'
create --mount type=bind,src=/a,dst=/t,tmpfs-size=1m bb | invalid argument "type=bind,src=/a,dst=/t,tmpfs-size=1m" for "--mount" flag: cannot mix 'tmpfs-*' options with mount type 'bind'
create --mount type=bind,src=/a,dst=/t,image-subpath=x bb | invalid argument "type=bind,src=/a,dst=/t,image-subpath=x" for "--mount" flag: cannot mix 'image-*' options with mount type 'bind'
create --mount type=bind,src=/a,dst=/t,bind-nonrecursive=x bb | invalid argument "type=bind,src=/a,dst=/t,bind-nonrecursive=x" for "--mount" flag: invalid value for bind-nonrecursive: x
create --mount type=bind,src=/a,dst=/t,bind-recursive=writable bb | invalid argument "type=bind,src=/a,dst=/t,bind-recursive=writable" for "--mount" flag: option 'bind-recursive=writable' requires 'readonly'
create --mount type=bind,src=/a,dst=/t,readonly,bind-recursive=readonly bb | invalid argument "type=bind,src=/a,dst=/t,readonly,bind-recursive=readonly" for "--mount" flag: option 'bind-recursive=readonly' requires 'bind-propagation=rprivate'
create --mount type=bind,src=/a,dst=/t,bind-recursive=x bb | invalid argument "type=bind,src=/a,dst=/t,bind-recursive=x" for "--mount" flag: invalid value for bind-recursive: x (must be
create --mount type=bind,src=/a,dst=/t,bind-recursive bb | invalid argument "type=bind,src=/a,dst=/t,bind-recursive" for "--mount" flag: invalid field 'bind-recursive' must be a key=value pair
create --mount type=bind,src=/a bb | invalid argument "type=bind,src=/a" for "--mount" flag: target is required
create --mount type=bind,src=/a,dst= bb | invalid argument "type=bind,src=/a,dst=" for "--mount" flag: target is required
create --mount 'type=bind, src=/a,dst=/t' bb | invalid argument "type=bind, src=/a,dst=/t" for "--mount" flag: unexpected key ' src' in ' src=/a'
create --mount 'type=bind,"src=/a' bb | invalid argument
create --mount '' bb | invalid argument "" for "--mount" flag: EOF
create --mount x bb | invalid argument "x" for "--mount" flag: invalid field 'x' must be a key=value pair
create --mount type= bb | invalid argument "type=" for "--mount" flag: type is required
create --mount type=bind,src=/a,dst=/t,nope=1 bb | invalid argument "type=bind,src=/a,dst=/t,nope=1" for "--mount" flag: unexpected key 'nope' in 'nope=1'
create --mount type=bind,src=/a,dst=/t, bb | invalid argument "type=bind,src=/a,dst=/t," for "--mount" flag: invalid field '' must be a key=value pair
create -v '' bb | docker: invalid empty volume spec
create -v :/t bb | docker: invalid spec: :/t: empty section between colons
create -v /a:/t:ro:x bb | docker: invalid spec: /a:/t:ro:x: too many colons
volume create --name v w | conflicting options: cannot specify a volume-name through both --name and as a positional arg
volume create -o a=b=c --label '' v | invalid argument "" for "--label" flag: invalid label '': empty name
volume create --label =x v | invalid argument "=x" for "--label" flag: invalid label '=x': empty name
volume create --required-bytes x v | invalid argument "x" for "--required-bytes" flag: invalid size: 'x'
volume create a b | docker: 'docker volume create' requires at most 1 argument
volume ls -f x | invalid argument "x" for "-f, --filter" flag: bad format of filter (expected name=value)
volume ls x | docker: 'docker volume ls' accepts no arguments
volume rm | docker: 'docker volume rm' requires at least 1 argument
volume rm '' | invalid volume name or ID: value is empty
volume inspect | docker: 'docker volume inspect' requires at least 1 argument
volume prune x | docker: 'docker volume prune' accepts no arguments
volume prune -f --filter all=1 -a | conflicting options: cannot specify both --all and --filter all=1
volume prune --filter x | invalid argument "x" for "--filter" flag: bad format of filter (expected name=value)
volume update | docker: 'docker volume update' requires 1 argument
volume nope | docker: unknown command: docker volume nope
system prune -f --volumes --filter until=1h | ERROR: The "until" filter is not supported with "--volumes"
"""


@pytest.mark.parametrize("line", MISTAKES.strip().splitlines())
def test_the_same_mistake(recorder: Recorder, line: str) -> None:
    command, _, words = line.partition(" | ")
    docker, berth = recorder.run(["docker"], *shlex.split(command)), recorder.run(BERTH, *shlex.split(command))
    assert docker.code in (1, 125), docker
    assert (berth.code, berth.requests) == (docker.code, docker.requests), berth
    for seen, name in ((docker, "docker"), (berth, "berth")):
        assert seen.errors.removeprefix(f"{name}: ").startswith(words.removeprefix("docker: ").replace("docker", name)), seen
        assert ("Usage:" in seen.errors) == ("Usage:" in docker.errors)


def test_what_docker_has_not(recorder: Recorder) -> None:
    """berth's own: idmap, and what newer versions of Docker's command line have."""
    for field, expected in (
        ("idmap", {"IdMap": "owner"}), ("idmap=web", {"IdMap": "web"}), ("idmap=uids=0-1-1;gids=0-1-1", {"IdMap": "uids=0-1-1;gids=0-1-1"}),
        ("bind-create-src", {"CreateMountpoint": True}),
    ):  # fmt: skip
        (_, body), = recorder.run(BERTH, "create", "--mount", f"type=bind,src=/a,dst=/b,{field}", "bb").requests
        assert body["HostConfig"]["Mounts"] == [{"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": expected}]
    (_, body), = recorder.run(BERTH, "create", "--mount", "src=data,dst=/b,idmap", "bb").requests
    assert body["HostConfig"]["Mounts"][0]["VolumeOptions"] == {"IdMap": "owner"}
