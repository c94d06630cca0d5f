"""--platform where a store has one platform of an image: archives that offer several, made by skopeo; and what is for another one."""

import hashlib
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from dockerd import Dockerd
from handmade import Handmade, Made, layer
from harness import REPOSITORY, Engine
from registries import HAVE_DOCKER_REGISTRY, docker_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not (HAVE_DOCKER_REGISTRY and shutil.which("skopeo")), reason="needs Debian's docker-registry and skopeo"),
]

BERTH = [sys.executable, "-IS", f"{REPOSITORY}/src/berth/cli/__main__.py"]
PLATFORMS = ("linux/amd64", "linux/arm64", "linux/s390x")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=[["docker"], BERTH], ids=["docker", "berth"])
def run(request: pytest.FixtureRequest, engine: Engine) -> Run:
    """A command line on the engine of the tests."""

    def call(*words: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run([*request.param, *words], env=engine.env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
        assert done.returncode == code, (words, done)
        return done

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Made]]:
    """An OCI archive with an index of three platforms, written by skopeo; the image of each."""
    top = tmp_path_factory.mktemp("multi")
    with docker_registry() as host:
        registry = Handmade(host)
        images = {platform: registry.image("multi", "", [layer(("platform", platform.encode()))], platform=platform) for platform in PLATFORMS}
        registry.index("multi", "1", [(image, platform) for platform, image in images.items()])
        subprocess.run(["skopeo", "copy", "-q", "--all", "--src-tls-verify=false", f"docker://{host}/multi:1", f"oci-archive:{top}/multi.tar:multi:1"], check=True)
    return f"{top}/multi.tar", images


def without(source: str, target: Path, blobs: set[str], change: Callable[[dict], object] = lambda index: None) -> str:
    """A copy of an archive that lacks blobs; change: what is done to index.json."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for info in old:
            if not info.isfile() or f"sha256:{os.path.basename(info.name)}" in blobs:
                continue
            file = old.extractfile(info)
            assert file
            data = file.read()
            if info.name == "index.json":
                index = json.loads(data)
                change(index)
                data = json.dumps(index).encode()
                info.size = len(data)
            new.addfile(info, io.BytesIO(data))
    return str(target)


def blobs_of(image: Made) -> set[str]:
    return {image.digest, image.config, *image.blobs}


def test_load_takes_the_hosts_or_the_one_that_is_asked_for(run: Run, engine: Engine, made: tuple[str, dict[str, Made]]) -> None:
    archive, images = made
    for words, platform in (((), "linux/amd64"), (("--platform", "linux/arm64"), "linux/arm64"), (("--platform", "linux/arm64/v8"), "linux/arm64")):
        assert run("load", "-i", archive, *words).stdout == "Loaded image: multi:1\n"
        found = json.loads(engine.docker("image", "inspect", "multi:1").stdout)[0]
        assert (found["Id"], f"linux/{found['Architecture']}") == (images[platform].config, platform)
        assert found["RootFS"]["Layers"] == images[platform].diffs
        run("rmi", "multi:1")
    assert not set(engine.docker("images", "-q", "--no-trunc").stdout.split()) & {image.config for image in images.values()}


def test_load_says_what_is_not_there(run: Run, engine: Engine, made: tuple[str, dict[str, Made]], tmp_path: Path) -> None:
    archive, images = made
    before = engine.docker("images", "-aq").stdout
    said = run("load", "-i", archive, "--platform", "linux/riscv64", code=1).stderr
    assert said == "Error response from daemon: no image of the archive is for linux/riscv64: multi:1 is for linux/amd64 and linux/arm64 and linux/s390x\n"
    # an index of which one platform is in the archive, as `docker save --platform` writes it: that one is meant
    lone = without(archive, tmp_path / "lone.tar", blobs_of(images["linux/amd64"]) | blobs_of(images["linux/s390x"]))
    assert run("load", "-i", lone).stdout == "Loaded image: multi:1\n"
    assert run("image", "inspect", "-f", "{{.Architecture}}", "multi:1").stdout == "arm64\n"
    run("rmi", "multi:1")
    said = run("load", "-i", lone, "--platform", "linux/s390x", code=1).stderr
    assert "multi:1 is for linux/arm64 (listed for linux/amd64 and linux/s390x, which is not in the archive)" in said
    # two, of which none is the host's
    two = without(archive, tmp_path / "two.tar", blobs_of(images["linux/amd64"]))
    assert "not for this machine's linux/amd64: choose one with --platform" in run("load", "-i", two, code=1).stderr
    nothing = without(archive, tmp_path / "nothing.tar", {digest for image in images.values() for digest in blobs_of(image)})
    assert "and not in the archive" in run("load", "-i", nothing, code=1).stderr
    # a layer that is listed and not there
    broken = without(archive, tmp_path / "broken.tar", set(images["linux/amd64"].blobs))
    assert "does not hold it" in run("load", "-i", broken, code=1).stderr
    assert engine.docker("images", "-aq").stdout == before


def test_manifests_side_by_side_are_one_image(run: Run, engine: Engine, made: tuple[str, dict[str, Made]], tmp_path: Path) -> None:
    """index.json itself lists the platforms; and of images with names of their own each is loaded, or said not to be."""
    archive, images = made

    def spread(index: dict, names: "list[str]") -> None:
        index["manifests"] = [
            {"mediaType": image.manifest["mediaType"], "digest": image.digest, "size": len(json.dumps(image.manifest)),
             "platform": dict(zip(("os", "architecture"), platform.split("/"), strict=True)), "annotations": {"org.opencontainers.image.ref.name": name}}
            for (platform, image), name in zip(images.items(), names, strict=True)
        ]  # fmt: skip

    flat = without(archive, tmp_path / "flat.tar", set(), lambda index: spread(index, ["multi:1"] * 3))
    run("load", "-i", flat, "--platform", "linux/s390x")
    assert engine.docker("image", "inspect", "-f", "{{.Id}}", "multi:1").stdout.strip() == images["linux/s390x"].config
    run("rmi", "multi:1")
    named = without(archive, tmp_path / "named.tar", set(), lambda index: spread(index, ["multi:a", "multi:b", "multi:c"]))
    said = run("load", "-i", named, "--platform", "linux/arm64").stdout
    assert said == "Not loaded: multi:a is for linux/amd64\nNot loaded: multi:c is for linux/s390x\nLoaded image: multi:b\n"
    run("rmi", "multi:b")
    assert run("load", "-i", named).stdout == "".join(f"Loaded image: multi:{letter}\n" for letter in "abc")
    run("rmi", "multi:a", "multi:b", "multi:c")


def test_an_image_for_another_platform(run: Run, engine: Engine, tmp_path: Path) -> None:
    other = "image with reference {} was found but its platform (linux/amd64) does not match the specified platform (linux/arm64)\n"
    engine.docker("tag", "bb", "127.0.0.1:1/bb:1")
    for words in (("image", "inspect"), ("history",), ("save", "-o", f"{tmp_path}/a.tar"), ("push",), ("rmi",)):
        assert run(*words, "--platform", "linux/arm64", "127.0.0.1:1/bb:1", code=1).stderr == f"Error response from daemon: {other.format('127.0.0.1:1/bb:1')}"
    assert not (tmp_path / "a.tar").exists()
    run("save", "--platform", "linux/amd64", "-o", f"{tmp_path}/a.tar", "bb")
    seen = subprocess.run(["skopeo", "inspect", "--raw", f"oci-archive:{tmp_path}/a.tar"], capture_output=True, check=True, text=True)
    assert json.loads(seen.stdout)["config"]["digest"] == run("image", "inspect", "--platform", "linux/amd64", "-f", "{{.Id}}", "bb").stdout.strip()
    with tarfile.open(tmp_path / "a.tar") as tar:
        file = tar.extractfile("index.json")
        assert file
        assert json.load(file)["manifests"][0]["platform"] == {"os": "linux", "architecture": "amd64"}
    assert "refused" in run("push", "--platform", "linux/amd64", "127.0.0.1:1/bb:1", code=1).stderr
    run("rmi", "--platform", "linux/amd64", "127.0.0.1:1/bb:1")
    assert "invalid platform" in run("history", "--platform", "a/b/c/d", "bb", code=1).stderr
    # `create` asks the registry then, as Docker's does; its own words come first
    said = run("create", "--pull", "never", "--platform", "linux/arm64", "bb", code=1).stderr
    assert other.format("bb").strip() in said


def test_a_container_of_a_foreign_image_is_warned_about(run: Run, engine: Engine, made: tuple[str, dict[str, Made]]) -> None:
    run("load", "-i", made[0], "--platform", "linux/s390x")
    done = run("create", "--network", "none", "multi:1", "true")
    assert "WARNING: The requested image's platform (linux/s390x) does not match the detected host platform (linux/amd64" in done.stderr
    quiet = run("create", "--network", "none", "--platform", "linux/s390x", "multi:1", "true")
    assert quiet.stderr == ""
    engine.rm(done.stdout.strip(), quiet.stdout.strip())
    run("rmi", "multi:1")


def test_versions_of_the_api(engine: Engine) -> None:
    def ask(method: str, path: str, *options: str) -> tuple[int, str]:
        done = subprocess.run(
            ["curl", "-sS", "-g", "--unix-socket", f"{engine.exec}/berth.sock", "-X", method, "-w", "\n%{http_code}", *options, f"http://d{path}"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    arm = "%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22arm64%22%7D"
    for minor, path in ((49, "json"), (48, "history"), (48, "get")):
        assert ask("GET", f"/v1.{minor}/images/bb/{path}?platform={arm}")[0] == 404
        assert ask("GET", f"/v1.{minor - 1}/images/bb/{path}?platform={arm}", "-o", "/dev/null")[0] == 200
        for bad in ("x", "%7B%22os%22%3A%22linux%22%7D", "%7B%22os%22%3A1%2C%22architecture%22%3A%22arm64%22%7D", "[]", f"{arm}&platform={arm}"):
            status, body = ask("GET", f"/v1.{minor}/images/bb/{path}?platform={bad}")
            assert status == 400, (path, bad)
            assert "platform" in body or "JSON" in body
    assert ask("POST", f"/v1.48/images/load?platform={arm}&platform={arm}", "--data-binary", "x")[0] == 400


# -- progress -----------------------------------------------------------------------------------------


def on_terminal(program: list[str], env: dict[str, str], *words: str) -> tuple[int, str]:
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(program[0], [*program, *words], env)
    out = b""
    try:
        while piece := os.read(fd, 65536):
            out += piece
    except OSError:
        pass  # the other end is closed
    finally:
        os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode()


def stream_of(socket: str, method_path: str, body: str) -> list[dict]:
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", socket, "-X", "POST", "-H", "Content-Type: application/x-tar", "-T", body, f"http://d/v1.41{method_path}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines() if line]


def test_load_draws_the_layers(engine: Engine, made: tuple[str, dict[str, Made]], tmp_path: Path) -> None:
    """Each layer of the archive has its line, by the digest that names it, which is drawn until it is whole."""
    tars = [layer((f"f{number}", os.urandom(3 << 20))) for number in range(2)]
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]},
    }).encode()  # fmt: skip
    names = [f"{hashlib.sha256(tar).hexdigest()}.tar" for tar in tars]
    manifest = json.dumps([{"Config": "config.json", "RepoTags": ["drawn:1"], "Layers": names}]).encode()
    path = str(tmp_path / "drawn.tar")
    with tarfile.open(path, "w") as archive:
        for name, data in [*zip(names, tars, strict=True), ("config.json", config), ("manifest.json", manifest)]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    for program in (["docker"], BERTH):
        code, out = on_terminal(program, engine.env, "load", "-i", path)
        drawn = re.findall(r"([0-9a-f]{12}): Loading layer \[?=*>? *\]? *([0-9.]+MB)/([0-9.]+MB)", out)
        assert code == 0
        assert [item for item in drawn if item[1] == item[2]] == [(name[:12], "3.154MB", "3.154MB") for name in names], out
        assert out.endswith("Loaded image: drawn:1\r\n")
        piped = subprocess.run([*program, "load", "-i", path], env=engine.env, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
        assert (piped.stdout, piped.stderr) == ("Loaded image: drawn:1\n", "")
        engine.docker("rmi", "drawn:1")


def test_messages_of_load_are_dockerds(engine: Engine, real: Dockerd, tmp_path: Path, rootfs_tar: str) -> None:
    """The same archive, by skopeo, into both: a layer's progress to its end, a name that moves, a load that is quiet."""
    engine.docker("import", rootfs_tar, "said:1")
    engine.docker("save", "-o", f"{tmp_path}/said.tar", "said:1")
    engine.docker("rmi", "said:1")
    source, archive = f"docker-archive:{tmp_path}/said.tar", f"{tmp_path}/skopeo.tar"
    subprocess.run(["skopeo", "copy", "-q", source, f"docker-archive:{archive}:said:1"], check=True)
    found = []
    for host, tag, remove in (
        (real.host, lambda: real("tag", "bb", "said:1"), lambda: real("rmi", "said:1")),
        (engine.env["DOCKER_HOST"], lambda: engine.docker("tag", "bb", "said:1"), lambda: engine.docker("rmi", "said:1")),
    ):
        socket = host.removeprefix("unix://")
        tag()
        loud = stream_of(socket, "/images/load?quiet=0", archive)
        quiet = [stream_of(socket, f"/images/load{options}", archive) for options in ("?quiet=1", "")]
        remove()
        loud = [message for message in loud if not message.get("progressDetail") or message["progressDetail"]["current"] == message["progressDetail"]["total"]]
        for message in loud:
            if "already exists" in message.get("stream", ""):
                message["stream"] = re.sub("sha256:[0-9a-f]{64}", "ID", message["stream"])
        found.append([loud, *quiet])
    assert found[1] == found[0]
    assert [list(message) for message in found[1][0]] == [["status", "progressDetail", "progress", "id"], ["stream"], ["stream"]]


def test_import_is_drawn_and_leaves_its_id_alone(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(layer(("large", os.urandom(12 << 20))))
    code, out = on_terminal(BERTH, engine.env, "import", str(path), "drawn:2")
    assert code == 0
    assert "Importing [" in out
    assert re.fullmatch(r".*\x1b\[2K\rsha256:[0-9a-f]{64}\r\n", out, re.DOTALL), out[-200:]
    piped = subprocess.run([*BERTH, "import", str(path), "drawn:2"], env=engine.env, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", piped.stdout)
    engine.docker("rmi", "drawn:2")
