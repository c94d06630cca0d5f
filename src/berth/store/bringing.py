"""Images in and out of the store: archives, file systems, committed layers. Layers are unpacked before anything is locked."""

import io
import json
import os
import tarfile
import time
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

from berth.errors import DataLoss
from berth.linux import libc
from berth.oci import platforms
from berth.store import archive, archiveimages, archivewriter, hello
from berth.store.compression import open_stream
from berth.store.layers import Loose
from berth.store.naming import EMPTY_TAR, chain_id, checked_config, tag_name

if TYPE_CHECKING:
    from berth.oci.platforms import Platform
    from berth.store.images import Image, ImageStore, Layer



class Loaded:
    """images: (reference or '', image id) of each; replaced: reference -> the image that had it; passed: what is not for the platform, in words."""

    __slots__ = ("images", "passed", "replaced")

    def __init__(self, passed: list[str]) -> None:
        self.images: list[tuple[str, str]] = []
        self.replaced: dict[str, str] = {}
        self.passed = passed


def load(
    store: "ImageStore", stream: IO[bytes], wanted: "Platform | None" = None, progress: archive.Progress | None = None
) -> Loaded:
    """Reads an image archive; all of it or nothing of an image. NotFound if none of its images is for the platform."""
    found = archive.Archive(store.layers, progress)
    try:
        found.read(stream)
        chosen, passed = archiveimages.choose(archiveimages.images_of(found), wanted)
        loaded = Loaded(passed)
        for item in chosen:
            assert item.open
            raw, layers = item.open()
            names = [tag_name(name) for name in item.names]
            before = {name: there.id for name in names if (there := store.tagged(name))}
            image = add(store, raw, [member.layer() for member in layers], names)
            loaded.replaced |= {name: identity for name, identity in before.items() if identity != image.id}
            loaded.images += [(name, image.id) for name in names or [""]]
        return loaded
    finally:
        found.close()


def import_filesystem(store: "ImageStore", stream: IO[bytes], name: str, message: str, config: dict, platform: "Platform") -> "Image":
    """One layer from the tar of a file system; `config` is the image's `config` section."""
    names = [tag_name(name)] if name else []
    loose = store.layers.unpack(open_stream(stream))
    try:
        created = now()
        document = {
            "architecture": platform.architecture, "os": platform.os, **({"variant": platform.variant} if platform.variant else {}), "created": created,
            "config": config, "rootfs": {"type": "layers", "diff_ids": [loose.diff]},
            "history": [{"created": created, "comment": message}],
        }  # fmt: skip
        return add(store, json.dumps(document).encode(), [loose], names)
    finally:
        store.layers.drop(loose)


def add_layer(
    store: "ImageStore", parent: "Image", path: str, *, config: dict, author: str, comment: str, created_by: str, name: str
) -> "Image":
    """An image of one more layer, the archive at `path`, which is taken over; an empty one makes no layer."""
    try:
        with open(path, "rb") as file:
            loose = store.layers.unpack(file)
    finally:
        os.unlink(path)
    try:
        empty = loose.diff == EMPTY_TAR
        created = now()
        entry = {"created": created, "created_by": created_by, "author": author, "comment": comment}
        diffs = list(parent.config["rootfs"]["diff_ids"])
        document = {
            **{key: parent.config[key] for key in ("architecture", "os", "variant") if key in parent.config},
            "created": created, "author": author, "config": config,
            "rootfs": {"type": "layers", "diff_ids": diffs if empty else [*diffs, loose.diff]},
            "history": [
                *(parent.config.get("history") or []),
                {key: value for key, value in entry.items() if value} | ({"empty_layer": True} if empty else {}),
            ],
        }  # fmt: skip
        layers: list[Loose | None] = [None] * len(diffs) + ([] if empty else [loose])
        return add(store, json.dumps(document).encode(), layers, [tag_name(name)] if name else [], parent.id)
    finally:
        store.layers.drop(loose)


def carry_hello(store: "ImageStore", name: str) -> "Image | None":
    """The image that berth brings along; None on a machine it has no program for."""
    if libc.MACHINE not in hello.ARCHITECTURE:
        return None
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        info = tarfile.TarInfo("hello")
        data = hello.program(libc.MACHINE)
        info.size, info.mode = len(data), 0o755
        tar.addfile(info, io.BytesIO(data))
    config = {"Cmd": ["/hello"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    layer.seek(0)
    return import_filesystem(store, layer, name, "carried by berth", config, platforms.normalize("linux", libc.MACHINE))


def add(store: "ImageStore", raw: bytes, layers: list[Loose | None], names: list[str], parent: str = "") -> "Image":
    """Registers a configuration with its layers, bottom first; None for one that is here already. All or nothing."""
    diffs = checked_config(raw)["rootfs"]["diff_ids"]
    if len(diffs) != len(layers):
        raise DataLoss(f"the image's configuration lists {len(diffs)} layers and the archive has {len(layers)}")
    chains = [""]
    for diff in diffs:
        chains.append(chain_id(chains[-1], diff))
    new: list[Layer] = []
    try:
        with store.holding(chains[1:]):
            for diff, above, chain, loose in zip(diffs, chains, chains[1:], layers, strict=False):
                if loose and loose.diff != diff:
                    raise DataLoss(f"a layer's digest is {loose.diff}, the image's configuration says {diff}")
                if loose and not store.has_layer(chain):
                    new += store.keep_layers([(_own(store, loose), above)])
            return store.add_image(raw, names=names, parent=parent)
    except BaseException:
        store.discard_layers(new)
        raise


def _own(store: "ImageStore", loose: Loose) -> Loose:
    """The same layer twice, in one archive or one image: the second is unpacked from the first."""
    if os.path.isdir(loose.directory):
        return loose
    stream = store.layers.tar(store.chain_of(loose.diff), loose.diff)
    try:
        return store.layers.unpack(stream)
    finally:
        stream.close()


def save(store: "ImageStore", images: Iterable[tuple["Image", list[str]]], out: IO[bytes]) -> None:
    """Writes images, each with the tags to name it by, as an archive. DataLoss, which cuts it off, if a layer has changed."""
    saved = []
    for image, tags in images:
        layers = [
            archivewriter.SavedLayer(layer.diff, store.layers.tar_size_bytes(layer.chain), _opener(store, layer))
            for layer in store.layers_of(image)
        ]
        offered = platforms.of_document(image.config)
        saved.append(archivewriter.Saved(image.raw, offered.as_json() if offered else {}, layers, tags))
    archivewriter.write(saved, out)


def _opener(store: "ImageStore", layer: "Layer") -> archivewriter.Opener:
    return lambda: store.layers.tar(layer.chain, layer.diff)


def now() -> str:
    """With nanoseconds, so that two images made within a second are two, and have an order."""
    now_ns = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ns // 10**9)) + f".{now_ns % 10**9:09d}Z"
