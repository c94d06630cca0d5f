"""Caches of builds in registries, directories and images; nothing is fetched that nobody looks at. skopeo looks too."""

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from buildhost import BuildHost, build_host, kinds
from registries import Host

pytestmark = pytest.mark.root

STAGES = (
    "FROM bb AS tools\nRUN head -c 2000000 /dev/urandom >/big && sha256sum /big >/sum\nRUN cp /big /bigger\n"
    "FROM bb\nCOPY a.txt /a\nCOPY --from=tools /sum /sum\nRUN cat /sum >/copy && head -c 9 /dev/urandom >/mark\n"
)  # fmt: skip


@pytest.fixture
def context(tmp_path: Path) -> str:
    top = tmp_path / "context"
    top.mkdir()
    (top / "a.txt").write_text("A\n")
    return str(top)


def files(host: BuildHost, dockerfile: str, path: Path, **fields: object) -> tuple[dict, dict[str, bytes]]:
    found = host.build(dockerfile, outputs=[{"type": "tar", "dest": str(path)}], **fields)
    with tarfile.open(path) as tar:
        return found, {name: tar.extractfile(name).read() for name in ("mark", "copy")}  # type: ignore[union-attr]


def labels(found: dict, kind: str) -> list[str]:
    return sorted(event["label"].partition("] ")[2] for event in kinds(found, kind) if event["label"].startswith("[") and "load" not in event["label"])


def config_of(where: str) -> dict:
    done = subprocess.run(["skopeo", "inspect", "--config", "--raw", "--tls-verify=false", where], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def stages_of(found: dict) -> tuple[list[str], list[str]]:
    """(steps found, steps made)."""
    steps = {"RUN", "COPY", "ADD", "WORKDIR"}
    return tuple([label for label in labels(found, kind) if label.split()[0] in steps] for kind in ("cached", "started"))  # type: ignore[return-value]


def test_a_registry_keeps_results_and_only_what_is_needed_is_fetched(rootfs_tar: str, context: str, registry: Host, tmp_path: Path) -> None:
    cache = f"{registry}/cache/of:main"
    with build_host({"bb": rootfs_tar}, [registry]) as first:
        _, made = files(first, STAGES, tmp_path / "1", context=context, cache_to=[{"type": "registry", "ref": cache, "mode": "max"}])
    manifest = json.loads(subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{cache}"], capture_output=True, text=True, check=True).stdout)
    assert manifest["config"]["mediaType"] == "application/vnd.berth.buildcache.config.v1+json"
    os.utime(f"{context}/a.txt", (1, 1))
    with build_host({"bb": rootfs_tar}, [registry]) as second:
        found, again = files(second, STAGES, tmp_path / "2", context=context, cache_from=[{"type": "registry", "ref": cache}])
        assert stages_of(found)[1] == []
        assert again == made
        big = max(manifest["layers"], key=lambda layer: layer["size"])["digest"]
        got = [line for line in registry.log().splitlines() if '"GET /v2/cache/of/blobs/' in line]
        assert got
        assert not [line for line in got if big in line]  # of a stage that is only copied from, which the cache knows
        # what has been fetched is known here from now on
        found = second.build("FROM bb\nCOPY a.txt /a\n", context=context)
        assert stages_of(found)[1] == []
    with build_host({"bb": rootfs_tar}, [registry]) as third:
        changed = STAGES.replace("cat /sum", "cat /bigger /sum").replace("RUN cat", "RUN --mount=type=bind,from=tools,source=/bigger,target=/bigger cat")
        found, _ = files(third, changed, tmp_path / "4", context=context, cache_from=[{"type": "registry", "ref": cache}])
        assert [label.split()[0] for label in stages_of(found)[1]] == ["RUN"]  # only the step that changed; the layers below it came
        # exported again, also what was never fetched
        again_to = [{"type": "registry", "ref": cache, "mode": "max"}]
        files(third, STAGES, tmp_path / "5", context=context, cache_from=[{"type": "registry", "ref": cache}], cache_to=again_to)
    with build_host({"bb": rootfs_tar}, [registry]) as fourth:
        found, again = files(fourth, STAGES, tmp_path / "6", context=context, cache_from=[{"type": "registry", "ref": cache}])
        assert stages_of(found)[1] == []
        assert again == made


def test_mode_min_has_the_layers_of_the_result_alone(rootfs_tar: str, context: str, registry: Host, tmp_path: Path) -> None:
    cache = f"{registry}/cache:min"
    with build_host({"bb": rootfs_tar}, [registry]) as first:
        first.build(STAGES, context=context, cache_to=[{"type": "registry", "ref": cache}], tags=["x"])
    with build_host({"bb": rootfs_tar}, [registry]) as second:
        found = second.build(STAGES, context=context, cache_from=[{"type": "registry", "ref": cache}])
        made = [label for label in stages_of(found)[1] if label.startswith("RUN head")]
        assert made  # the first stage is not in the result


def test_a_directory_and_cache_mounts(rootfs_tar: str, context: str, tmp_path: Path) -> None:
    text = f"{STAGES}RUN --mount=type=cache,id=downloads,target=/d date +%N >>/d/log && chown 5:6 /d/log && cat /d/log >/seen\n"
    with build_host({"bb": rootfs_tar}) as first:
        first.build(text, context=context, tags=["x"], cache_to=[{"type": "local", "dest": str(tmp_path / "cache.tar"), "mode": "max", "include-mounts": "true"}])
    with tarfile.open(tmp_path / "cache.tar") as tar:
        tar.extractall(tmp_path / "cache", filter="data")
    assert set(os.listdir(tmp_path / "cache")) == {"blobs", "index.json", "oci-layout"}
    with build_host({"bb": rootfs_tar}) as second:
        places = [{"type": "local", "src": str(tmp_path / "cache")}]
        found = second.build(text, context=context, cache_from=places)
        assert stages_of(found)[1] == []
        found = second.build(
            "FROM bb\nRUN --mount=type=cache,id=downloads,target=/d wc -l </d/log && stat -c %u:%g /d/log\n", cache_from=places, context=context
        )
        assert "".join(event["text"] for event in kinds(found, "log")) == "1\n5:6\n"


def test_inline_in_an_image(rootfs_tar: str, context: str, registry: Host, tmp_path: Path) -> None:
    name = f"{registry}/app:1"
    text = "FROM bb\nCOPY a.txt /a\nRUN head -c 9 /dev/urandom >/mark; cp /a /copy\nENV X=1\n"
    with build_host({"bb": rootfs_tar}, [registry]) as first:
        found = first.build(text, context=context, tags=[name], cache_to=[{"type": "inline"}], outputs=[{"type": "image", "push": "true"}])
    config = config_of(f"docker://{name}")
    assert len(config["berth.buildcache.v1"]) >= 2
    with build_host({"bb": rootfs_tar}, [registry]) as second:
        found = second.build(text, context=context, tags=[name], cache_from=[{"type": "registry", "ref": name, "store": "true"}], cache_to=[{"type": "inline"}])
        assert stages_of(found)[1] == []
        second.build(text, context=context, cache_from=[{"type": "registry", "ref": name}], outputs=[{"type": "oci", "dest": str(tmp_path / "o")}])
        assert config_of(f"oci-archive:{tmp_path}/o")["rootfs"] == config["rootfs"]
        found = second.build(text, context=context, no_cache=True, cache_from=[{"type": "registry", "ref": name, "store": "true"}])
        assert len(stages_of(found)[1]) == 2


@pytest.mark.parametrize(
    ("place", "words"),
    [({"type": "registry", "ref": "127.0.0.1:1/none:1"}, "cannot be used"), ({"type": "local", "src": "/var/empty"}, "index.json")],
)
def test_a_cache_that_is_not_there_is_a_warning(rootfs_tar: str, context: str, place: dict, words: str) -> None:
    Path("/var/empty").mkdir(exist_ok=True)
    with build_host({"bb": rootfs_tar}, ["127.0.0.1:1"]) as host:
        found = host.build("FROM bb\nRUN true >/x\n", context=context, cache_from=[place])
        assert any(words in event["text"] for event in found["events"] if event["kind"] == "warning")
        (found,) = host.run({"dockerfile": "FROM bb\n", "cache_to": [{"type": "registry", "ref": "127.0.0.1:1/none:1"}], "tags": ["kept"]})
        assert "127.0.0.1:1" in found["error"]
        found = host.build("FROM bb\n", cache_to=[{"type": "registry", "ref": "127.0.0.1:1/none:1", "ignore-error": "true"}])
        assert found["image"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cache_to": [{"type": "s3"}]}, "'s3'"), ({"cache_to": [{"type": "inline", "mode": "max"}]}, "mode=max"), ({"cache_from": [{"type": "inline"}]}, "'inline'"),
        ({"cache_to": [{"type": "registry"}]}, "no ref="), ({"cache_from": [{"type": "local"}]}, "no src="), ({"cache_to": [{"type": "local", "dest": "x", "speed": "1"}]}, "'speed'"),
    ],
)  # fmt: skip
def test_places_that_cannot_be(rootfs_tar: str, fields: dict, words: str) -> None:
    with build_host({"bb": rootfs_tar}) as host:
        (found,) = host.run({"dockerfile": "FROM bb\n", **fields})
        assert words in found["error"]


def test_squash_makes_one_layer(rootfs_tar: str, context: str, tmp_path: Path) -> None:
    text = (
        "FROM bb\nRUN mkdir -p /d/e /gone && echo 1 >/d/e/f && echo 2 >/gone/x && rm -r /home && mkdir -m 700 /home && echo h >/home/new\n"
        "RUN rm -r /gone && rm /etc/plain && chmod 600 /d/e/f && ln /d/e/f /d/hard\nENV A=1\nCOPY a.txt /d/\nRUN mknod /d/fifo p && chown 7:8 /d/e\n"
    )  # fmt: skip
    with build_host({"bb": rootfs_tar}) as host:
        made = {}
        for squash in (False, True):
            path = tmp_path / f"{squash}"
            found = host.build(text, context=context, squash=squash, outputs=[{"type": "tar", "dest": f"{path}.tar"}, {"type": "oci", "dest": f"{path}.oci"}])
            listed = subprocess.run(["tar", "--numeric-owner", "-tvf", f"{path}.tar"], capture_output=True, text=True, check=True).stdout
            made[squash] = sorted(line for line in listed.splitlines() if not line.endswith("/"))
            config = config_of(f"oci-archive:{path}.oci")
            assert len(config["rootfs"]["diff_ids"]) == (2 if squash else 5)
            assert sum(not entry.get("empty_layer") for entry in config["history"]) == len(config["rootfs"]["diff_ids"])
            assert "error" not in found
        assert made[True] == made[False]
        assert [line for line in made[True] if line.endswith(" d/fifo")]
        assert not [line for line in made[True] if " gone/" in line or "etc/plain" in line]
