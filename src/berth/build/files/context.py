"""A build context: a directory of the engine, held by a descriptor, filled by a client's archive, a Git repository or a download."""

import os
import ssl
from collections.abc import Mapping
from threading import Event
from typing import IO

from berth.build.files.archives import is_archive
from berth.build.files.checksum import ChecksumCache
from berth.build.files.cloning import Access, Git
from berth.build.files.fetching import fetch, shown
from berth.build.files.git import parse
from berth.build.files.ignore import Ignore
from berth.build.files.places import cleaned
from berth.errors import Cancelled, InvalidParameter
from berth.store.compression import Readable, open_stream
from berth.store.refreshing import Refresher
from berth.store.tar import DIRECTORY, Entry
from berth.store.unpacking import Limits, Unpacker

_DOWNLOAD = ".berth-download"
_MOST_DOCKERFILE_BYTES = 16 << 20
_LIMITS = Limits()  # a layer of more would be refused, too


class Directory:
    """Owns a descriptor of a directory."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> "Directory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Wanted:
    """A stream that breaks off once nobody wants what is made of it."""

    def __init__(self, stream: Readable, stop: Event) -> None:
        self._stream = stream
        self._stop = stop

    def read(self, size: int, /) -> bytes:
        if self._stop.is_set():
            raise Cancelled("the build context is not wanted any more")
        return self._stream.read(size)


def receive_tar(
    stream: IO[bytes], into: str, ignore: Ignore | None = None, *, cache: ChecksumCache | None = None, stop: Event | None = None
) -> None:
    """Unpacks a client's archive, compressed or not, in the directory `into`, which is empty. All belongs to root, as Docker has it.

    cache: is told the digests of the files, so that nobody has to read them again for `content_digest`. stop: ends it, Cancelled.
    InvalidParameter or DataLoss for an archive that is none or means harm; what is there by then stays for the caller to remove.
    """
    with Directory(into) as top:
        skip = (lambda entry: _is_hidden(ignore, entry)) if ignore else None
        unpacker = Unpacker(
            top.fd, whiteouts=False, base="/", ids=lambda uid, gid: (0, 0), limits=_LIMITS, skip=skip, hashed=cache.put_new if cache else None,
            open_end=True,
        )  # fmt: skip
        unpacker.unpack(_Wanted(open_stream(stream), stop or Event()), lambda data: None)


def refresh_tar(stream: IO[bytes], top_fd: int, stop: Event | None = None) -> int:
    """The same in a directory that may have anything in it, of which stays what the archive has, too -> bytes of its files.

    Nobody else may change the directory meanwhile. After an error it is good for the next archive.
    """
    refresher = Refresher(top_fd, ids=lambda uid, gid: (0, 0), limits=_LIMITS, open_end=True)
    refresher.unpack(_Wanted(open_stream(stream), stop or Event()), lambda data: None)
    return refresher.size_bytes


def _is_hidden(ignore: Ignore, entry: Entry) -> bool:
    path = cleaned(entry.name)
    return bool(path) and ignore.ignores(path) and not (entry.kind == DIRECTORY and ignore.may_contain(path))


def from_git(
    url: str, into: str, *, environment: Mapping[str, str] | None = None, access: Access | None = None, stop: Event | None = None
) -> str:
    """Checks `url#ref:subdirectory` out in the directory `into`, which is empty -> the commit. Of its history nothing is kept."""
    repository = parse(url)
    git = Git(repository, environment=environment, access=access, stop=stop)
    return git.checkout(into, keep_git=bool(repository.keep_git))


def dockerfile_from_url(
    url: str, into: str, *, environment: Mapping[str, str] | None = None, stop: Event | None = None, tls: ssl.SSLContext | None = None
) -> bytes:
    """Downloads a Dockerfile by way of the directory `into`. TooLarge, as soon as that is known; InvalidParameter for an archive."""
    fetched = fetch(url, into=f"{into}/{_DOWNLOAD}", environment=environment, most_bytes=_MOST_DOCKERFILE_BYTES, stop=stop, tls=tls)
    with open(fetched.path, "rb") as file:
        if is_archive(file.fileno()):
            raise InvalidParameter(f"{shown(url)} is an archive and no Dockerfile: name it as the context, and the Dockerfile in it with --file")
        return file.read()


def from_url(
    url: str, into: str, *, environment: Mapping[str, str] | None = None, stop: Event | None = None, tls: ssl.SSLContext | None = None
) -> str:
    """Downloads an archive, which is unpacked in the directory `into`, or else a Dockerfile, which is put there -> the digest of the download.

    What it is is told by what it holds.
    """
    scratch = f"{into}/{_DOWNLOAD}"
    fetched = fetch(url, into=scratch, environment=environment, stop=stop, tls=tls)
    with open(fetched.path, "rb") as file:
        os.unlink(fetched.path)
        if is_archive(file.fileno()):
            receive_tar(file, into, stop=stop)
            return fetched.digest
        if os.fstat(file.fileno()).st_size > _MOST_DOCKERFILE_BYTES:
            raise InvalidParameter(f"{shown(url)} is no tar archive, and too large for a Dockerfile")
        with open(f"{into}/Dockerfile", "xb") as dockerfile:
            dockerfile.write(file.read())
        return fetched.digest
