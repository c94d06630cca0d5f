"""A store of layers for tests."""

import hashlib
import io
from pathlib import Path

from berth.store.layers import LayerStore
from berth.store.layout import Layout
from berth.store.unpacking import Limits


class Store:
    """A data root of its own, and what a second look at the disk says of it."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self.layout = Layout(str(path))
        self.layers = LayerStore(self.layout, limits)
        self.path = path

    def add(self, data: bytes, number: int = 0) -> str:
        """Unpacks and names; the chain id."""
        loose = self.layers.unpack(io.BytesIO(data))
        assert loose.diff == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert loose.tar_bytes == len(data)
        chain = f"sha256:{number:064x}"
        self.layers.name(loose, chain)
        return chain

    def again(self, chain: str, data: bytes) -> bytes:
        stream = self.layers.tar(chain, f"sha256:{hashlib.sha256(data).hexdigest()}")
        try:
            return stream.read()
        finally:
            stream.close()

    def file(self, chain: str, name: str) -> Path:
        return Path(self.layout.layer(chain)) / name

    def opened_again(self) -> "Store":
        """As the next engine finds it."""
        return Store(self.path)

    def close(self) -> None:
        self.layers.close()

    def files(self) -> list[str]:
        """Everything below the data root that is no directory, once what was removed is gone."""
        self.layers.wait_until_removed()
        return sorted(str(item.relative_to(self.path)) for item in self.path.rglob("*") if not item.is_dir() or item.is_symlink())
