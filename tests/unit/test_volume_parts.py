"""Volumes and mounts, the parts that need no kernel: requests, records, filters, id maps."""

import os
from pathlib import Path

import pytest

from berth.engine import idmaps, mountpoints, mountrules, relabel, remounting, volumelist, volumerecord
from berth.engine.mountpoints import MountPoint
from berth.engine.state import Record
from berth.engine.volumerecord import VolumeRecord
from berth.errors import InvalidParameter, NotFound, SystemFailure


def points(host: dict, volumes: dict | None = None, inherited: list[MountPoint] | None = None) -> dict[str, MountPoint]:
    return {each.point.destination: each.point for each in mountrules.wanted(host, volumes, inherited or [])}


def no_containers(name: str) -> list[MountPoint]:
    raise NotFound(f"No such container: {name}")


# -- what is asked for ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("data:/d", {"name": "data", "mode": "z", "copy": True}), ("data:/d:ro", {"name": "data", "mode": "ro", "read_only": True, "copy": True}),
        ("data:/d:nocopy", {"name": "data", "mode": "nocopy"}), ("/d", {"anonymous": True, "copy": True, "mode": "z"}),
        ("data:/d:Z,ro", {"name": "data", "mode": "Z,ro", "read_only": True, "copy": True}),
        ("data:/d:idmap", {"name": "data", "mode": "idmap", "idmap": "owner", "copy": True}),
    ],
)  # fmt: skip
def test_volumes_by_v(bind: str, expected: dict) -> None:
    assert points({"Binds": [bind]})["/d"] == MountPoint(kind="volume", destination="/d", **expected)


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("/s:/d", {"propagation": "rprivate"}), ("/s/../t:/d/", {"source": "/t", "propagation": "rprivate"}),
        ("/s:/d:rro", {"mode": "rro", "read_only": True, "below": "readonly", "propagation": "rprivate"}),
        ("/s:/d:ro,rslave,Z", {"mode": "ro,rslave,Z", "read_only": True, "propagation": "rslave"}),
        ("/s:/d:idmap=web", {"mode": "idmap=web", "idmap": "web", "propagation": "rprivate"}),
        ("/s:/d:idmap=uids=0-1-1#1-5-2;gids=0-1-1,ro",
         {"mode": "idmap=uids=0-1-1#1-5-2;gids=0-1-1,ro", "idmap": "uids=0-1-1#1-5-2;gids=0-1-1", "read_only": True, "propagation": "rprivate"}),
    ],
)  # fmt: skip
def test_binds_by_v(bind: str, expected: dict) -> None:
    assert points({"Binds": [bind]})["/d"] == MountPoint(kind="bind", destination="/d", **{"source": "/s", **expected})


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        ("", "invalid volume specification: ''"), (":/d", "invalid volume specification"), ("a:/d:ro:x", "invalid volume specification"),
        ("/d:ro", "invalid volume specification: '/d:ro'"), ("a/b:/d", 'create a/b: "a/b" includes invalid characters for a local volume name'),
        ("x:/d", "create x: volume name is too short"), ("data:d", "invalid mount config for type \"volume\": invalid mount path: 'd'"),
        ("data:/", "destination can't be '/'"), ("data:/d:nope", "invalid mode: nope"), ("data:/d:ro,rw", "invalid mode: ro,rw"),
        ("data:/d:z,Z", "invalid mode: z,Z"), ("data:/d:rslave", "field BindOptions must not be specified"),
        ("/s:/d:nocopy", "field VolumeOptions must not be specified"), ("/s:/d:idmap=a b", "invalid idmap: 'a b'"),
        ("/s:/d:idmap=uids=0-0-1", "expected both uids= and gids="), ("/s:/d:idmap,idmap", "invalid mode"),
        ("x" * 300 + ":/d", "has at most"),
    ],
)  # fmt: skip
def test_refused_by_v(bind: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        points({"Binds": [bind]})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        ({"Type": "volume", "Source": "data"}, {"kind": "volume", "name": "data", "mode": "z", "copy": True}),
        ({"Type": "volume"}, {"kind": "volume", "anonymous": True, "mode": "z", "copy": True}),
        ({"Type": "volume", "Source": "data", "ReadOnly": True, "VolumeOptions": {"NoCopy": True}},
         {"kind": "volume", "name": "data", "mode": "z", "read_only": True}),
        ({"Type": "volume", "Source": "data", "VolumeOptions": {"Subpath": "a/./b"}}, {"kind": "volume", "name": "data", "mode": "z", "subpath": "a/b"}),
        ({"Type": "tmpfs", "TmpfsOptions": {"SizeBytes": 5, "Mode": 0o700, "Options": [["exec"], ["noexec"]]}},
         {"kind": "tmpfs", "options": ("size=5", "mode=700", "exec", "noexec")}),
        ({"Type": "image", "Source": "debian", "ImageOptions": {"Subpath": "etc"}},
         {"kind": "image", "name": "debian", "read_only": True, "subpath": "etc"}),
        ({"Type": "bind", "Source": "/usr", "BindOptions": {"NonRecursive": True}},
         {"kind": "bind", "source": "/usr", "propagation": "rprivate", "recursive": False}),
        ({"Type": "bind", "Source": "/usr", "ReadOnly": True, "BindOptions": {"ReadOnlyNonRecursive": True, "IdMap": "owner"}},
         {"kind": "bind", "source": "/usr", "propagation": "rprivate", "read_only": True, "below": "writable", "idmap": "owner"}),
        ({"Type": "bind", "Source": "/usr", "ReadOnly": True, "BindOptions": {"ReadOnlyForceRecursive": True, "Propagation": "rslave"}},
         {"kind": "bind", "source": "/usr", "propagation": "rslave", "read_only": True, "below": "readonly"}),
    ],
)  # fmt: skip
def test_mounts(mount: dict, expected: dict) -> None:
    assert points({"Mounts": [{"Target": "/d/", **mount}]})["/d"] == MountPoint(destination="/d", **expected)


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ({"Type": "cluster", "Source": "x"}, 'type "cluster": volumes of a cluster need a swarm'), ({"Type": "npipe"}, "mount type unknown: named pipes"),
        ({"Type": "nope"}, 'type "nope": mount type unknown'), ({"Type": "volume", "Target": ""}, "field Target must not be empty"),
        ({"Type": "volume", "ReadOnly": True}, "must not set ReadOnly mode when using anonymous volumes"),
        ({"Type": "volume", "VolumeOptions": {"Subpath": "x"}}, "must not set Subpath when using anonymous volumes"),
        ({"Type": "volume", "Source": "data", "VolumeOptions": {"Subpath": "../x"}}, "subpath must be a relative path within the volume"),
        ({"Type": "volume", "Source": "data", "VolumeOptions": {"Subpath": "/x"}}, "subpath must be a relative path within the volume"),
        ({"Type": "volume", "Source": "data", "VolumeOptions": {"Subpath": "a/../../x"}}, "subpath must be a relative path within the volume"),
        ({"Type": "volume", "Source": "data", "BindOptions": {}}, "field BindOptions must not be specified"),
        ({"Type": "volume", "Source": "/usr"}, 'create /usr: "/usr" includes invalid characters'),
        ({"Type": "image"}, "field Source must not be empty"), ({"Type": "image", "Source": "x", "VolumeOptions": {}}, "field VolumeOptions"),
        ({"Type": "tmpfs", "Source": "x"}, "field Source must not be specified"),
        ({"Type": "tmpfs", "TmpfsOptions": {"Options": [["suid"]]}}, "invalid option: suid"),
        ({"Type": "tmpfs", "TmpfsOptions": {"Options": [[]]}}, "invalid option array length"),
        ({"Type": "bind", "Source": "/usr", "BindOptions": {"Propagation": "x"}}, "invalid propagation mode: x"),
        ({"Type": "bind", "Source": "/usr", "BindOptions": {"ReadOnlyForceRecursive": True}}, "!ReadOnly && BindOptions.ReadOnlyForceRecursive"),
        ({"Type": "bind", "Source": "/usr", "ReadOnly": True, "BindOptions": {"ReadOnlyForceRecursive": True, "ReadOnlyNonRecursive": True}}, "conflict"),
        ({"Type": "bind", "Source": "/usr", "ReadOnly": True, "BindOptions": {"ReadOnlyForceRecursive": True, "NonRecursive": True}}, "conflict"),
        ({"Type": "bind", "Source": "/no/such"}, "bind source path does not exist: /no/such"),
    ],
)  # fmt: skip
def test_mounts_that_cannot_be(mount: dict, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        points({"Mounts": [{"Target": "/d", **mount}]})
    assert message in str(caught.value)


def test_what_is_at_one_place_twice() -> None:
    for host in ({"Binds": ["/a:/d", "data:/d/"]}, {"Binds": ["/a:/d"], "Tmpfs": {"/d": ""}},
                 {"Binds": ["/a:/d"], "Mounts": [{"Type": "tmpfs", "Target": "/d"}]}):  # fmt: skip
        with pytest.raises(InvalidParameter, match="Duplicate mount point: /d"):
            points(host)


def test_an_images_volume_gives_way_to_what_is_asked_for() -> None:
    anonymous = MountPoint(kind="volume", destination="/v", anonymous=True, copy=True)
    assert points({}, {"/v": {}, "v/": {}}) == {"/v": anonymous}
    assert points({"Binds": ["data:/v"]}, {"/v": {}})["/v"].name == "data"
    assert points({"Tmpfs": {"/v": ""}}, {"/v": {}}) == {}
    given = MountPoint(kind="bind", destination="/v", source="/s")
    assert points({}, {"/v": {}}, [given]) == {"/v": given}
    with pytest.raises(InvalidParameter, match="destination can't be '/'"):
        points({}, {"/": {}})


def test_volumes_from() -> None:
    theirs = [MountPoint(kind="volume", destination="/a", name="data", mode="z", copy=True),
              MountPoint(kind="bind", destination="/b", source="/s", read_only=True, propagation="rslave")]  # fmt: skip
    found = mountrules.inherited(["web:ro", "web"], lambda name: theirs if name == "web" else [])
    assert found == [
        MountPoint(kind="volume", destination="/a", name="data"), MountPoint(kind="bind", destination="/b", source="/s", read_only=True, propagation="rslave")
    ]  # fmt: skip
    assert all(point.read_only for point in mountrules.inherited(["web:ro"], lambda name: theirs))
    for text, message in (("", "cannot be an empty string"), ("web:nope", "invalid mode: nope"), ("web:nocopy", "invalid mode"), ("x", "No such container: x")):
        with pytest.raises(InvalidParameter, match=message):
            mountrules.inherited([text], no_containers)


# -- records and payloads ---------------------------------------------------------------------------------


def test_a_mount_point_survives_the_record() -> None:
    for point in points({"Binds": ["data:/a:ro", "/s:/b", "/c"], "Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Mode": 7}}]}).values():
        record = Record("i" * 64, "n", "sha256:x", "bb", {}, {})
        record.mounts = [point.to_dict()]
        assert mountpoints.of_record(Record.from_json(record.to_json())) == [point]
    assert Record.from_json('{"id": "x"}').mounts is None


def test_mounts_of_an_old_record() -> None:
    host = {"Binds": ["/s:/b:ro", "nonsense"], "Mounts": [{"Type": "tmpfs", "Target": "/t"}, {"Type": "bind", "Source": "/gone", "Target": "/g"}]}
    assert [(point.kind, point.destination) for point in mountrules.of_old_record(host)] == [("bind", "/b"), ("tmpfs", "/t"), ("bind", "/g")]


def test_what_clients_see() -> None:
    found = points({"Binds": ["data:/a:ro", "/s:/b"], "Mounts": [{"Type": "tmpfs", "Target": "/t"}]})
    assert mountpoints.payload(found["/a"], "/volumes/data") == {
        "Type": "volume", "Name": "data", "Source": "/volumes/data", "Destination": "/a", "Driver": "local", "Mode": "ro", "RW": False, "Propagation": ""
    }  # fmt: skip
    assert mountpoints.payload(found["/b"], "/s") == {
        "Type": "bind", "Source": "/s", "Destination": "/b", "Mode": "", "RW": True, "Propagation": "rprivate"
    }  # fmt: skip
    assert mountpoints.payload(found["/t"], "")["Type"] == "tmpfs"


@pytest.mark.parametrize(
    ("point", "options"),
    [
        ({"read_only": True}, ["rbind", "rprivate", "ro", "rro"]), ({"read_only": True, "below": "writable"}, ["rbind", "rprivate", "ro"]),
        ({"read_only": True, "below": "readonly"}, ["rbind", "rprivate", "ro", "rro"]), ({"read_only": True, "recursive": False}, ["bind", "rprivate", "ro"]),
        ({"propagation": "rslave"}, ["rbind", "rslave"]),
    ],
)  # fmt: skip
def test_what_the_runtime_is_told(point: dict, options: list[str]) -> None:
    found = mountpoints.oci_mount(MountPoint(kind="bind", destination="/d", **point), "/s")
    assert found == {"destination": "/d", "type": "bind", "source": "/s", "options": options}


@pytest.mark.parametrize("name", ["ab", "a.b-c_d", "0" * 64, "A1"])
def test_names(name: str) -> None:
    volumerecord.check_name(name)


@pytest.mark.parametrize("name", ["", "a", ".a", "-a", "a/b", "..", "a b", "ä1", "a\n", "a\0b", "x" * 256])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(InvalidParameter, match="create"):
        volumerecord.check_name(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nope": "1"}, 'create v: invalid option: "nope"'), ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"device": "x"}, 'missing required option: "type"'), ({"o": "bind"}, 'missing required option: "device"'), ({"size": "x"}, "invalid size: 'x'"),
        ({"size": "-1"}, "invalid size: '-1'"), ({"type": "a\0", "device": "b"}, "zero byte"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        volumerecord.check_options("v", options)
    assert message in str(caught.value)


def test_options() -> None:
    volumerecord.check_options("v", {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"})
    assert VolumeRecord("v", {}, {"type": "tmpfs", "device": "tmpfs"}).has_filesystem
    assert VolumeRecord("v", {}, {"size": "1.5k"}).size_bytes == 1536
    assert not VolumeRecord("v", {}, {"size": "10GiB"}).has_filesystem
    with pytest.raises(NotFound, match='create v: error looking up volume plugin nope: plugin "nope" not found'):
        volumerecord.check_driver("v", "nope")


def test_a_volume_as_clients_see_it() -> None:
    record = VolumeRecord("data", {"a": "b"}, {})
    record.created_ns = 1_700_000_000_123_456_789
    assert volumerecord.payload(VolumeRecord.from_json(record.to_json()), "/v") == {
        "CreatedAt": "2023-11-14T22:13:20Z", "Driver": "local", "Labels": {"a": "b"}, "Mountpoint": "/v", "Name": "data", "Options": None, "Scope": "local"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "one two"), ({"name": ["on"]}, "one"), ({"name": ["^t", "^o"]}, "one two"), ({"driver": ["local"]}, "one two"), ({"driver": ["x"]}, ""),
        ({"label": ["a"]}, "one"), ({"label": ["a=b"]}, "one"), ({"label": ["a=c"]}, ""), ({"label": ["a", "x"]}, ""), ({"dangling": ["true"]}, "two"),
        ({"dangling": ["0"]}, "one"), ({"dangling": ["1", "0"]}, "one two"),
    ],
)  # fmt: skip
def test_filters(filters: dict, expected: str) -> None:
    records = [VolumeRecord("one", {"a": "b"}, {}), VolumeRecord("two", {}, {})]
    passes = volumelist.chooser(filters, lambda name: name == "one")
    assert [record.name for record in records if passes(record)] == expected.split()


@pytest.mark.parametrize("filters", [{"nope": ["x"]}, {"dangling": ["x"]}])
def test_filters_that_cannot_be(filters: dict) -> None:
    with pytest.raises(InvalidParameter, match="invalid filter"):
        volumelist.chooser(filters, lambda name: False)


# -- id maps ------------------------------------------------------------------------------------------------


def test_explicit_maps() -> None:
    uids, gids = idmaps.explicit("uids=0-1000-1#1-2000-9;gids=5-6-7") or ([], [])
    assert uids == [{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 2000, "size": 9}]
    assert gids == [{"containerID": 5, "hostID": 6, "size": 7}]
    assert idmaps.explicit("owner") is None


@pytest.mark.parametrize(
    "text",
    ["uids=0-0-1", "uids=0-0-1;uids=0-0-1", "uids=0-0-0;gids=0-0-1", "uids=0-0;gids=0-0-1", "uids=0-0-1;gids=x", "uids=0-0-5#3-9-1;gids=0-0-1",
     "uids=0-0-2#9-1-1;gids=0-0-1", "uids=4294967295-0-1;gids=0-0-1", "uids=0-0-1;gids=0-0-1;x=1", "a b", "-", "a/b", "a\n"],
)  # fmt: skip
def test_maps_that_cannot_be(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid idmap"):
        idmaps.checked(text)


def test_whose_files_are_whose() -> None:
    maps = idmaps.of_owner((1000, 100), (0, 5))
    assert maps == ([{"containerID": 1000, "hostID": 0, "size": 1}], [{"containerID": 100, "hostID": 5, "size": 1}])
    assert idmaps.outside(maps, None) == maps
    own = [{"containerID": 0, "hostID": 200000, "size": 10}]
    assert idmaps.outside(maps, (own, own)) == ([{"containerID": 1000, "hostID": 200000, "size": 1}], [{"containerID": 100, "hostID": 200005, "size": 1}])
    with pytest.raises(InvalidParameter, match="has no ids 10 to 10"):
        idmaps.outside(idmaps.of_owner((1000, 100), (10, 0)), (own, own))


# -- changes of a container's mounts, labels ------------------------------------------------------------------


def test_the_request_that_would_have_made_it_so() -> None:
    host = {"Binds": ["/a:/x:ro", "data:/y/", "/anonymous"], "Mounts": [{"Type": "tmpfs", "Target": "/t"}], "Memory": 5}
    more = [{"Type": "bind", "Source": "/b", "Target": "/z"}]
    assert remounting._host_after(host, ["/y", "/t", "/anonymous"], more) == {"Binds": ["/a:/x:ro"], "Mounts": more, "Memory": 5}
    assert remounting._host_after({"Binds": ["/a:/x"]}, ["/x"], []) == {"Binds": None, "Mounts": None}


def test_labels() -> None:
    assert relabel.label_of("z", []) == relabel.label_of("Z", []) == "system_u:object_r:container_file_t:s0"
    assert relabel.label_of("Z", ["label=level:s0:c1,c2"]) == "system_u:object_r:container_file_t:s0:c1,c2"
    assert relabel.label_of("z", ["label=level:s0:c1,c2"]) == "system_u:object_r:container_file_t:s0"


def test_a_tree_is_labelled_and_no_link_followed(tmp_path: Path) -> None:
    """With another attribute: this host need not have SELinux."""
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_text("")
    (tmp_path / "outside").write_text("")
    relabel.relabel(str(tmp_path / "tree"), "text", "user.berth-test")
    os.symlink(tmp_path / "outside", tmp_path / "tree/link")
    with pytest.raises(SystemFailure, match="not permitted"):  # a link itself has no such attribute; what it leads to could have it
        relabel.relabel(str(tmp_path / "tree"), "text", "user.berth-test")
    for path in ("tree", "tree/sub", "tree/sub/file"):
        assert os.getxattr(tmp_path / path, "user.berth-test") == b"text\0"
    assert os.listxattr(tmp_path / "outside") == []
    for path in ("/", "/etc", "/usr/../etc/", "/home"):
        with pytest.raises(InvalidParameter, match=r"SELinux relabeling of .* is not allowed"):
            relabel.relabel(path, "text", "user.berth-test")
