"""The points of the OCI distribution specification 1.1, one by one, over a plain socket; and what a hostile client sends."""

import http.client
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from harness import wait_until
from registry_host import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, RegistryHost, digest_of, registry_host


@pytest.fixture(scope="module")
def host() -> Iterator[RegistryHost]:
    with registry_host() as running:
        yield running


def begin(host: RegistryHost, name: str) -> str:
    """The Location of a new upload."""
    answer = host.ask("POST", f"/v2/{name}/blobs/uploads/")
    assert answer.status == 202
    assert answer.headers["Range"] == "0-0"
    assert answer.headers["Docker-Upload-UUID"] in answer.headers["Location"]
    return str(answer.headers["Location"])


def manifest_of(config: bytes, *layers: bytes, **more: object) -> bytes:
    entries = [{"mediaType": kind, "digest": digest_of(data), "size": len(data)}
               for kind, data in [(OCI_CONFIG, config), *((OCI_LAYER, layer) for layer in layers)]]  # fmt: skip
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entries[0], "layers": entries[1:], **more}).encode()


# -- push -------------------------------------------------------------------------------------------------


def test_the_base_says_what_it_is(host: RegistryHost) -> None:
    answer = host.ask("GET", "/v2/")
    assert (answer.status, answer.headers["Docker-Distribution-Api-Version"]) == (200, "registry/2.0")
    assert host.ask("DELETE", "/v2/").status == 405


def test_a_blob_in_one_post(host: RegistryHost) -> None:
    data = b"one post"
    answer = host.ask("POST", f"/v2/spec/post/blobs/uploads/?digest={digest_of(data)}", data)
    assert answer.status == 201
    assert answer.headers["Docker-Content-Digest"] == digest_of(data)
    assert host.ask("GET", answer.headers["Location"]).body == data


def test_a_blob_by_post_and_put(host: RegistryHost) -> None:
    data = b"post and put" * 1000
    location = begin(host, "spec/put")
    answer = host.ask("PUT", f"{location}?digest={digest_of(data)}", data, {"Content-Type": "application/octet-stream"})
    assert answer.status == 201
    assert host.ask("GET", answer.headers["Location"]).body == data
    assert host.ask("GET", location).status == 404  # the upload has ended


def test_a_blob_in_chunks(host: RegistryHost) -> None:
    data = os.urandom(3_000_000)
    location, half = begin(host, "spec/chunks"), 1_700_000
    first = host.ask("PATCH", location, data[:half], {"Content-Range": f"0-{half - 1}", "Content-Type": "application/octet-stream"})
    assert (first.status, first.headers["Range"]) == (202, f"0-{half - 1}")
    now = host.ask("GET", first.headers["Location"])
    assert (now.status, now.headers["Range"]) == (204, f"0-{half - 1}")
    for start in (0, half + 1):  # out of order
        wrong = host.ask("PATCH", first.headers["Location"], data[half:], {"Content-Range": f"{start}-{len(data) - 1}"})
        assert (wrong.status, wrong.headers["Range"]) == (416, f"0-{half - 1}")
    short = host.ask("PATCH", first.headers["Location"], data[half:-1], {"Content-Range": f"{half}-{len(data) - 1}"})
    assert (short.status, short.code) == (400, "SIZE_INVALID")
    assert host.ask("GET", first.headers["Location"]).headers["Range"] == f"0-{half - 1}"
    last = host.ask("PUT", f"{location}?digest={digest_of(data)}", data[half:], {"Content-Range": f"{half}-{len(data) - 1}"})
    assert last.status == 201
    assert host.ask("GET", last.headers["Location"]).body == data


def test_a_blob_streamed_without_a_length(host: RegistryHost) -> None:
    location = begin(host, "spec/stream")
    pieces = [b"a" * 70_000, b"b" * 90_000]
    answer = host.ask("PATCH", location, iter(pieces))
    assert (answer.status, answer.headers["Range"]) == (202, "0-159999")
    assert host.ask("PUT", f"{answer.headers['Location']}?digest={digest_of(b''.join(pieces))}").status == 201


def test_an_upload_is_given_up(host: RegistryHost) -> None:
    location = begin(host, "spec/cancel")
    assert host.ask("DELETE", location).status == 204
    gone = host.ask("PATCH", location, b"x")
    assert (gone.status, gone.code) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_an_upload_is_its_repositorys_own(host: RegistryHost) -> None:
    location = begin(host, "spec/mine")
    assert host.ask("GET", location.replace("spec/mine", "spec/yours")).status == 404
    assert host.ask("GET", location).status == 204


def test_an_upload_survives_a_broken_connection_and_a_kill() -> None:
    data = os.urandom(2_000_000)
    with registry_host() as own:
        location = begin(own, "spec/resume")
        with socket.create_connection(tuple(own.address.split(":")), timeout=30) as sock:  # type: ignore[arg-type]
            sock.sendall(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data[:1_200_000])
        uploads = Path(own.root, "uploads", location.rpartition("/")[2], "data")
        wait_until(lambda: uploads.stat().st_size == 1_200_000, "bytes of the broken upload", 30)
        assert own.ask("GET", location).headers["Range"] == "0-1199999"
        own.kill()
        own.start()
        assert own.ask("GET", location).headers["Range"] == "0-1199999"
        answer = own.ask("PUT", f"{location}?digest={digest_of(data)}", data[1_200_000:], {"Content-Range": "1200000-1999999"})
        assert answer.status == 201
        assert own.ask("GET", answer.headers["Location"]).body == data


def test_a_mount(host: RegistryHost) -> None:
    digest = host.push_blob("spec/source", b"shared bytes")
    answer = host.ask("POST", f"/v2/spec/target/blobs/uploads/?mount={digest}&from=spec/source")
    assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, digest)
    assert host.ask("GET", f"/v2/spec/target/blobs/{digest}").body == b"shared bytes"
    for query in (f"mount={digest}&from=spec/nobody", f"mount={digest}", f"mount={digest_of(b'none')}&from=spec/source", f"mount={digest}&from=.."):
        assert host.ask("POST", f"/v2/spec/target/blobs/uploads/?{query}").status == 202
    assert host.ask("GET", f"/v2/spec/elsewhere/blobs/{digest}").status == 404  # nobody gave it that


# -- pull -------------------------------------------------------------------------------------------------


def test_a_manifest_by_tag_and_digest(host: RegistryHost) -> None:
    digest = host.push("spec/pull", "v1", b"layer")
    for reference in ("v1", digest):
        for method in ("GET", "HEAD"):
            answer = host.ask(method, f"/v2/spec/pull/manifests/{reference}")
            assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, digest)
            assert answer.headers["Content-Type"] == OCI_MANIFEST
            assert int(answer.headers["Content-Length"]) > 0
            assert (digest_of(answer.body) == digest) if method == "GET" else not answer.body
    assert host.ask("GET", "/v2/spec/pull/manifests/v1", headers={"If-None-Match": f'"{digest}"'}).status == 304


def test_what_is_not_there(host: RegistryHost) -> None:
    host.push("spec/there", "v1", b"layer")
    none = digest_of(b"nothing")
    for path, code in [("spec/there/manifests/v2", "MANIFEST_UNKNOWN"), (f"spec/there/manifests/{none}", "MANIFEST_UNKNOWN"),
                       (f"spec/there/blobs/{none}", "BLOB_UNKNOWN"), ("spec/nowhere/manifests/v1", "NAME_UNKNOWN"),
                       ("spec/nowhere/tags/list", "NAME_UNKNOWN")]:  # fmt: skip
        answer = host.ask("GET", f"/v2/{path}")
        assert (answer.status, answer.code) == (404, code)
        assert host.ask("HEAD", f"/v2/{path}").status == 404


@pytest.mark.parametrize(
    ("header", "status", "want"),
    [("bytes=0-3", 206, b"0123"), ("bytes=7-", 206, b"789"), ("bytes=-2", 206, b"89"), ("bytes=8-99", 206, b"89"), ("bytes=10-", 416, None),
     ("bytes=0-1,3-4", 200, b"0123456789"), ("bytes=5-2", 200, b"0123456789"), ("lines=1-2", 200, b"0123456789"), ("bytes=-0", 416, None)],
)  # fmt: skip
def test_ranges_of_a_blob(host: RegistryHost, header: str, status: int, want: "bytes | None") -> None:
    digest = host.push_blob("spec/ranges", b"0123456789")
    answer = host.ask("GET", f"/v2/spec/ranges/blobs/{digest}", headers={"Range": header})
    assert answer.status == status
    if want is None:
        assert answer.headers["Content-Range"] == "bytes */10"
    else:
        assert answer.body == want
    whole = host.ask("HEAD", f"/v2/spec/ranges/blobs/{digest}")
    assert (whole.status, whole.headers["Content-Length"], whole.headers["Accept-Ranges"]) == (200, "10", "bytes")


# -- discovery --------------------------------------------------------------------------------------------


def test_tags_in_pages(host: RegistryHost) -> None:
    for tag in ("b", "a", "C", "d-1"):
        host.push("spec/tags", tag, b"layer")
    assert host.ask("GET", "/v2/spec/tags/tags/list").json == {"name": "spec/tags", "tags": ["C", "a", "b", "d-1"]}
    page = host.ask("GET", "/v2/spec/tags/tags/list?n=3")
    assert page.json["tags"] == ["C", "a", "b"]
    link = page.headers["Link"]
    assert link.endswith('>; rel="next"')
    rest = host.ask("GET", link[1 : link.index(">")])
    assert (rest.json["tags"], rest.headers["Link"]) == (["d-1"], None)
    assert host.ask("GET", "/v2/spec/tags/tags/list?n=0").json["tags"] == []
    assert host.ask("GET", "/v2/spec/tags/tags/list?last=a").json["tags"] == ["b", "d-1"]
    assert host.ask("GET", "/v2/spec/tags/tags/list?n=x").code == "PAGINATION_NUMBER_INVALID"


def test_the_catalog_in_pages() -> None:
    with registry_host() as own:
        assert own.ask("GET", "/v2/_catalog").json == {"repositories": []}
        for name in ("b", "a/b/c", "a"):
            own.push(name, "1", b"x")
        own.push_blob("only/blobs", b"x")
        page = own.ask("GET", "/v2/_catalog?n=2")
        assert page.json == {"repositories": ["a", "a/b/c"]}
        assert own.ask("GET", page.headers["Link"][1:].partition(">")[0]).json == {"repositories": ["b"]}
        own.stop()
        own.start()
        assert own.ask("GET", "/v2/_catalog").json == {"repositories": ["a", "a/b/c", "b"]}


def test_referrers(host: RegistryHost) -> None:
    subject = host.push("spec/refer", "v1", b"layer")
    assert host.ask("GET", f"/v2/spec/refer/referrers/{subject}").json["manifests"] == []
    descriptor = {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1}
    signature = host.push("spec/refer", "", b"sig", subject=descriptor, artifactType="application/x.sig", annotations={"by": "me"})
    bill = host.push("spec/refer", "", b"sbom", subject=descriptor)  # its type is its configuration's
    answer = host.ask("GET", f"/v2/spec/refer/referrers/{subject}")
    assert answer.headers["Content-Type"] == OCI_INDEX
    assert (answer.json["schemaVersion"], answer.json["mediaType"]) == (2, OCI_INDEX)
    by_digest = {entry["digest"]: entry for entry in answer.json["manifests"]}
    assert set(by_digest) == {signature, bill}
    assert by_digest[signature]["artifactType"] == "application/x.sig"
    assert by_digest[signature]["annotations"] == {"by": "me"}
    assert by_digest[bill]["artifactType"] == OCI_CONFIG
    assert answer.headers["OCI-Filters-Applied"] is None
    filtered = host.ask("GET", f"/v2/spec/refer/referrers/{subject}?artifactType=application/x.sig")
    assert [entry["digest"] for entry in filtered.json["manifests"]] == [signature]
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert host.ask("DELETE", f"/v2/spec/refer/manifests/{signature}").status == 202
    assert [entry["digest"] for entry in host.ask("GET", f"/v2/spec/refer/referrers/{subject}").json["manifests"]] == [bill]
    assert host.ask("GET", f"/v2/spec/nowhere/referrers/{subject}").json["manifests"] == []
    assert host.ask("GET", "/v2/spec/refer/referrers/sha256:12").status == 400


def test_a_manifest_with_a_subject_that_comes_later(host: RegistryHost) -> None:
    config = b"{}"
    host.push_blob("spec/later", config)
    missing = digest_of(b"to come")
    raw = manifest_of(config, subject={"mediaType": OCI_MANIFEST, "digest": missing, "size": 7})
    answer = host.ask("PUT", f"/v2/spec/later/manifests/{digest_of(raw)}", raw, {"Content-Type": OCI_MANIFEST})
    assert (answer.status, answer.headers["OCI-Subject"]) == (201, missing)
    assert len(host.ask("GET", f"/v2/spec/later/referrers/{missing}").json["manifests"]) == 1


# -- management -------------------------------------------------------------------------------------------


def test_deleting_a_tag_and_a_manifest(host: RegistryHost) -> None:
    digest = host.push("spec/delete", "one", b"layer")
    host.push("spec/delete", "two", b"layer")
    other = host.push("spec/delete", "three", b"other layer")
    assert host.ask("DELETE", "/v2/spec/delete/manifests/one").status == 202
    assert host.ask("GET", "/v2/spec/delete/manifests/one").status == 404
    assert host.ask("GET", f"/v2/spec/delete/manifests/{digest}").status == 200
    assert host.ask("DELETE", f"/v2/spec/delete/manifests/{digest}").status == 202
    assert host.ask("GET", "/v2/spec/delete/manifests/two").status == 404
    assert host.ask("GET", "/v2/spec/delete/tags/list").json["tags"] == ["three"]
    assert host.ask("DELETE", f"/v2/spec/delete/manifests/{digest}").status == 404
    assert host.ask("DELETE", f"/v2/spec/delete/manifests/{other}").status == 202
    assert "spec/delete" not in host.ask("GET", "/v2/_catalog").json["repositories"]


def test_deleting_a_blob(host: RegistryHost) -> None:
    digest = host.push_blob("spec/blob", b"goes")
    host.push_blob("spec/other", b"goes")
    assert host.ask("DELETE", f"/v2/spec/blob/blobs/{digest}").status == 202
    assert host.ask("HEAD", f"/v2/spec/blob/blobs/{digest}").status == 404
    assert host.ask("DELETE", f"/v2/spec/blob/blobs/{digest}").status == 404
    assert host.ask("GET", f"/v2/spec/other/blobs/{digest}").body == b"goes"


def test_deletes_can_be_forbidden() -> None:
    with registry_host("--no-delete") as own:
        digest = own.push("kept", "1", b"layer")
        answer = own.ask("DELETE", f"/v2/kept/manifests/{digest}")
        assert (answer.status, answer.code) == (405, "UNSUPPORTED")
        assert own.ask("GET", "/v2/kept/manifests/1").status == 200


# -- bad input --------------------------------------------------------------------------------------------


def test_a_wrong_digest_leaves_nothing(host: RegistryHost) -> None:
    wrong = digest_of(b"other")
    answer = host.ask("POST", f"/v2/bad/digest/blobs/uploads/?digest={wrong}", b"bytes")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert host.ask("HEAD", f"/v2/bad/digest/blobs/{wrong}").status == 404
    location = begin(host, "bad/digest")
    assert host.ask("PUT", f"{location}?digest={wrong}", b"bytes").status == 400
    assert host.ask("GET", location).status == 404
    for text in ("sha256:12", "sha512:" + "0" * 128, "md5:x", "../../etc/passwd", ""):
        assert host.ask("PUT", f"{begin(host, 'bad/digest')}?digest={text}", b"bytes").status == 400
    assert not list(Path(host.root, "content/blobs", wrong[7:9]).glob(wrong[7:]))


@pytest.mark.parametrize(
    "name", ["UPPER", "a//b", "a/../b", "../../etc", "a/./b", "_manifests", "a/_tags", "a/b_", "-a", "a" * 256, "a%2f..%2fb", "a%00b", "é", "a/..%2f..%2fb"]
)
def test_names_that_are_none(host: RegistryHost, name: str) -> None:
    answer = host.ask("POST", f"/v2/{quote(name, safe='/%')}/blobs/uploads/")
    assert (answer.status, answer.code) in ((400, "NAME_INVALID"), (404, "UNKNOWN"))
    assert host.ask("GET", f"/v2/{quote(name, safe='/%')}/tags/list").status in (400, 404)


def test_tags_that_are_none(host: RegistryHost) -> None:
    host.push("bad/tags", "v1", b"layer")
    raw = host.ask("GET", "/v2/bad/tags/manifests/v1").body
    for tag in (".hidden", "a" * 129, "-x", "a%20b", "..", "%2e%2e"):
        answer = host.ask("PUT", f"/v2/bad/tags/manifests/{tag}", raw, {"Content-Type": OCI_MANIFEST})
        assert (answer.status, answer.code) == (400, "TAG_INVALID")
        assert host.ask("GET", f"/v2/bad/tags/manifests/{tag}").status == 404
        assert host.ask("DELETE", f"/v2/bad/tags/manifests/{tag}").status == 404


def test_manifests_that_are_refused(host: RegistryHost) -> None:
    config, layer = b"{}", b"layer"
    host.push_blob("bad/manifest", config)
    good = json.loads(manifest_of(config))
    absent = host.ask("PUT", "/v2/bad/manifest/manifests/x", manifest_of(config, layer), {"Content-Type": OCI_MANIFEST})
    assert (absent.status, absent.code) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert digest_of(layer) in absent.json["errors"][0]["message"]
    liar = {**good, "config": {**good["config"], "size": 3}}
    assert host.ask("PUT", "/v2/bad/manifest/manifests/x", json.dumps(liar).encode(), {"Content-Type": OCI_MANIFEST}).code == "SIZE_INVALID"
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{"mediaType": OCI_MANIFEST, "digest": digest_of(b"no"), "size": 2}]}
    assert host.ask("PUT", "/v2/bad/manifest/manifests/x", json.dumps(index).encode(), {"Content-Type": OCI_INDEX}).code == "MANIFEST_BLOB_UNKNOWN"
    for body, content_type in [(b"", OCI_MANIFEST), (b"<html>", OCI_MANIFEST), (b"[]", OCI_MANIFEST), (b"{}", OCI_MANIFEST), (b"[" * 100_000, OCI_MANIFEST),
                               (manifest_of(config), OCI_INDEX), (json.dumps({**good, "manifests": []}).encode(), OCI_MANIFEST),
                               (json.dumps({**good, "layers": "x"}).encode(), OCI_MANIFEST), (b'{"schemaVersion": 1}', OCI_MANIFEST),
                               (json.dumps({**good, "layers": [{"digest": "sha256:../../x", "size": 1}]}).encode(), OCI_MANIFEST)]:  # fmt: skip
        answer = host.ask("PUT", "/v2/bad/manifest/manifests/x", body, {"Content-Type": content_type})
        assert (answer.status, answer.code) == (400, "MANIFEST_INVALID"), body[:60]
    raw = manifest_of(config)
    other = host.ask("PUT", f"/v2/bad/manifest/manifests/{digest_of(b'other')}", raw, {"Content-Type": OCI_MANIFEST})
    assert (other.status, other.code) == (400, "DIGEST_INVALID")
    assert host.ask("GET", "/v2/bad/manifest/manifests/x").status == 404


def test_a_huge_manifest_is_refused_before_it_is_read(host: RegistryHost) -> None:
    size = 4 << 30
    connection = http.client.HTTPConnection(host.address, timeout=60)
    try:
        connection.putrequest("PUT", "/v2/bad/huge/manifests/x")
        connection.putheader("Content-Length", str(size))
        connection.endheaders(b"{" * 1000)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["errors"][0]["code"]) == (413, "MANIFEST_INVALID")
    finally:
        connection.close()
    streamed = host.ask("PUT", "/v2/bad/huge/manifests/x", iter([b" " * (1 << 20)] * 5), {"Content-Type": OCI_MANIFEST})
    assert streamed.status == 413


def test_a_blob_above_the_limit_is_refused() -> None:
    with registry_host("--max-blob-size", "1m") as own:
        answer = own.ask("POST", f"/v2/big/blobs/uploads/?digest={digest_of(b'x')}", b"x" * (1 << 20) + b"y")
        assert (answer.status, answer.code) == (413, "SIZE_INVALID")
        location = begin(own, "big")
        assert own.ask("PATCH", location, b"x" * (1 << 20)).status == 202
        assert own.ask("PATCH", location, b"y").code == "SIZE_INVALID"
        assert own.ask("GET", location).code == "BLOB_UPLOAD_UNKNOWN"
        assert os.listdir(f"{own.root}/uploads") == []
        own.push_blob("big", b"x" * (1 << 20))


@pytest.mark.root
def test_a_full_disk_is_said_and_made_room_on(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)], check=True)
    try:
        with registry_host("--root", f"{tmp_path}/root") as own:
            own.push_blob("full", b"x" * 1_000_000)
            large = iter([b"y" * (1 << 20)] * 12)
            answer = own.ask("PATCH", begin(own, "full"), large, {"Content-Type": "application/octet-stream"})
            assert (answer.status, answer.json["errors"][0]["message"]) == (507, "the registry's disk is full")
            assert os.listdir(f"{tmp_path}/root/uploads") == []
            own.push("full", "1", b"z" * 1_000_000)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_slow_clients_hinder_nobody(host: RegistryHost) -> None:
    digest = host.push_blob("bad/slow", os.urandom(8_000_000))
    address = tuple(host.address.split(":"))
    idle = [socket.create_connection(address, timeout=30) for _ in range(40)]  # type: ignore[arg-type]
    try:
        for sock in idle[:20]:  # those ask for a blob and never read it
            sock.sendall(f"GET /v2/bad/slow/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        for sock in idle[20:]:  # those never finish what they send
            sock.sendall(f"PATCH {begin(host, 'bad/slow')} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc".encode())
        assert len(host.ask("GET", f"/v2/bad/slow/blobs/{digest}").body) == 8_000_000
        host.push("bad/slow", "1", b"layer")
    finally:
        for sock in idle:
            sock.close()


def test_one_upload_by_two_at_once_is_never_mixed(host: RegistryHost) -> None:
    location = begin(host, "bad/two")
    bodies = [b"a" * 3_000_000, b"b" * 3_000_000]
    answers: list[int] = []
    threads = [threading.Thread(target=lambda body=body: answers.append(host.ask("PATCH", location, body).status)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [202, 202]
    data = Path(host.root, "uploads", location.rpartition("/")[2], "data").read_bytes()
    assert data in (bodies[0] + bodies[1], bodies[1] + bodies[0])
    assert host.ask("PUT", f"{location}?digest={digest_of(data)}").status == 201


def test_a_request_for_nothing_known(host: RegistryHost) -> None:
    assert host.ask("GET", "/nothing").status == 404
    assert host.ask("OPTIONS", "/v2/a/tags/list").status == 405
