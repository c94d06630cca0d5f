"""A build context: a directory of the engine, held by a descriptor, filled by a client's archive, a Git repository or a download."""

import os
from typing import IO

from berth.build.files.ignore import Ignore
from berth.store.compression import open_stream
from berth.store.unpacking import Limits, Unpacker

_LIMITS = Limits(entries=2_000_000, directories=800_000)


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


def receive_tar(stream: IO[bytes], into: str, ignore: Ignore | None = None) -> None:
    """Unpacks a client's archive, compressed or not, in the directory `into`, which is empty. All belongs to root, as Docker has it.

    InvalidParameter or DataLoss for an archive that is none or means harm; what is there by then stays for the caller to remove.
    """
    with Directory(into) as top:
        unpacker = Unpacker(top.fd, whiteouts=False, base="/", ids=lambda uid, gid: (0, 0), limits=_LIMITS)
        unpacker.unpack(open_stream(stream), lambda data: None)
