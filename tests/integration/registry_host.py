"""A registry of the tests' own, `berth registry serve`, and a plain client that sees every byte of its answers."""

import hashlib
import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from harness import REPOSITORY

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Answer:
    def __init__(self, status: int, headers: "http.client.HTTPMessage", body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["errors"][0]["code"])


class RegistryHost:
    """One process with a root of its own. `ask` makes a request; `push` an image; `finish` stops it and removes all."""

    def __init__(self, *options: str, env: "dict[str, str] | None" = None, address: str = "127.0.0.1:0") -> None:
        self.top = tempfile.mkdtemp(prefix="berth-registry-", dir="/var/tmp")
        self.root = f"{self.top}/root"
        self.options, self.env = options, {**os.environ, "PYTHONPATH": f"{REPOSITORY}/src", **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.address = address
        try:
            self.start()
        except BaseException:
            shutil.rmtree(self.top, ignore_errors=True)
            raise

    def start(self) -> None:
        """Starts it, at the address that it had before, and waits until it serves."""
        ready, theirs = os.pipe()
        command = [sys.executable, "-m", "berth.cli", "registry", "serve", "--root", self.root, "--addr", self.address, "--ready-fd", str(theirs)]
        with open(f"{self.top}/log", "ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.options], env=self.env, pass_fds=[theirs], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.top
            )
        os.close(theirs)
        line = os.read(ready, 200).decode().strip()
        os.close(ready)
        if not line:
            self.process.wait(30)
        assert line, f"the registry did not start: {self.log()}"
        self.address = line

    def log(self) -> str:
        with open(f"{self.top}/log", errors="replace") as file:
            return file.read()

    def stop(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log()

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def finish(self) -> None:
        assert self.process
        try:
            if self.process.poll() is None:
                self.stop()
            assert "Traceback" not in self.log(), self.log()
        finally:
            if self.process.poll() is None:
                self.kill()
            shutil.rmtree(self.top)

    def ask(self, method: str, target: str, body: "bytes | Iterator[bytes] | None" = None, headers: "dict[str, str] | None" = None) -> Answer:
        """One request on a connection of its own. target: a path, or a Location."""
        parts = urlsplit(target)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def push_blob(self, name: str, data: bytes) -> str:
        digest = digest_of(data)
        location = self.ask("POST", f"/v2/{name}/blobs/uploads/").headers["Location"]
        answer = self.ask("PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}", data)
        assert answer.status == 201, answer.body
        return digest

    def push(self, name: str, tag: str, *layers: bytes, labels: "dict[str, str] | None" = None, **more: Any) -> str:
        """An image of these layers; returns its manifest's digest. more: further fields of the manifest. tag: '' for by digest."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Labels": labels or {}}, "rootfs": {"type": "layers", "diff_ids": []}})
        entries = []
        for media_type, data in [(OCI_CONFIG, config.encode()), *((OCI_LAYER, layer) for layer in layers)]:
            entries.append({"mediaType": media_type, "digest": self.push_blob(name, data), "size": len(data)})
        manifest = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entries[0], "layers": entries[1:], **more}).encode()
        answer = self.ask("PUT", f"/v2/{name}/manifests/{tag or digest_of(manifest)}", manifest, {"Content-Type": OCI_MANIFEST})
        assert answer.status == 201, answer.body
        return digest_of(manifest)


def write_users(path: str, **users: str) -> str:
    """A password file by Apache's own tool."""
    for name, password in users.items():
        subprocess.run(["htpasswd", "-bB", "-C", "5", *(["-c"] if not os.path.exists(path) else []), path, name, password], check=True, capture_output=True)
    return path


def write_layout(top: str, description: str = "", *, layer: bytes = b"") -> str:
    """An image as an OCI layout for skopeo; returns its directory. One layer, of a file with this content."""
    os.makedirs(f"{top}/blobs/sha256")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("file")
        member.size = len(layer)
        tar.addfile(member, io.BytesIO(layer))
    data = packed.getvalue()
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(data)]},
              "config": {"Labels": {"org.opencontainers.image.description": description} if description else {}}}  # fmt: skip

    def add(media_type: str, raw: bytes) -> "dict[str, object]":
        with open(f"{top}/blobs/sha256/{digest_of(raw)[7:]}", "wb") as file:
            file.write(raw)
        return {"mediaType": media_type, "digest": digest_of(raw), "size": len(raw)}

    entries = [add(OCI_CONFIG, json.dumps(config).encode()), add(OCI_LAYER, data)]
    manifest = add(OCI_MANIFEST, json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entries[0], "layers": entries[1:]}).encode())
    with open(f"{top}/index.json", "w") as file:
        json.dump({"schemaVersion": 2, "manifests": [{**manifest, "annotations": {"org.opencontainers.image.ref.name": "latest"}}]}, file)
    with open(f"{top}/oci-layout", "w") as file:
        json.dump({"imageLayoutVersion": "1.0.0"}, file)
    return top


@contextmanager
def registry_host(*options: str, env: "dict[str, str] | None" = None) -> Iterator[RegistryHost]:
    host = RegistryHost(*options, env=env)
    try:
        yield host
    finally:
        host.finish()
