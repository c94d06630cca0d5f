"""A layer made of an archive that is written while it is unpacked."""

import io
import os
import threading
from collections.abc import Callable
from typing import IO, Any

from berth.errors import Cancelled
from berth.store.images import ImageStore
from berth.store.naming import EMPTY_TAR, chain_id

_PIPE_BYTES = 1 << 20


def make_layer(
    images: ImageStore, parent: str, write: Callable[[IO[bytes]], None], keep: Callable[[str], object], stop: threading.Event | None = None
) -> str:
    """The chain id of a layer over `parent` with what `write` writes, an archive; `parent` itself if that is empty.

    keep: is told the chain id before anybody could remove the layer. stop: ends it as soon as `write` writes again.
    What `write` raises is raised here, and nothing stays.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with os.fdopen(writing, "wb", buffering=0) as pipe, io.BufferedWriter(_Ending(pipe, stop) if stop else pipe, _PIPE_BYTES) as out:
                write(out)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="layer", daemon=True)
    thread.start()
    try:
        with os.fdopen(reading, "rb", buffering=_PIPE_BYTES) as stream:
            loose = images.layers.unpack(stream)
    except BaseException:
        thread.join()
        if failures and not isinstance(failures[0], BrokenPipeError):
            raise failures[0] from None
        raise
    thread.join()
    try:
        if failures:
            raise failures[0]
        if loose.diff == EMPTY_TAR:
            return parent
        chain = chain_id(parent, loose.diff)
        keep(chain)
        images.keep_layers([(loose, parent)])
        return chain
    finally:
        images.layers.drop(loose)


class _Ending(io.RawIOBase):
    """A stream that takes nothing more once nobody wants the whole any more."""

    def __init__(self, out: io.RawIOBase, stop: threading.Event) -> None:
        self._out = out
        self._stop = stop

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        if self._stop.is_set():
            raise Cancelled("the layer is not wanted any more")
        return self._out.write(data)
