"""A storage in S3 or what speaks like it, through obstore. An object appears whole or not at all; S3 sees to that."""

import importlib
import os
import time
from datetime import timedelta
from typing import Any

from berth.errors import InvalidParameter, Unavailable
from berth.registry.server.extras import need
from berth.registry.server.storage import Content, Entry

_PART_BYTES = 16 << 20
_TOUCHED = "touched"
_FORGOTTEN_AFTER_S = 7 * 24 * 3600.0


def bucket(url: str, endpoint: str, region: str) -> "Bucket":
    """url: s3://BUCKET/PREFIX. Credentials come from the environment, as with Amazon's tools. Raises BerthError where it is not there."""
    obstore = need("obstore", "s3", "--s3")
    name, _, prefix = url.removeprefix("s3://").partition("/")
    if not name:
        raise InvalidParameter(f"--s3 {url!r}: give s3://BUCKET or s3://BUCKET/PREFIX")
    stores = importlib.import_module("obstore.store")
    config: dict[str, Any] = {"region": region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"}
    if endpoint:
        config["endpoint"] = endpoint
        config["virtual_hosted_style_request"] = False
    store = stores.S3Store(
        name, prefix=prefix.strip("/") or None, config=config,
        client_options={"allow_http": endpoint.startswith("http://"), "timeout": timedelta(seconds=120), "connect_timeout": timedelta(seconds=5)},
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
    )  # fmt: skip
    return Bucket(obstore, store, url)


class Bucket:
    """obstore's functions on one bucket; a fault of the service is Unavailable."""

    def __init__(self, obstore: Any, store: Any, url: str) -> None:
        self._obstore = obstore
        self._store = store
        self._url = url
        self._errors = obstore.exceptions
        self._touched: dict[str, float] = {}
        self._load_touched()  # a wrong name or key is better known now

    def _fault(self, error: Exception) -> Unavailable:
        return Unavailable(f"{self._url}: {str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__}")

    def read(self, key: str) -> bytes | None:
        try:
            return bytes(self._obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            return None
        except self._errors.BaseError as error:
            raise self._fault(error) from None

    def write(self, key: str, data: bytes) -> None:
        try:
            self._obstore.put(self._store, key, data or b"\n")  # some refuse an empty body; a link's content is nobody's
        except self._errors.BaseError as error:
            raise self._fault(error) from None

    def adopt(self, path: str, key: str) -> None:
        try:
            with open(path, "rb") as file:
                self._obstore.put(self._store, key, file, chunk_size=_PART_BYTES, max_concurrency=4)
        except self._errors.BaseError as error:
            raise self._fault(error) from None
        os.unlink(path)

    def open(self, key: str) -> Content | None:
        found = self.stat(key)
        return _Object(self, key, found.size_bytes) if found else None

    def range(self, key: str, offset: int, size: int) -> bytes:
        try:
            return bytes(self._obstore.get_range(self._store, key, start=offset, length=size)) if size else b""
        except self._errors.BaseError as error:
            raise self._fault(error) from None
        except FileNotFoundError:
            return b""

    def stat(self, key: str) -> Entry | None:
        try:
            found = self._obstore.head(self._store, key)
        except FileNotFoundError:
            return None
        except self._errors.BaseError as error:
            raise self._fault(error) from None
        modified_s = max(found["last_modified"].timestamp(), self._touched.get(key, 0.0))
        return Entry(key.rpartition("/")[2], size_bytes=found["size"], modified_s=modified_s)

    def touch(self, key: str) -> None:
        """An object's own time cannot be changed: a marker beside it, and one in memory, say when it was used."""
        self.write(f"{_TOUCHED}/{key}", b"")
        self._touched[key] = time.time()

    def _load_touched(self, prefix: str = _TOUCHED) -> None:
        """Of earlier processes; old ones have served their time."""
        for entry in self.children(prefix):
            path = f"{prefix}/{entry.name}"
            if entry.is_directory:
                self._load_touched(path)
            elif entry.modified_s < time.time() - _FORGOTTEN_AFTER_S:
                self.delete(path)
            else:
                self._touched[path.removeprefix(f"{_TOUCHED}/")] = entry.modified_s

    def delete(self, key: str) -> bool:
        there = self.stat(key) is not None
        try:
            self._obstore.delete(self._store, key)
        except FileNotFoundError:
            return False
        except self._errors.BaseError as error:
            raise self._fault(error) from None
        return there

    def children(self, prefix: str) -> list[Entry]:
        try:
            found = self._obstore.list_with_delimiter(self._store, prefix)
        except self._errors.BaseError as error:
            raise self._fault(error) from None
        entries = [Entry(path.rstrip("/").rpartition("/")[2], is_directory=True) for path in found["common_prefixes"]]
        for one in found["objects"]:
            entries.append(Entry(one["path"].rpartition("/")[2], size_bytes=one["size"], modified_s=one["last_modified"].timestamp()))
        return sorted(entries, key=lambda entry: entry.name)


class _Object:
    descriptor = -1

    def __init__(self, bucket: Bucket, key: str, size_bytes: int) -> None:
        self._bucket, self._key, self.size_bytes = bucket, key, size_bytes

    def read(self, offset: int, size: int) -> bytes:
        return self._bucket.range(self._key, offset, size)

    def close(self) -> None:
        pass
