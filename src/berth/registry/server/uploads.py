"""Blobs on their way in: a local file each, which a killed registry finds again, so that its client goes on where it was.

    uploads/UUID/data, uploads/UUID/name
"""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import threading
import time
import uuid
from collections import OrderedDict

from berth.registry.server.refusals import Refused

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PIECE_BYTES = 1 << 20
_MOST_OPEN = 500  # files; the others are opened again when they are wanted
_MOST = 20_000


class Upload:
    """One blob. lock: held by the request that works on it."""

    def __init__(self, identity: str, name: str, directory: str) -> None:
        self.identity = identity
        self.name = name
        self.directory = directory
        self.path = f"{directory}/data"
        self.lock = asyncio.Lock()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.size_bytes = os.fstat(self._fd).st_size
        self._hash = hashlib.sha256()
        self._hashed_bytes = 0

    @property
    def closed(self) -> bool:
        """Whether it has been finished or given up."""
        return self._fd < 0

    def append(self, pieces: list[bytes]) -> None:
        """Blocks."""
        for data in pieces:
            view = memoryview(data)
            while view:
                view = view[os.pwrite(self._fd, view, self.size_bytes + len(data) - len(view)) :]
            if self._hashed_bytes == self.size_bytes:
                self._hash.update(data)
                self._hashed_bytes += len(data)
            self.size_bytes += len(data)

    def cut(self, size_bytes: int) -> None:
        """Forgets what came after `size_bytes`."""
        os.ftruncate(self._fd, size_bytes)
        self.size_bytes = size_bytes
        if self._hashed_bytes > size_bytes:
            self._hash, self._hashed_bytes = hashlib.sha256(), 0

    def digest(self) -> str:
        """Of all that came. Blocks, and reads the file where an earlier process wrote it."""
        while self._hashed_bytes < self.size_bytes:
            data = os.pread(self._fd, _PIECE_BYTES, self._hashed_bytes)
            if not data:
                raise Refused("BLOB_UPLOAD_INVALID", f"upload {self.identity} lost its bytes; start it again")
            self._hash.update(data)
            self._hashed_bytes += len(data)
        return f"sha256:{self._hash.hexdigest()}"

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Uploads:
    """All that are under way. directory: of the local host, made here."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._open: OrderedDict[str, Upload] = OrderedDict()
        self._count = len(os.listdir(directory))
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def begin(self, name: str) -> Upload:
        """Refused if too many have been begun and not ended."""
        if self._count >= _MOST:
            raise Refused("TOOMANYREQUESTS", f"{self._count} uploads are under way: end some, or wait until the collector does")
        identity = str(uuid.uuid4())
        directory = f"{self._directory}/{identity}"
        os.mkdir(directory, 0o700)
        try:
            with open(f"{directory}/name", "w") as file:
                file.write(name)
        except OSError:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        with self._lock:
            self._count += 1
            return self._keep(Upload(identity, name, directory))

    def _keep(self, upload: Upload) -> Upload:
        self._open[upload.identity] = upload
        self._open.move_to_end(upload.identity)
        while len(self._open) > _MOST_OPEN:
            oldest = next((one for one in self._open.values() if not one.lock.locked()), None)
            if oldest is None or oldest is upload:
                break
            del self._open[oldest.identity]
            oldest.close()
        return upload

    def find(self, name: str, identity: str) -> Upload:
        """Refused if there is none, or another repository's."""
        unknown = Refused("BLOB_UPLOAD_UNKNOWN", f"no upload {identity[:80]!r} is under way to {name}; start again with POST")
        if not _ID.fullmatch(identity):
            raise unknown
        with self._lock:
            upload = self._open.get(identity)
            if upload is None:
                directory = f"{self._directory}/{identity}"
                try:
                    with open(f"{directory}/name") as file:
                        upload = Upload(identity, file.read(), directory)
                except FileNotFoundError:
                    raise unknown from None
            self._keep(upload)
        if upload.name != name:
            raise unknown
        return upload

    def end(self, upload: Upload) -> None:
        """Forgets it, and its file if that is still there."""
        with self._lock:
            self._open.pop(upload.identity, None)
            self._count -= 1
        upload.close()
        shutil.rmtree(upload.directory, ignore_errors=True)

    def sweep(self, grace_s: float) -> int:
        """Ends those that nobody has added to for `grace_s`; returns how many."""
        ended = 0
        for identity in os.listdir(self._directory):
            path = f"{self._directory}/{identity}"
            modified_s = time.time()
            for known in (path, f"{path}/data"):
                with contextlib.suppress(OSError):
                    modified_s = os.stat(known).st_mtime
            with self._lock:
                upload = self._open.get(identity)
                if modified_s > time.time() - grace_s or (upload and upload.lock.locked()):
                    continue
                self._open.pop(identity, None)
                self._count -= 1
            if upload:
                upload.close()
            shutil.rmtree(path, ignore_errors=True)
            ended += 1
        return ended

    def close(self) -> None:
        for upload in self._open.values():
            upload.close()
        self._open.clear()
