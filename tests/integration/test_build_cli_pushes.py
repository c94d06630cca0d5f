"""`berth build` to registries, and of several platforms at once: what docker-registry and archives hold, as skopeo and tar see it."""

import base64
import hashlib
import json
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest
from buildcli import Berth, dockerfile, raw, run_berth, skopeo, write
from harness import Engine
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry

pytestmark = [pytest.mark.root, pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry")]
OWN = "amd64" if os.uname().machine == "x86_64" else "arm64"
OTHER = "arm64" if OWN == "amd64" else "amd64"
BOTH = f"linux/{OWN},linux/{OTHER}"
# No program of another processor runs.
FOR_EACH = "FROM scratch\nARG TARGETARCH TARGETPLATFORM\nCOPY program-$TARGETARCH /program\nCOPY same /same\nENV MADE_FOR=$TARGETPLATFORM\nCMD [\"/program\"]\n"


@pytest.fixture
def berth(engine: Engine, tmp_path: Path) -> Berth:
    """Runs `berth WORDS` in the directory of the build."""
    return lambda *words, **keywords: run_berth(engine, *words, cwd=tmp_path, **keywords)


def digest_of(where: str) -> str:
    """Of the manifest or index that a registry has under a name."""
    return f"sha256:{hashlib.sha256(skopeo('inspect', '--raw', '--tls-verify=false', f'docker://{where}').encode()).hexdigest()}"


def image_id(engine: Engine, name: str) -> str:
    return engine.docker("image", "inspect", "--format", "{{.Id}}", name).stdout.strip()


def is_here(engine: Engine, name: str) -> bool:
    return engine.docker("image", "inspect", name, code=None).returncode == 0


def meta(top: Path) -> dict:
    return dict(json.loads((top / "meta").read_text()))


# -- registries ---------------------------------------------------------------------------------------------------


def test_a_push(engine: Engine, berth: Berth, registry: Host, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nRUN head -c 9 /dev/urandom >/mark\nENV A=1\n")
    name, others = f"{registry}/x/one:1", [f"{registry}/x/two:a", f"{registry}/x/two:b"]
    berth("build", "-t", name, "--push", "--iidfile", "id", "--metadata-file", "meta", ".")
    assert raw(f"docker://{name}")["config"]["digest"] == image_id(engine, name) == (tmp_path / "id").read_text()
    assert meta(tmp_path)["containerimage.digest"] == digest_of(name)
    assert engine.docker("image", "inspect", "--format", "{{json .RepoDigests}}", name).stdout.strip() == json.dumps([f"{registry}/x/one@{digest_of(name)}"])
    berth("build", "-o", f'type=image,"name={",".join(others)}",push=true', ".")
    assert {digest_of(each) for each in others} == {digest_of(name)}
    assert all(is_here(engine, each) for each in others)
    # only to the registry
    berth("build", "-o", f"type=registry,name={registry}/x/three", ".")
    assert digest_of(f"{registry}/x/three:latest") == digest_of(name)
    assert not is_here(engine, f"{registry}/x/three")
    berth("build", "-o", f"type=image,push-by-digest=true,name={registry}/x/four", "--metadata-file", "meta", ".")
    assert digest_of(f"{registry}/x/four@{meta(tmp_path)['containerimage.digest']}") == digest_of(name)
    with pytest.raises(urllib.error.HTTPError):  # there is no tag
        urllib.request.urlopen(f"{registry.url}/v2/x/four/manifests/latest")
    assert "tag is needed when pushing" in berth("build", "--push", ".", code=1).stderr


def test_what_goes_to_several_places_at_once(engine: Engine, berth: Berth, registry: Host, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nRUN head -c 9 /dev/urandom >/mark\n")
    name = f"{registry}/several:1"
    berth("build", "-t", name, "--push", "-o", "files", "-o", "type=oci,dest=o.tar", "-o", "type=docker,dest=d.tar", "--load", ".")
    config = raw(f"docker://{name}")["config"]["digest"]
    assert image_id(engine, name) == config
    for archive in ("oci-archive:o.tar", "docker-archive:d.tar"):
        found = subprocess.run(["skopeo", "inspect", "--raw", "--config", archive], cwd=tmp_path, capture_output=True, check=True).stdout
        assert f"sha256:{hashlib.sha256(found).hexdigest()}" == config
    assert len((tmp_path / "files" / "mark").read_bytes()) == 9


def test_a_credential_helper(berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\n")
    write(tmp_path, **{"bin__docker-credential-kept": '#!/bin/sh\ncat >/dev/null\necho \'{"Username": "user", "Secret": "password"}\'\n'})
    (tmp_path / "bin" / "docker-credential-kept").chmod(0o755)
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "DOCKER_CONFIG": str(tmp_path / "login")}
    with docker_registry(auth=("user", "password")) as host:
        write(tmp_path, **{"login__config.json": json.dumps({"credHelpers": {str(host): "kept"}})})
        berth("build", "-t", f"{host}/private:1", "--push", ".", env=env)
        assert raw(f"docker://{host}/private:1", "--creds", "user:password")["layers"]
        # a base image that is not here, by the same login
        berth("rmi", f"{host}/private:1")
        berth("build", "-q", "-", input=f"FROM {host}/private:1\n", env=env)


def test_a_registry_that_refuses(engine: Engine, berth: Berth, registry: Host, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nRUN head -c 9 /dev/urandom >/mark\n")
    wrong = {"auths": {}}
    with docker_registry(auth=("user", "password")) as private, docker_registry(config={"storage": {
        "filesystem": {"rootdirectory": str(tmp_path / "readonly")}, "maintenance": {"readonly": {"enabled": True}},
    }}) as readonly:  # fmt: skip
        wrong["auths"][str(private)] = {"auth": base64.b64encode(b"user:mistaken").decode()}
        write(tmp_path, **{"login__config.json": json.dumps(wrong)})
        cases = (
            (f"{private}/no:1", {}, "no basic auth credentials"), (f"{private}/no:2", {"DOCKER_CONFIG": str(tmp_path / "login")}, "unauthorized"),
            (f"{readonly}/no:1", {}, "405: method not allowed"), ("127.0.0.1:9/no:1", {}, "connection refused"),
        )  # fmt: skip
        for name, env, words in cases:
            done = berth("build", "-t", f"{registry}/yes:1", "-t", name, "--push", "--iidfile", "id", "--metadata-file", "meta", ".", code=1, env=env)
            assert words in done.stderr.lower(), done.stderr
            assert f"pushing {name}" in done.stderr
            assert done.stderr.splitlines()[-1].startswith("ERROR: failed to build: ")
            assert image_id(engine, name) == raw(f"docker://{registry}/yes:1")["config"]["digest"]  # it is not lost, and what went before has gone
            assert not (tmp_path / "id").exists()
            assert not (tmp_path / "meta").exists()
            quiet = berth("build", "-q", "-t", name, "--push", ".", code=1, env=env)
            assert (quiet.stdout, words in quiet.stderr.lower()) == ("", True)


# -- several platforms --------------------------------------------------------------------------------------------


@pytest.fixture
def programs(tmp_path: Path) -> None:
    dockerfile(tmp_path, FOR_EACH)
    write(tmp_path, **{"program-amd64": "for amd64\n", "program-arm64": "for arm64\n", "program-arm": "for arm\n", "same": "same\n"})


@pytest.mark.usefixtures("programs")
def test_an_index_of_both(engine: Engine, berth: Berth, registry: Host, tmp_path: Path) -> None:
    name = f"{registry}/both:1"
    done = berth("build", "--platform", BOTH, "-t", name, "-o", "type=oci,dest=o.tar", "--push", "--iidfile", "id", "--metadata-file", "meta", ".")
    for where in (f"docker://{name}", f"oci-archive:{tmp_path}/o.tar"):
        index = raw(where)
        assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
        assert [entry["platform"] for entry in index["manifests"]] == [{"architecture": arch, "os": "linux"} for arch in (OWN, OTHER)]
        plain = ["--src-tls-verify=false"] if where.startswith("docker:") else []
        for arch in (OWN, OTHER):
            config = raw(where, "--config", f"--override-arch={arch}")
            assert (config["architecture"], config["config"]["Env"][-1]) == (arch, f"MADE_FOR=linux/{arch}")
            skopeo(f"--override-arch={arch}", "copy", *plain, where, f"dir:{tmp_path}/{arch}")
            layers = json.loads((tmp_path / arch / "manifest.json").read_text())["layers"]
            held = [subprocess.run(["tar", "-xzOf", tmp_path / arch / layer["digest"].removeprefix("sha256:")], capture_output=True).stdout for layer in layers]
            assert held == [f"for {arch}\n".encode(), b"same\n"]
    assert meta(tmp_path)["containerimage.digest"] == digest_of(name)
    # one of them can be kept here, which is said
    assert f"linux/{OWN} is there now, linux/{OTHER} only where it was pushed or exported to" in done.stderr
    assert engine.docker("image", "inspect", "--format", "{{.Architecture}} {{.Id}}", name).stdout == f"{OWN} {(tmp_path / 'id').read_text()}\n"
    engine.docker("rmi", name)
    for arch in (OWN, OTHER):
        engine.docker("pull", "-q", "--platform", f"linux/{arch}", name)
        assert engine.docker("image", "inspect", "--format", "{{.Architecture}}", name).stdout == f"{arch}\n"


@pytest.mark.usefixtures("programs")
def test_only_to_a_registry_nothing_is_said_of_the_store(engine: Engine, berth: Berth, registry: Host, tmp_path: Path) -> None:
    done = berth("build", "--platform", f"linux/{OWN}", "--platform", f"linux/{OTHER}", "-o", f"type=registry,name={registry}/both:2", "--iidfile", "id", ".")
    assert "the store keeps one platform" not in done.stderr
    assert (tmp_path / "id").read_text() == digest_of(f"{registry}/both:2")
    assert not is_here(engine, f"{registry}/both:2")
    attested = berth("build", "--platform", BOTH, "-t", f"{registry}/both:3", "--provenance", "mode=max", "--sbom=true", "-o", "type=registry", ".")
    assert "WARN" not in attested.stderr
    index = raw(f"docker://{registry}/both:3")
    kinds = [entry.get("annotations", {}).get("vnd.docker.reference.type", "image") for entry in index["manifests"]]
    assert kinds == ["image", "image", "attestation-manifest", "attestation-manifest"]
    assert {entry["annotations"]["vnd.docker.reference.digest"] for entry in index["manifests"][2:]} == {entry["digest"] for entry in index["manifests"][:2]}


@pytest.mark.usefixtures("programs")
def test_files_of_several_platforms(berth: Berth, tmp_path: Path) -> None:
    platforms = f"{BOTH},linux/arm/v7"
    berth("build", "--platform", platforms, "-o", "type=local,dest=files", "-o", "type=tar,dest=files.tar", ".")
    expected = {f"linux_{arch}/{file}" for arch in (OWN, OTHER, "arm_v7") for file in ("program", "same")}
    assert {str(path.relative_to(tmp_path / "files")) for path in (tmp_path / "files").rglob("*") if path.is_file()} == expected
    listed = subprocess.run(["tar", "-tf", "files.tar"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in listed if not name.endswith("/")} == expected
    for arch, text in ((OWN, f"for {OWN}\n"), (OTHER, f"for {OTHER}\n"), ("arm_v7", "for arm\n")):
        assert (tmp_path / "files" / f"linux_{arch}" / "program").read_text() == text
    berth("build", "-o", "type=local,dest=one", ".")
    assert sorted(os.listdir(tmp_path / "one")) == ["program", "same"]
    berth("build", "-o", "type=local,dest=split,platform-split=true", ".")
    assert os.listdir(tmp_path / "split") == [f"linux_{OWN}"]
    refused = berth("build", "--platform", BOTH, "-o", "type=local,dest=merged,platform-split=false", ".", code=1)
    assert "platform-split=false" in refused.stderr
    assert "program" in refused.stderr
    berth("build", "--platform", BOTH, "-o", "type=local,dest=merged,platform-split=false", "-f", "-", ".", input=(
        "FROM scratch\nARG TARGETARCH\nCOPY program-$TARGETARCH /d/program-$TARGETARCH\n"
    ))  # fmt: skip
    assert sorted(os.listdir(tmp_path / "merged" / "d")) == ["program-amd64", "program-arm64"]


@pytest.mark.usefixtures("programs")
def test_several_platforms_in_the_store(engine: Engine, berth: Berth) -> None:
    done = berth("build", "--platform", BOTH, "-t", "push:both", ".")
    assert f"linux/{OWN} is there now" in done.stderr
    assert engine.docker("image", "inspect", "--format", "{{.Architecture}}", "push:both").stdout == f"{OWN}\n"
    berth("build", "--platform", f"linux/{OTHER}", "-t", "push:other", ".")
    assert engine.docker("image", "inspect", "--format", "{{.Architecture}}", "push:other").stdout == f"{OTHER}\n"
    refused = berth("build", "--platform", BOTH, "-o", "type=docker,dest=d.tar", ".", code=1)
    assert "use type=oci" in refused.stderr
    engine.docker("tag", "bb", "127.0.0.1:9/bb")
    foreign = berth("build", "--platform", f"linux/{OTHER}", "-", input="FROM 127.0.0.1:9/bb\nRUN true\n", code=1)
    assert f"127.0.0.1:9/bb:latest is here for linux/{OWN}, and linux/{OTHER} is wanted" in foreign.stderr
    assert f"[linux/{OTHER} stage-0 2/3] COPY program-$TARGETARCH /program" in done.stderr
