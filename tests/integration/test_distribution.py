"""Pull and push, with Debian's docker-registry: what a registry may hold, what Docker's CLI is told, compared with dockerd."""

import base64
import hashlib
import http.client
import json
import os
import re
import socket
import struct
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dockerd import Dockerd
from handmade import OCI, OCI_MANIFEST, Handmade, Made, Proxy, layer, member
from harness import BUSYBOX, Engine, status, wait_until
from registries import HAVE_DOCKER_REGISTRY, Host, docker_registry

pytestmark = [pytest.mark.root, pytest.mark.skipif(not HAVE_DOCKER_REGISTRY, reason="needs Debian's docker-registry")]

MOST_MEMORY_KB = 150 << 10


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with docker_registry() as found:
        yield found


@pytest.fixture(scope="module")
def registry(host: Host) -> Handmade:
    return Handmade(host)


@pytest.fixture(scope="module")
def puller() -> Iterator[Engine]:
    """An engine of this module's own, whose memory is looked at in the end: no pull may have taken more."""
    running = Engine()
    try:
        yield running
        assert running.process
        assert int(status(running.process.pid)["VmHWM"].split()[0]) < MOST_MEMORY_KB
    finally:
        for identity in set(running.docker("images", "-aq", "--no-trunc").stdout.split()):
            running.docker("rmi", "-f", identity, code=None)
        left = leftovers(running)
        running.finish()
        assert left == []


def leftovers(engine: Engine) -> list[str]:
    """What the store has on disk of layers, in whatever state, once what is to go is gone."""
    wait_until(lambda: os.listdir(f"{engine.data}/tmp") == [], "layers that nobody uses")
    return [
        f"{top}/{name}" for directory in ("layers", "recipes", "pool", "contents", "partial", "tmp")
        for top, names, files in os.walk(f"{engine.data}/{directory}") for name in names + files
    ]  # fmt: skip


def missing_bytes(engine: Engine, made: Made) -> dict[str, int]:
    """Of each layer's blob that is neither unpacked nor here in part.

    By the engine's file beside the part: magic, size and size of a chunk, then a count for each chunk.
    """
    found = {}
    for entry, chain in zip(made.manifest["layers"], made.chains, strict=True):
        counts = Path(f"{engine.data}/partial/{entry['digest'][7:]}.counts")
        raw = counts.read_bytes() if counts.exists() else b""
        here = sum(count for (count,) in struct.iter_unpack("<Q", raw[24:]))
        found[entry["digest"]] = 0 if os.path.exists(f"{engine.data}/layers/{chain[7:]}") else entry["size"] - here
    return found


def busybox() -> bytes:
    """A layer that a shell runs in."""
    return layer(member("bin", tarfile.DIRTYPE), (member("bin/busybox", mode=0o755), Path(BUSYBOX).read_bytes()), *(
        member(f"bin/{name}", tarfile.SYMTYPE, linkname="busybox") for name in ("sh", "cat", "ls", "stat", "echo", "wc", "find")
    ))  # fmt: skip


def shell(engine: Engine, image: str, script: str) -> str:
    return engine.run(image, "sh", "-c", script).stdout


def diffs(engine: "Engine | Dockerd", image: str) -> list[str]:
    docker = engine.docker if isinstance(engine, Engine) else engine
    return list(json.loads(docker("inspect", "--type", "image", image).stdout)[0]["RootFS"]["Layers"])


def skopeo(*words: str) -> str:
    done = subprocess.run(["skopeo", "--insecure-policy", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- what a registry may hold -------------------------------------------------------------------------------------


@pytest.mark.parametrize("oci", [True, False], ids=["oci", "docker"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", ""], ids=["gzip", "zstd", "plain"])
def test_media_types_and_compressions(registry: Handmade, puller: Engine, oci: bool, compression: str) -> None:
    if not oci and compression == "zstd":
        pytest.skip("Docker has no such media type")
    made = registry.image("kinds/all", "1", [busybox(), layer(("etc/x", f"{oci}{compression}".encode()))], oci=oci, compression=compression)
    name = f"{registry.host}/kinds/all:1"
    said = puller.docker("pull", name).stdout
    assert f"Digest: {made.digest}\n" in said
    assert f"Status: Downloaded newer image for {name}" in said
    assert shell(puller, name, "cat /etc/x") == f"{oci}{compression}"
    assert diffs(puller, name) == made.diffs
    shown = json.loads(puller.docker("inspect", name).stdout)[0]
    assert (shown["Id"], shown["RepoDigests"]) == (made.config, [f"{registry.host}/kinds/all@{made.digest}"])
    assert f"Status: Image is up to date for {name}" in puller.docker("pull", name).stdout
    puller.docker("rmi", name)


def test_an_index_with_platforms_and_variants(registry: Handmade, puller: Engine) -> None:
    platforms = ["linux/amd64", "linux/arm64/v8", "linux/arm/v6", "linux/arm/v7", "windows/amd64"]
    made = {one: registry.image("multi/arch", "", [layer(("platform", one.encode()))], platform=one) for one in platforms}
    digest = registry.index("multi/arch", "all", [(made[one], one) for one in platforms])
    name = f"{registry.host}/multi/arch:all"
    for wanted, expected in (("", 0), ("linux/arm64", 1), ("linux/arm/v6", 2), ("linux/arm", 3), ("linux/arm/v8", 3), ("linux/amd64", 0)):
        said = puller.docker("pull", *(["--platform", wanted] if wanted else []), name).stdout
        assert f"Digest: {digest}\n" in said
        assert puller.docker("inspect", "-f", "{{.Id}}", name).stdout.strip() == made[platforms[expected]].config, wanted
    refused = puller.docker("pull", "--platform", "linux/s390x", name, code=1).stderr
    assert "no matching manifest for linux/s390x in the manifest list entries" in refused
    refused = puller.docker("pull", "--platform", "windows/amd64", name, code=1).stderr
    assert 'image operating system "windows" cannot be used on this platform' in refused
    puller.docker("pull", f"{registry.host}/multi/arch@{digest}")
    for identity in set(puller.docker("images", "-q", f"{registry.host}/multi/arch").stdout.split()):
        puller.docker("rmi", "-f", identity)
    # one that was pushed for another platform and has no index
    registry.image("multi/arch", "alone", [layer(("a", b"arm"))], platform="linux/arm/v7")
    refused = puller.docker("pull", "--platform", "linux/amd64", f"{registry.host}/multi/arch:alone", code=1).stderr
    assert "does not match the specified platform" in refused


def test_all_tags(registry: Handmade, puller: Engine) -> None:
    base = busybox()
    for tag in ("a", "b", "c"):
        registry.image("many/tags", tag, [base, layer(("tag", tag.encode()))])
    said = puller.docker("pull", "-a", f"{registry.host}/many/tags").stdout
    assert said.count("Digest: ") == 3
    assert f"Status: Downloaded newer image for {registry.host}/many/tags" in said
    assert [shell(puller, f"{registry.host}/many/tags:{tag}", "cat /tag") for tag in "abc"] == ["a", "b", "c"]
    puller.docker("rmi", *(f"{registry.host}/many/tags:{tag}" for tag in "abc"))


def test_an_artifact_is_no_image(registry: Handmade, puller: Engine) -> None:
    config = registry.blob("odd/artifact", b"{}")
    blob = registry.blob("odd/artifact", b"a chart")
    registry.manifest("odd/artifact", "1", {
        "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "artifactType": "application/vnd.example.chart",
        "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "digest": blob, "size": 7}],
    }, OCI + "manifest.v1+json")  # fmt: skip
    said = puller.docker("pull", f"{registry.host}/odd/artifact:1", code=1).stderr
    assert "artifact" in said
    assert "application/vnd.cncf.helm.config.v1+json" in said


def test_many_layers_an_empty_one_and_one_twice(registry: Handmade, puller: Engine) -> None:
    twice = layer(("twice", b"2" * 5000))
    tars = [busybox(), twice, layer(), *(layer((f"n/{number}", str(number).encode())) for number in range(121)), layer(member(".wh.twice")), twice, layer()]
    assert len(tars) == 127
    made = registry.image("odd/many", "1", tars)
    name = f"{registry.host}/odd/many:1"
    puller.docker("pull", name)
    assert diffs(puller, name) == made.diffs
    assert shell(puller, name, "ls /n | wc -l; wc -c < /twice") == "121\n5000\n"
    # and back: each blob is there, and the registry is sent none of them
    said = puller.docker("push", name).stdout
    assert said.count("Layer already exists") == len(set(made.blobs))
    puller.docker("rmi", name)


def test_blobs_that_are_named_by_sha512(registry: Handmade, puller: Engine) -> None:
    """docker-registry takes and gives them by either name. The image's id stays Docker's."""
    tars = [busybox(), layer(("sha512", b"x"))]
    made = registry.image("odd/sha512", "", tars, oci=True, compression="")
    config = registry.ask("GET", f"/v2/odd/sha512/blobs/{made.config}")[2]

    def entry(kind: str, data: bytes) -> dict:
        digest = f"sha512:{hashlib.sha512(data).hexdigest()}"
        _, headers, _ = registry.ask("POST", "/v2/odd/sha512/blobs/uploads/")
        path = headers["location"].split(registry.host, 1)[-1]
        assert registry.ask("PUT", f"{path}&digest={digest}", data)[0] == 201
        return {"mediaType": OCI + kind, "digest": digest, "size": len(data)}

    layers = [entry("layer.v1.tar", tar) for tar in tars]
    registry.manifest("odd/sha512", "1", {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entry("config.v1+json", config), "layers": layers}, OCI_MANIFEST)
    name = f"{registry.host}/odd/sha512:1"
    said = puller.docker("pull", name).stdout
    assert all(f"{one['digest'][7:19]}: Pull complete" in said for one in layers)
    assert (puller.docker("inspect", "-f", "{{.Id}}", name).stdout.strip(), diffs(puller, name)) == (made.config, made.diffs)
    assert shell(puller, name, "cat /sha512") == "x"
    assert puller.docker("push", name).stdout.count("Layer already exists") == 2
    assert [one["digest"] for one in registry.read_manifest("odd/sha512", "1")["layers"]] == [one["digest"] for one in layers]
    puller.docker("rmi", name)
    with Proxy(registry.host) as proxy:
        proxy.change = lambda path, body: body[:-1] + b"x" if path.endswith(layers[1]["digest"]) else body
        assert f"{layers[1]['digest']} came from the registry with digest sha512:" in puller.docker("pull", f"{proxy.host}/odd/sha512:1", code=1).stderr


def test_a_login_by_registry_config(puller: Engine) -> None:
    """As clients send with a build: logins of all registries, each for its own."""
    with docker_registry(auth=("ada", "secret")) as locked:
        for host, words in ((str(locked), "not found: manifest unknown"), ("other.example", "no basic auth credentials")):
            header = base64.urlsafe_b64encode(json.dumps({host: {"username": "ada", "password": "secret"}}).encode()).decode()
            assert words in str(ask(puller.env, "POST", f"/images/create?fromImage={locked}/nosuch&tag=1", {"X-Registry-Config": header}))


# -- files ----------------------------------------------------------------------------------------------------------


def odd_files() -> list[bytes]:
    """Layers of everything that is no plain file with a plain name."""
    def xattrs(**values: bytes) -> dict[str, str]:
        return {f"SCHILY.xattr.{key.replace('_', '.')}": value.decode("utf-8", "surrogateescape") for key, value in values.items()}

    capability = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
    lower = layer(
        *(member(name, tarfile.DIRTYPE) for name in ("opaque", "both", "a", "a/b", "c")), member("dir", tarfile.DIRTYPE, mode=0o3770, uid=7, gid=8), ("dir/kept", b"kept"), ("dir/gone", b"gone"), ("opaque/old", b"old"), ("both/a", b"a"),
        (member("owned", uid=1234, gid=4321, mode=0o6755), b"x"), (member("cap", pax_headers=xattrs(security_capability=capability)), b"cap"),
        (member("tagged", pax_headers=xattrs(user_note=b"of the tests")), b"tagged"),
        member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666), member("loop", tarfile.BLKTYPE, devmajor=7, devminor=200), member("pipe", tarfile.FIFOTYPE),
        (member("a/b/original", uid=5), b"linked" * 100), member("c/other", tarfile.LNKTYPE, linkname="a/b/original"), member("third", tarfile.LNKTYPE, linkname="c/other", uid=6, mode=0o600),
    )  # fmt: skip
    upper = layer(
        member("dir", tarfile.DIRTYPE, mode=0o3770, uid=7, gid=8), member("dir/.wh.gone"), member("opaque", tarfile.DIRTYPE), member("opaque/.wh..wh..opq"), ("opaque/new", b"new"), member(".wh.both"), ("dir/kept", b"again"),
    )  # fmt: skip
    return [lower, _latin(), _sparse(), upper]


def _latin() -> bytes:
    """GNU tar writes names as they are."""
    with tempfile.TemporaryDirectory() as top:
        for name in (b"caf\xe9", b"d\xff"):
            with open(os.fsencode(top) + b"/" + name, "wb") as file:
                file.write(b"latin-1")
        return _gnu_tar(top, "--format=gnu")


def _sparse() -> bytes:
    with tempfile.TemporaryDirectory() as top:
        with open(f"{top}/sparse", "wb") as file:
            file.truncate(64 << 20)
            file.seek(32 << 20)
            file.write(b"in the middle")
        return _gnu_tar(top, "--format=posix", "--sparse")  # dockerd does not know GNU's older form


def _gnu_tar(top: str, *options: str) -> bytes:
    words = ["tar", "--sort=name", "--owner=0", "--group=0", "--mtime=@1000000000", *options, "-C", top, "-cf", "-", "."]
    return subprocess.run(words, capture_output=True, check=True).stdout


def described(engine: "Engine | Dockerd", image: str, command: tuple[str, ...]) -> str:
    docker = engine.docker if isinstance(engine, Engine) else engine
    return docker("run", "--rm", "--network", "none", image, *command).stdout


def test_files_are_what_dockerd_makes_of_them(registry: Handmade, puller: Engine, real: Dockerd) -> None:
    made = registry.image("odd/files", "1", [busybox(), *odd_files()])
    name = f"{registry.host}/odd/files:1"
    script = "cd /; find . -xdev ! -path './proc*' ! -path './sys*' ! -path './dev*' ! -path './etc*' -exec stat -c '%n %F %a %u %g %t:%T %Y' {} + | sort; stat -c %h a/b/original third; " \
        "for f in opaque dir cap tagged sparse; do wc -c $f/* $f 2>&1; done; cat dir/kept caf*"
    try:
        for each in (puller.docker, real):
            each("pull", name)
        ours, theirs = (
            [line for line in described(each, name, ("sh", "-c", script)).splitlines() if not re.match(r"\. |\./(proc|sys|dev|etc|\.dockerenv)", line)]
            for each in (puller, real)
        )
        assert ours == theirs
        assert any("caf" in line for line in ours)
        assert diffs(puller, name) == diffs(real, name) == made.diffs
        root = puller.docker("inspect", "-f", "{{.GraphDriver.Data.LowerDir}}:{{.GraphDriver.Data.UpperDir}}", name).stdout.strip().split(":")
        lower = next(path for path in root if os.path.exists(f"{path}/cap"))
        assert os.getxattr(f"{lower}/cap", "security.capability").hex() == "0100000200040000000000000000000000000000"
        assert os.getxattr(f"{lower}/tagged", "user.note") == b"of the tests"
        middle = next(path for path in root if os.path.exists(f"{path}/sparse"))
        status_of = os.stat(f"{middle}/sparse")
        assert (status_of.st_size, status_of.st_blocks * 512 < 1 << 20) == (64 << 20, True)
        # and out again, as it came
        puller.docker("tag", name, f"{registry.host}/odd/again:1")
        puller.docker("push", f"{registry.host}/odd/again:1")
        assert [one["digest"] for one in registry.read_manifest("odd/again", "1")["layers"]] == made.blobs
    finally:
        for each in (puller.docker, real):
            each("rmi", "-f", name, code=None)
        puller.docker("rmi", "-f", f"{registry.host}/odd/again:1", code=None)


def test_many_files_and_a_large_one(registry: Handmade, puller: Engine) -> None:
    """BERTH_LARGE_LAYER_MB=2048 BERTH_MANY_FILES=100000: as large as the issue has it."""
    large_mb, count = int(os.environ.get("BERTH_LARGE_LAYER_MB", "200")), int(os.environ.get("BERTH_MANY_FILES", "10000"))
    many = layer(*((f"many/{number // 1000}/{number}", b"%d" % number) for number in range(count)))
    large = layer(("large", (os.urandom(1 << 16) + bytes(15 << 16)) * large_mb))
    name = f"{registry.host}/odd/large:1"
    made = registry.image("odd/large", "1", [busybox(), many, large])
    del many, large
    puller.docker("pull", name, timeout=300)
    assert shell(puller, name, "find /many -type f | wc -l; wc -c < /large") == f"{count}\n{large_mb << 20}\n"
    # what a registry does not have yet is made again from the files
    registry.ask("DELETE", f"/v2/odd/large/blobs/{made.blobs[1]}")
    puller.docker("push", name, timeout=300)
    assert skopeo("inspect", "--tls-verify=false", f"docker://{name}")
    puller.docker("rmi", name)  # the files go after that
    wait_until(lambda: os.listdir(f"{puller.data}/tmp") == [], "files of the layers", 900)


# -- what is said ---------------------------------------------------------------------------------------------------


def ask(env: dict[str, str], method: str, path: str, headers: "dict[str, str] | None" = None) -> tuple[int, list[dict]]:
    """A request to an engine: status, and the messages of the answer."""
    connection = http.client.HTTPConnection("engine")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(120)
    connection.sock.connect(env["DOCKER_HOST"].removeprefix("unix://"))
    try:
        connection.request(method, f"/v1.41{path}", headers=headers or {"X-Registry-Auth": base64.urlsafe_b64encode(b"{}").decode()})
        answer = connection.getresponse()
        return answer.status, [json.loads(line) for line in answer.read().splitlines()]
    finally:
        connection.close()


def told(messages: list[dict]) -> tuple[list[dict], dict[str, list[str]]]:
    """What stands alone, in order; and of each layer the statuses, in order, without what only moves its bar."""
    alone, layers = [], {}
    for message in messages:
        if message.get("id") and "progressDetail" in message:
            said = layers.setdefault(message["id"], [])
            if said[-1:] != [message["status"]]:
                said.append(message["status"])
        else:
            alone.append(message)
    # which repository a layer is mounted from is the engine's own choice; whether one waits for its turn, chance
    return alone, {identity: [re.sub("(Mounted from ).*", r"\1", status) for status in said if status != "Waiting"] for identity, said in layers.items()}


def agree(ours: list[dict], theirs: list[dict]) -> None:
    """The same lines, and of each layer the same statuses, but that dockerd drops those which the next one overtakes."""
    found, wanted = told(ours), told(theirs)
    assert found[0] == wanted[0]
    assert found[1].keys() == wanted[1].keys()
    for identity, said in wanted[1].items():
        mine = found[1][identity]
        assert (mine[0], mine[-1]) == (said[0], said[-1])
        rest = iter(mine)
        assert all(status in rest for status in said), (mine, said)


def test_messages_are_dockerds(registry: Handmade, puller: Engine, real: Dockerd) -> None:
    host, base, twice = registry.host, busybox(), layer(("twice", b"2"))
    made = registry.image("said/one", "1", [base, twice, layer(("big", os.urandom(3 << 20))), twice], oci=False)
    registry.image("said/two", "1", [base, layer(("b", b"x"))], oci=False)
    registry.image("said/two", "2", [base, layer(("b", b"y"))], oci=False)

    def both(method: str, path: str) -> None:
        ours, theirs = ask(puller.env, method, path), ask(real.env, method, path)
        assert ours[0] == theirs[0], (path, ours, theirs)
        agree(ours[1], theirs[1])

    create = f"/images/create?fromImage={host}/said/"
    try:
        status_of, messages = ask(puller.env, "POST", create + "one&tag=1")
        whole = ["Pulling fs layer", "Downloading", "Verifying Checksum", "Download complete", "Extracting", "Pull complete"]
        assert (status_of, list(told(messages)[1].values())) == (200, [whole] * 3)
        puller.docker("rmi", f"{host}/said/one:1")
        for path in (
            "one&tag=1", "one&tag=1", "one:1", f"one@{made.digest}", f"one&tag={made.digest}", "two", "two", "one&tag=nosuch", "nosuch&tag=1", "nosuch",
            f"one@sha256:{'2' * 64}",
        ):  # fmt: skip
            both("POST", create + path)
        for repository in ("three", "four"):
            for env in (puller.env, real.env):
                side = "ours" if env is puller.env else "theirs"
                assert ask(env, "POST", f"/images/{host}/said/one:1/tag?repo={host}/said-{side}/{repository}&tag=1")[0] == 201
        # pushes: to a repository each, so that nobody finds what the other one brought
        for query in ("three/push?tag=1", "three/push?tag=1", "four/push"):
            ours, theirs = (ask(env, "POST", f"/images/{host}/said-{side}/{query}") for env, side in ((puller.env, "ours"), (real.env, "theirs")))
            assert ours[0] == theirs[0] == 200
            agree(json.loads(json.dumps(ours[1]).replace("said-ours", "said-theirs")), theirs[1])
            assert registry.read_manifest("said-ours/three", "1") == registry.read_manifest("said-theirs/three", "1")
        both("POST", f"/images/{host}/said/one/push?tag=1")
        both("POST", f"/images/{host}/said/one/push?tag=nosuch")
        both("POST", f"/images/{host}/said/nosuch/push?tag=1")
        both("POST", f"/images/{host}/said/one@{made.digest}/push")

        def table(each: "Engine | Dockerd") -> list[str]:
            docker = each.docker if isinstance(each, Engine) else each
            lines = docker("images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}} {{.ID}}").stdout.splitlines()
            return sorted(line.replace("said-ours", "said-theirs") for line in lines if "/said" in line)

        assert table(puller) == table(real)
        # rmi by digest, by a tag whose digests go with it, and of an image that is left with a digest alone
        for name in (f"one@{made.digest}", "two:1"):
            assert puller.docker("rmi", f"{host}/said/{name}").stdout == real("rmi", f"{host}/said/{name}").stdout
            assert table(puller) == table(real)
    finally:
        for each in (puller.docker, real):
            names = each("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
            each("rmi", "-f", *(name for name in names if "/said" in name), code=None)


def test_an_image_by_digest_alone(registry: Handmade, puller: Engine, real: Dockerd) -> None:
    made = registry.image("alone/one", "1", [busybox(), layer(("alone", b"1"))], oci=False)
    name = f"{registry.host}/alone/one@{made.digest}"
    seen = []
    for docker in (puller.docker, real):
        docker("pull", name)
        lines = docker("images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}", f"{registry.host}/alone/one").stdout
        assert docker("run", "--rm", "--network", "none", name, "cat", "/alone").stdout == "1"
        dangling = docker("images", "-q", "-f", "dangling=true", f"{registry.host}/alone/one").stdout
        pruned = docker("image", "prune", "-f").stdout
        kept = docker("images", "-q", "--no-trunc", "--digests").stdout
        docker("pull", name)
        removed = docker("rmi", name).stdout
        seen.append((lines, dangling, made.config in pruned, made.config in kept, removed))
    assert seen[0] == seen[1]


def test_events(registry: Handmade, puller: Engine, real: Dockerd) -> None:
    made = registry.image("heard/one", "1", [busybox()], oci=False, config={"Labels": {"a": "b"}})
    name = f"{registry.host}/heard/one"
    seen = []
    for docker in (puller.docker, real):
        start_s = time.time() - 1
        docker("pull", f"{name}:1")
        docker("push", f"{name}:1")
        docker("rmi", f"{name}:1")
        lines = docker("events", "--since", f"{start_s:.3f}", "--until", f"{time.time() + 1:.3f}", "--filter", "type=image", "--format", "{{json .}}").stdout
        events = [json.loads(line) for line in lines.splitlines()]
        seen.append([(event["Action"], event["Actor"]) for event in events if "heard" in str(event) or made.config in str(event)])
    assert seen[0] == seen[1]
    assert [action for action, _ in seen[0]][:2] == ["pull", "push"]


# -- to and from others -----------------------------------------------------------------------------------------------


def test_what_berth_pushes_others_pull(registry: Handmade, puller: Engine, real: Dockerd, rootfs_tar: str, tmp_path: Path) -> None:
    """With the same diff ids on the way there and back; and umoci unpacks it."""
    name = f"{registry.host}/to/others"
    puller.docker("import", "-c", 'CMD ["sh"]', rootfs_tar, f"{name}:1")
    puller.docker("create", "--name", "to-others", "--network", "none", f"{name}:1", "true")
    puller.docker("cp", __file__, "to-others:/added")
    puller.docker("commit", "to-others", f"{name}:2")
    puller.docker("rm", "to-others")
    said = puller.docker("push", "-a", name).stdout
    assert said.count("Pushed") == 2
    assert re.search(r"1: digest: sha256:[0-9a-f]{64} size: \d+", said)
    digest = re.search(r"2: digest: (sha256:[0-9a-f]{64})", said)
    assert digest
    made = diffs(puller, f"{name}:2")
    try:
        assert f"Digest: {digest[1]}" in real("pull", f"{name}:2").stdout
        assert real("run", "--rm", "--network", "none", f"{name}:2", "cat", "/added").stdout == Path(__file__).read_text()
        assert diffs(real, f"{name}:2") == made
        skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{name}:2", f"oci:{tmp_path}/layout:2")
        subprocess.run(["umoci", "unpack", "--image", f"{tmp_path}/layout:2", f"{tmp_path}/bundle"], check=True, capture_output=True)
        assert (tmp_path / "bundle/rootfs/added").read_bytes() == Path(__file__).read_bytes()
        # back from dockerd, which compresses in its own way
        real("tag", f"{name}:2", f"{registry.host}/back/dockerd:2")
        real("push", f"{registry.host}/back/dockerd:2")
        before = puller.docker("inspect", "-f", "{{.Id}}", f"{name}:2").stdout
        puller.docker("rmi", f"{name}:1", f"{name}:2")
        puller.docker("pull", f"{registry.host}/back/dockerd:2")
        assert puller.docker("inspect", "-f", "{{.Id}}", f"{registry.host}/back/dockerd:2").stdout == before
        # and from skopeo, with zstd layers: what is pushed from there is an OCI image and is not compressed again
        skopeo("copy", "-q", "--dest-tls-verify=false", "--dest-compress-format", "zstd", f"oci:{tmp_path}/layout:2", f"docker://{registry.host}/back/zstd:2")
        puller.docker("rmi", f"{registry.host}/back/dockerd:2")
        puller.docker("pull", f"{registry.host}/back/zstd:2")
        assert diffs(puller, f"{registry.host}/back/zstd:2") == made
        puller.docker("tag", f"{registry.host}/back/zstd:2", f"{registry.host}/back/zstd-again:2")
        said = puller.docker("push", f"{registry.host}/back/zstd-again:2").stdout
        assert said.count("Mounted from back/zstd") == 2
        assert json.loads(skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{registry.host}/back/zstd-again:2"))["mediaType"] == OCI_MANIFEST
        skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{registry.host}/back/zstd-again:2", f"oci:{tmp_path}/again:2")
        # a blob the registry has lost is sent again
        for one in registry.read_manifest("back/zstd-again", "2")["layers"]:
            registry.ask("DELETE", f"/v2/back/zstd-again/blobs/{one['digest']}")
        said = puller.docker("push", f"{registry.host}/back/zstd-again:2").stdout
        assert "Layer already exists" not in said
        skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{registry.host}/back/zstd-again:2", f"oci:{tmp_path}/third:2")
    finally:
        for each in (puller.docker, real):
            names = each("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
            each("rmi", "-f", *(one for one in names if "/to/others" in one or "/back/" in one), code=None)


def test_docker_py(registry: Handmade, puller: Engine) -> None:
    docker = pytest.importorskip("docker")
    made = registry.image("py/one", "1", [busybox(), layer(("py", b"1"))])
    registry.image("py/one", "2", [busybox(), layer(("py", b"2"))])
    client = docker.DockerClient(base_url=puller.env["DOCKER_HOST"])
    try:
        image = client.images.pull(f"{registry.host}/py/one", tag="1")
        assert image.id == made.config
        assert [one.tags for one in client.images.pull(f"{registry.host}/py/one", all_tags=True)] == [[f"{registry.host}/py/one:1"], [f"{registry.host}/py/one:2"]]
        assert client.images.get_registry_data(f"{registry.host}/py/one:1").id == made.digest
        image.tag(f"{registry.host}/py/two", "1")
        last = list(client.images.push(f"{registry.host}/py/two", "1", stream=True, decode=True))[-1]
        assert last["aux"]["Digest"].startswith("sha256:")
        with pytest.raises(docker.errors.NotFound):
            client.images.pull(f"{registry.host}/py/nosuch")
        for name in ("py/one:1", "py/one:2", "py/two:1"):
            client.images.remove(f"{registry.host}/{name}")
    finally:
        client.close()
