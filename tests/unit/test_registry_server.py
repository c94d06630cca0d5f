"""Pure parts of the registry server: names, ranges, scopes, summaries, options; and its storage and uploads on a directory."""

import base64
import hashlib
import json
import os
import threading
import time
from pathlib import Path

import pytest

from berth.errors import InvalidParameter
from berth.registry import media
from berth.registry.server import manifests, names, options, summaries
from berth.registry.server.access import Access, Identity, basic, parse_scope
from berth.registry.server.app import refusal_of
from berth.registry.server.contents import Contents
from berth.registry.server.index import Index
from berth.registry.server.page import size_text
from berth.registry.server.passwords import parse as parse_users
from berth.registry.server.pulling import byte_range
from berth.registry.server.refusals import STATUS, Refused
from berth.registry.server.storage import Directory
from berth.registry.server.uploads import Uploads


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize(("text", "good"), [
    ("a", True), ("library/debian", True), ("a.b_c__d--e/f", True), ("0/1", True), ("a" * 255, True), ("a" * 256, False), ("", False), ("A", False),
    ("a..b", False), ("a___b", False), ("a/", False), ("/a", False), ("a//b", False), ("_a", False), ("a/_tags", False), ("a\n", False), ("é", False),
])  # fmt: skip
def test_names_of_repositories(text: str, good: bool) -> None:
    assert names.is_name(text) is good


@pytest.mark.parametrize(("text", "good"), [
    ("latest", True), ("_x", True), ("V1.2-3_4", True), ("a" * 128, True), ("a" * 129, False), ("", False), (".x", False), ("-x", False), ("a/b", False),
    ("a:b", False), ("é", False), ("a\n", False),
])  # fmt: skip
def test_tags(text: str, good: bool) -> None:
    assert names.is_tag(text) is good


@pytest.mark.parametrize(("header", "span"), [
    ("", None), ("bytes=0-9", (0, 10)), ("bytes=0-0", (0, 1)), ("bytes=90-", (90, 100)), ("bytes=-5", (95, 100)), ("bytes=-500", (0, 100)), ("bytes=99-500", (99, 100)),
    ("bytes=100-", (100, 100)), ("bytes=100-200", (100, 100)), ("bytes=-0", (100, 100)), ("bytes=5-4", None), ("bytes=a-b", None), ("bytes=-", None),
    ("bytes=0-1,5-6", None), ("items=0-1", None), ("bytes=" + "9" * 30 + "-", None), ("bytes=٣-", None), (" Bytes = 1-2", (1, 3)),
])  # fmt: skip
def test_byte_ranges(header: str, span: "tuple[int, int] | None") -> None:
    assert byte_range(header, 100) == span


@pytest.mark.parametrize(("text", "scope"), [
    ("repository:a/b:pull,push", ("repository", "a/b", ["pull", "push"])), ("repository(plugin):x:pull", ("repository", "x", ["pull"])),
    ("repository:host:5000/x:pull", ("repository", "host:5000/x", ["pull"])), ("registry:catalog:*", ("registry", "catalog", ["*"])), ("", ("", "", [""])),
])  # fmt: skip
def test_scopes(text: str, scope: "tuple[str, str, list[str]]") -> None:
    assert parse_scope(text) == scope


def test_basic_credentials() -> None:
    assert basic(base64.b64encode("ä:b:c".encode()).decode()) == ("ä", "b:c")
    for text in ("", "!!", base64.b64encode(b"nocolon").decode(), base64.b64encode(b":x").decode(), base64.b64encode(b"a:\xff").decode(), base64.b64encode(b"a:\0").decode()):
        with pytest.raises(Refused):
            basic(text)


def test_who_may_do_what_without_passwords_and_with_grants() -> None:
    open_to_all = Access(None)
    assert all(open_to_all.allows(Identity(), "repository", "x", action) for action in ("pull", "push", "delete"))
    guarded = Access(None, anonymous_pull=True)
    guarded.passwords = object()  # type: ignore[assignment]
    nobody, user = Identity(), Identity("alice")
    token = Identity("alice", {("repository", "x"): {"pull"}})
    rights = [[guarded.allows(who, "repository", "x", action) for action in ("pull", "push", "delete")] for who in (nobody, user, token)]
    assert rights == [[True, False, False], [True, True, True], [True, False, False]]
    assert not guarded.allows(token, "repository", "y", "pull")
    assert not guarded.allows(token, "registry", "catalog", "*")


def test_files_of_users() -> None:
    assert parse_users("# comment\n\nalice:$2y$05$abc\nbob:$2b$12$x\n", "f") == {"alice": "$2y$05$abc", "bob": "$2b$12$x"}
    for line in ("alice", "alice:plain", ":$2y$x", "alice:{SHA}x", "alice:$apr1$x"):
        with pytest.raises(InvalidParameter, match="line 1: not"):
            parse_users(line, "f")


def test_every_error_is_the_specifications_json() -> None:
    for code in STATUS:
        body = Refused(code, "words", detail={"a": 1}).body()
        assert body == {"errors": [{"code": code, "message": "words", "detail": {"a": 1}}]}
    assert refusal_of(OSError(28, "No space left on device")).status == 507
    assert refusal_of(OSError(5, "Input/output error")).status == 500
    assert refusal_of(InvalidParameter("x")).status == 400


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("10", 10), ("2k", 2048), ("1m", 1 << 20), ("3GB", 3 << 30), ("1t", 1 << 40)])
def test_sizes(text: str, size: int) -> None:
    assert options.size_bytes("x", text) == size


def test_options_that_make_no_sense() -> None:
    for text in ("", "-1", "1x", "1.5g", "g"):
        with pytest.raises(InvalidParameter, match="--x"):
            options.size_bytes("x", text)
    for text in ("", "5", "-1s", "soon"):
        with pytest.raises(InvalidParameter, match="--x"):
            options.seconds("x", text)
    assert [size_text(count) for count in (0, 999, 1000, 2_500_000, 3_000_000_000, 4_000_000_000_000)] == ["0 B", "999 B", "1.0 kB", "2.5 MB", "3.0 GB", "4.0 TB"]


# -- manifests and what they say ------------------------------------------------------------------------------


def image(labels: "dict | None" = None, annotations: "dict | None" = None, **config: object) -> "tuple[bytes, dict[str, bytes]]":
    """A manifest, and the blobs it names by digest."""
    raw_config = json.dumps({"os": "linux", "architecture": "arm64", "variant": "v8", "config": {"Labels": labels}, **config}).encode()
    layer = b"layer"
    value = {
        "schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": {"mediaType": media.OCI_CONFIG, "digest": digest_of(raw_config), "size": len(raw_config)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest_of(layer), "size": 5}], "annotations": annotations or {},
    }  # fmt: skip
    return json.dumps(value).encode(), {digest_of(raw_config): raw_config, digest_of(layer): layer}


def test_a_summary_of_an_image_and_an_index() -> None:
    raw, blobs = image({"org.opencontainers.image.description": "from  a\nlabel", "org.opencontainers.image.title": 5})
    found = summaries.summarize(raw, media.OCI_MANIFEST, lambda digest, most: blobs.get(digest))
    assert (found.words, found.platform, [layer.size_bytes for layer in found.layers]) == ("from a label", "linux/arm64/v8", [5])
    raw2, blobs2 = image({"org.opencontainers.image.title": "label"}, {"org.opencontainers.image.title": "annotation"})
    assert summaries.summarize(raw2, media.OCI_MANIFEST, lambda digest, most: blobs2.get(digest)).words == "annotation"
    entry = {"mediaType": media.OCI_MANIFEST, "digest": digest_of(raw), "size": len(raw), "platform": {"os": "linux", "architecture": "arm64"}}
    index = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry, {**entry, "digest": digest_of(b"gone")}]}).encode()
    whole = summaries.summarize(index, media.OCI_INDEX, lambda digest, most: {**blobs, digest_of(raw): raw}.get(digest))
    assert (whole.kind, whole.words, whole.platform, len(whole.images)) == ("index", "from a label", "linux/arm64", 1)


@pytest.mark.parametrize("config", [b"", b"[]", b"{", b'{"config": 5}', b'{"config": {"Labels": []}}', b'{"os": 1, "architecture": []}', b"[" * 100_000])
def test_a_configuration_that_is_none_is_passed_over(config: bytes) -> None:
    raw, _ = image()
    found = summaries.summarize(raw, media.OCI_MANIFEST, lambda digest, most: config)
    assert (found.words, found.platform) == ("", "")


def test_a_pushed_manifest() -> None:
    raw, _ = image(annotations={"a": "b", "n": 1})
    pushed = manifests.parse(raw, media.OCI_MANIFEST)
    assert [len(pushed.blobs), pushed.artifact_type, pushed.annotations] == [2, media.OCI_CONFIG, {"a": "b"}]
    foreign = json.loads(raw)
    foreign["layers"][0].update(mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", urls=["https://example.org/x"])
    assert len(manifests.parse(json.dumps(foreign).encode(), media.OCI_MANIFEST).blobs) == 1
    foreign["layers"][0]["digest"] = "sha512:" + "a" * 128
    with pytest.raises(Refused, match="digests are sha256 here"):
        manifests.parse(json.dumps(foreign).encode(), media.OCI_MANIFEST)
    with pytest.raises(Refused, match="its Content-Type"):
        manifests.parse(raw, media.DOCKER_MANIFEST)
    with pytest.raises(Refused, match="the manifest is not JSON"):
        manifests.parse(b"x", media.OCI_MANIFEST)


# -- storage --------------------------------------------------------------------------------------------------


def test_a_directory_keeps_keys(tmp_path: Path) -> None:
    storage = Directory(f"{tmp_path}/s")
    assert (storage.read("a/b"), storage.stat("a/b"), storage.open("a/b"), storage.delete("a/b"), storage.children("a")) == (None, None, None, False, [])
    storage.write("a/b/c", b"one")
    storage.write("a/b/c", b"two")
    (tmp_path / "file").write_bytes(b"adopted")
    storage.adopt(f"{tmp_path}/file", "a/d")
    assert storage.read("a/b/c") == b"two"
    assert [(entry.name, entry.is_directory, entry.size_bytes) for entry in storage.children("a")] == [("b", True, 0), ("d", False, 7)]
    content = storage.open("a/d")
    assert content
    assert (content.size_bytes, content.read(2, 3)) == (7, b"opt")
    content.close()
    os.utime(f"{tmp_path}/s/a/d", (1, 1))
    storage.touch("a/d")
    found = storage.stat("a/d")
    assert found
    assert found.modified_s > time.time() - 60
    assert storage.delete("a/b/c")
    assert not os.path.exists(f"{tmp_path}/s/a/b")  # empty directories go too
    assert storage.delete("a/d")
    assert storage.children("") == []
    Path(tmp_path, "s/tmp-files/7").write_bytes(b"of one that was killed")
    Directory(f"{tmp_path}/s")
    assert os.listdir(f"{tmp_path}/s/tmp-files") == []


def test_writers_and_removers_of_one_directory_do_not_hurt_each_other(tmp_path: Path) -> None:
    storage = Directory(f"{tmp_path}/s")
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for _ in range(100):
                storage.write(f"deep/er/{name}", b"x")
                assert storage.read(f"deep/er/{name}") == b"x"
                assert storage.delete(f"deep/er/{name}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_upload_from_pieces_and_another_process(tmp_path: Path) -> None:
    uploads = Uploads(f"{tmp_path}/u")
    upload = uploads.begin("a/b")
    upload.append([b"one ", b"two "])
    assert upload.digest() == digest_of(b"one two ")
    upload.cut(4)
    upload.append([b"three"])
    uploads.close()
    again = Uploads(f"{tmp_path}/u")
    found = again.find("a/b", upload.identity)
    found.append([b" four"])
    assert (found.size_bytes, found.digest()) == (14, digest_of(b"one three four"))
    for name, identity in (("a/c", upload.identity), ("a/b", "../../etc"), ("a/b", "0" * 36), ("a/b", "")):
        with pytest.raises(Refused):
            again.find(name, identity)
    assert again.sweep(3600) == 0
    for path in (f"{tmp_path}/u/{upload.identity}/data", f"{tmp_path}/u/{upload.identity}"):
        os.utime(path, (1, 1))
    assert (again.sweep(3600), len(again), os.listdir(f"{tmp_path}/u")) == (1, 0, [])


def test_many_uploads_keep_few_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("berth.registry.server.uploads._MOST_OPEN", 3)
    monkeypatch.setattr("berth.registry.server.uploads._MOST", 10)
    uploads = Uploads(f"{tmp_path}/u")
    made = [uploads.begin("a") for _ in range(10)]
    assert sum(not one.closed for one in made) == 3
    with pytest.raises(Refused, match="10 uploads are under way"):
        uploads.begin("a")
    found = uploads.find("a", made[0].identity)
    found.append([b"still there"])
    assert found.digest() == digest_of(b"still there")
    uploads.end(found)
    uploads.begin("a")
    uploads.close()


def anyone(name: str) -> bool:
    return True


def test_what_a_repository_says_of_itself(tmp_path: Path) -> None:
    contents = Contents(Directory(f"{tmp_path}/s"))
    index = Index(contents)

    def put(name: str, tag: str, raw: bytes, blobs: "dict[str, bytes]") -> str:
        for digest, data in blobs.items():
            (tmp_path / "blob").write_bytes(data)
            contents.add_blob(name, digest, f"{tmp_path}/blob")
        pushed = manifests.parse(raw, media.OCI_MANIFEST)
        contents.put_manifest(name, tag, pushed)
        index.update(name)
        return pushed.document.digest

    digest = put("team/app", "1", *image({"org.opencontainers.image.description": "Serves"}))
    put("team/app", "sha256-x.sig", *image(os="none"))  # a signature says nothing of the image
    assert (index.words("team/app"), index.tags("team/app")) == ("Serves", 2)
    put("apple", "1", *image())
    for _ in range(3):
        index.pulled("apple")
    index.pulled("team/app")
    index.save()
    again = Index(Contents(Directory(f"{tmp_path}/s")))
    again.load()
    assert [(one["name"], one["star_count"]) for one in again.search("app", 10, anyone)] == [("team/app", 1), ("apple", 3)]
    assert [one["name"] for one in again.search("SERVES team", 10, anyone)] == ["team/app"]
    assert again.search("nothing", 10, anyone) == []
    assert [one["is_official"] for one in again.search("", 1, anyone)] == [False]
    for one in contents.manifests("team/app"):
        assert contents.remove_manifest("team/app", f"sha256:{one.name}")
    index.update("team/app")
    assert index.search("team", 10, anyone) == []
    assert not contents.remove_manifest("team/app", digest)
    assert "team" not in [entry.name for entry in contents.storage.children("repositories")] or contents.storage.children("repositories/team/app/_manifests") == []
