"""Images: configurations, tags and unpacked layers, shared by chain id. Knows nothing of containers.

The id of an image is the digest of its configuration, as Docker's classic store has it. Records are
kept in memory and in the database; a layer's directory appears by one rename after its bytes have
matched their digest. Not thread-safe by itself: `engine` calls it from one thread at a time.
"""

import hashlib
import io
import json
import os
import tarfile
import threading
import time
from typing import IO

from berth.errors import Conflict, DataLoss, InvalidParameter, NotFound
from berth.linux import libc
from berth.oci import reference
from berth.store import archive, hello
from berth.store import layers as layers_module
from berth.store.compression import open_stream
from berth.store.database import Database, Statement
from berth.store.layout import Layout

_HELLO = "hello:latest"
_EMPTY_TAR = f"sha256:{hashlib.sha256(bytes(1024)).hexdigest()}"


class Layer:
    """chain: identifies the layer with all below it; diff: digest of its tar; blob: digest of what is kept."""

    __slots__ = ("blob", "chain", "diff", "parent", "size_bytes")

    def __init__(self, chain: str, diff: str, parent: str, blob: str, size_bytes: int) -> None:
        self.chain = chain
        self.diff = diff
        self.parent = parent
        self.blob = blob
        self.size_bytes = size_bytes


class Image:
    """config: the parsed configuration; raw: its bytes, whose digest is `id`; chain: of the top layer or ''."""

    __slots__ = ("chain", "config", "id", "raw")

    def __init__(self, identity: str, raw: bytes, chain: str) -> None:
        self.id = identity
        self.raw = raw
        self.chain = chain
        self.config: dict = json.loads(raw)


class ImageStore:
    """All images of one data root."""

    def __init__(self, layout: Layout, database: Database) -> None:
        self.layout = layout
        self._database = database
        self._lock = threading.RLock()
        self._unwritten = layers_module.Unwritten(layout)
        rows = database.read("SELECT chain, diff, parent, blob, size_bytes FROM layers")
        self._layers = {row[0]: Layer(*row) for row in rows}
        self._images = {row[0]: Image(*row) for row in database.read("SELECT id, config, chain FROM images")}
        self._tags: dict[str, str] = dict(database.read("SELECT name, image FROM tags"))
        self._parents: dict[str, str] = dict(database.read("SELECT image, parent FROM parents"))
        self._tagged_ns: dict[str, int] = dict(database.read("SELECT image, at_ns FROM tagged"))

    # -- looking up -------------------------------------------------------------------------------

    def all(self) -> list[Image]:
        """Every image, newest first."""
        return sorted(self._images.values(), key=lambda image: str(image.config.get("created")), reverse=True)

    def names_of(self, identity: str) -> list[str]:
        """The tags of an image, in the order of their full names, as Docker has them."""
        names = [name for name, image in self._tags.items() if image == identity]
        return sorted(names, key=_full_name) if len(names) > 1 else names

    def parent_of(self, identity: str) -> str:
        """The image that this one was committed on; '' for none, or one that is not here any more."""
        parent = self._parents.get(identity, "")
        return parent if parent in self._images else ""

    def children_of(self, identity: str) -> list[str]:
        """Images that were committed on this one."""
        return [image for image, parent in self._parents.items() if parent == identity and image in self._images]

    def tagged_ns(self, identity: str) -> int:
        """When an image last got a name here; 0 for never."""
        return self._tagged_ns.get(identity, 0)

    def find(self, text: str) -> Image:
        """By reference, id or start of an id. Raises NotFound in Docker's words."""
        image = self._by_name(text) or self._by_id(text)
        if image is None and _familiar(text) == _HELLO:
            image = self._carry_hello()
        if image is None:
            raise NotFound(f"No such image: {text if reference.is_image_id(text) else _familiar(text) or text}")
        return image

    def _by_name(self, text: str) -> Image | None:
        try:
            parsed = reference.parse(text)
        except InvalidParameter:
            return None
        if parsed.digest:
            # Only what was pulled has a manifest's digest; an image here is known by its config's.
            return self._images.get(parsed.digest)
        identity = self._tags.get(parsed.familiar)
        return self._images.get(identity) if identity else None

    def _by_id(self, text: str) -> Image | None:
        if not reference.is_image_id(text):
            return None
        wanted = "sha256:" + text.removeprefix("sha256:")
        found = [image for identity, image in self._images.items() if identity.startswith(wanted)]
        if len(found) > 1:
            raise InvalidParameter(f"image id {text!r} is ambiguous: it is the start of {len(found)} ids")
        return found[0] if found else None

    def layers_of(self, image: Image) -> list[Layer]:
        """Bottom first."""
        found = []
        chain = image.chain
        while chain:
            layer = self._layers[chain]
            found.append(layer)
            chain = layer.parent
        return found[::-1]

    def lower_directories(self, image: Image) -> list[str]:
        """Unpacked layers as overlayfs takes them: topmost first."""
        return [self.layout.layer(layer.chain) for layer in reversed(self.layers_of(image))]

    def size_bytes(self, image: Image) -> int:
        """Bytes of files in all layers, shared ones included."""
        return sum(layer.size_bytes for layer in self.layers_of(image))

    # -- changing ---------------------------------------------------------------------------------

    def tag(self, source: str, name: str) -> None:
        """Gives an image one more name; takes the name away from another that had it."""
        familiar = _tag_name(name)
        with self._lock:
            image = self.find(source)
            now_ns = time.time_ns()
            self._database.write_now(*_tag_statements([familiar], image.id, now_ns))
            self._note_tags([familiar], image.id, now_ns)

    def _note_tags(self, names: list[str], identity: str, now_ns: int) -> None:
        self._tags.update(dict.fromkeys(names, identity))
        if names:
            self._tagged_ns[identity] = now_ns

    def remove(self, text: str, *, force: bool, in_use: dict[str, str], prune: bool = True) -> list[dict[str, str]]:
        """Removes a name, and with the last one the image and the layers nothing else uses.

        in_use: image id -> the container that uses it, in words. prune: also those without a name that it was made of.
        Returns Docker's list of {"Untagged": name} and {"Deleted": id}.
        """
        with self._lock:
            image = self.find(text)
            names = self.names_of(image.id)
            by_name = self._by_name(text) is not None and self._tags.get(_familiar(text)) == image.id
            if by_name and len(names) > 1:
                return self._untag([_familiar(text)])
            if not by_name and len(names) > 1 and not force:
                raise Conflict(
                    f"unable to delete {_short(image.id)} (must be forced) - image is referenced in multiple repositories"
                )
            user = in_use.get(image.id)
            if user and not force:
                raise Conflict(
                    f"unable to remove repository reference {text!r} (must force) - {user} is using its referenced image "
                    f"{_short(image.id)}" if by_name else
                    f"unable to delete {_short(image.id)} (must be forced) - image is being used by {user}"
                )  # fmt: skip
            if user:
                if "running" in user:
                    raise Conflict(f"unable to delete {_short(image.id)} (cannot be forced) - image is being used by {user}")
                return self._untag(names)  # the layers stay for as long as the container does
            if self.children_of(image.id):
                if by_name:
                    return self._untag(names)
                raise Conflict(f"unable to delete {_short(image.id)} (cannot be forced) - image has dependent child images")
            doomed = [image]
            parent = self.parent_of(image.id)
            while prune and parent and not (
                self.names_of(parent) or set(self.children_of(parent)) - {doomed[-1].id} or parent in in_use
            ):
                doomed.append(self._images[parent])
                parent = self.parent_of(parent)
            return self._delete(doomed, names)

    def _untag(self, names: list[str]) -> list[dict[str, str]]:
        statements: list[Statement] = [("DELETE FROM tags WHERE name = ?", (name,)) for name in names]
        self._database.write_now(*statements)
        for name in names:
            del self._tags[name]
        return [{"Untagged": name} for name in names]

    def _delete(self, images: list[Image], names: list[str]) -> list[dict[str, str]]:
        """Takes images and their names away at once; files that nothing uses any more after that."""
        used = {layer.chain for other in self._images.values() if other not in images for layer in self.layers_of(other)}
        removed = [{"Untagged": name} for name in names]
        gone: list[Layer] = []
        for number, image in enumerate(images):
            later = {layer.chain for other in images[number + 1 :] for layer in self.layers_of(other)}
            own = [layer for layer in reversed(self.layers_of(image)) if layer.chain not in used | later]
            removed += [{"Deleted": image.id}] + [{"Deleted": layer.chain} for layer in own]
            gone += own
        self._drop(images, names, gone)
        self._remove_files(gone)
        return removed

    def _drop(self, images: list[Image], names: list[str], layers: list[Layer]) -> None:
        """Takes them out of the database, in one transaction, and out of memory."""
        statements: list[Statement] = [("DELETE FROM tags WHERE name = ?", (name,)) for name in names]
        for image in images:
            statements.append(("DELETE FROM images WHERE id = ?", (image.id,)))
            statements += [(f"DELETE FROM {table} WHERE image = ?", (image.id,)) for table in ("parents", "tagged")]
        statements += [("DELETE FROM layers WHERE chain = ?", (layer.chain,)) for layer in layers]
        self._database.write_now(*statements)
        for name in names:
            del self._tags[name]
        for image in images:
            del self._images[image.id]
            self._parents.pop(image.id, None)
            self._tagged_ns.pop(image.id, None)
        for layer in layers:
            del self._layers[layer.chain]

    def _remove_files(self, layers: list[Layer]) -> None:
        blobs = {layer.blob for layer in self._layers.values()}
        for layer in layers:
            layers_module.remove_path(self.layout.layer(layer.chain))
            self._unwritten.discard(layer.chain)
            if layer.blob not in blobs and os.path.exists(self.layout.blob(layer.blob)):
                os.unlink(self.layout.blob(layer.blob))

    # -- bringing in ------------------------------------------------------------------------------

    def load(self, stream: IO[bytes]) -> list[tuple[str, str]]:
        """Reads an image archive. Returns (reference or '', image id) of each; all of it or nothing of an image."""
        with self._lock:
            found = archive.Archive(self.layout)
            try:
                found.read(stream)
                loaded: list[tuple[str, str]] = []
                for item in found.images():
                    names = [_tag_name(name) for name in item.names]
                    image = self._add(item.config, [(member.path, member.digest) for member in item.layers], names)
                    loaded += [(name, image.id) for name in names or [""]]
                return loaded
            finally:
                found.close()

    def import_filesystem(self, stream: IO[bytes], name: str, message: str, config: dict, machine: str) -> Image:
        """One layer from the tar of a file system; `config` is the image's `config` section."""
        names = [_tag_name(name)] if name else []
        with self._lock:
            path, digest, _ = self.layout.spool(stream)
            try:
                with open(path, "rb") as file:
                    diff = _digest_of(open_stream(file))
                created = _now()
                document = {
                    "architecture": hello.ARCHITECTURE.get(machine, machine), "os": "linux", "created": created,
                    "config": config, "rootfs": {"type": "layers", "diff_ids": [diff]},
                    "history": [{"created": created, "comment": message}],
                }  # fmt: skip
                return self._add(json.dumps(document).encode(), [(path, digest)], names)
            finally:
                if os.path.exists(path):
                    os.unlink(path)

    def add_layer(
        self, parent: Image, path: str, *, config: dict, author: str, comment: str, created_by: str, name: str
    ) -> Image:
        """An image of one more layer, the archive at `path`, which is taken over; an empty one makes no layer."""
        with self._lock:
            try:
                with open(path, "rb") as file:
                    digest = _digest_of(file)
                    os.fsync(file.fileno())
                empty = digest == _EMPTY_TAR
                created = _now()
                entry = {"created": created, "created_by": created_by, "author": author, "comment": comment}
                diffs = list(parent.config["rootfs"]["diff_ids"])
                document = {
                    **{key: parent.config[key] for key in ("architecture", "os", "variant") if key in parent.config},
                    "created": created, "author": author, "config": config,
                    "rootfs": {"type": "layers", "diff_ids": diffs if empty else [*diffs, digest]},
                    "history": [
                        *(parent.config.get("history") or []),
                        {key: value for key, value in entry.items() if value} | ({"empty_layer": True} if empty else {}),
                    ],
                }  # fmt: skip
                layers = [("", "")] * len(diffs) + ([] if empty else [(path, digest)])  # the parent's are here already
                return self._add(json.dumps(document).encode(), layers, [_tag_name(name)] if name else [], parent.id)
            finally:
                if os.path.exists(path):
                    os.unlink(path)

    def _carry_hello(self) -> Image | None:
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
        return self.import_filesystem(layer, _HELLO, "carried by berth", config, libc.MACHINE)

    def _add(self, raw: bytes, layers: list[tuple[str, str]], names: list[str], parent_image: str = "") -> Image:
        """Registers a configuration with its layers, (path of a spooled blob, its digest), bottom first, and its names."""
        config = _checked_config(raw)
        diffs = config["rootfs"]["diff_ids"]
        if len(diffs) != len(layers):
            raise DataLoss(f"the image's configuration lists {len(diffs)} layers and the archive has {len(layers)}")
        chain = ""
        new: list[Layer] = []
        try:
            for diff, (path, digest) in zip(diffs, layers, strict=True):
                parent, chain = chain, _chain_id(chain, diff)
                if chain not in self._layers and chain not in {layer.chain for layer in new}:
                    new.append(self._unpack(chain, diff, parent, path, digest))
            identity = f"sha256:{hashlib.sha256(raw).hexdigest()}"
            statements: list[Statement] = [
                ("INSERT OR REPLACE INTO layers VALUES (?, ?, ?, ?, ?)", (l.chain, l.diff, l.parent, l.blob, l.size_bytes))
                for l in new
            ]
            statements.append(("INSERT OR REPLACE INTO images VALUES (?, ?, ?)", (identity, raw, chain)))
            if parent_image:
                statements.append(("INSERT OR REPLACE INTO parents VALUES (?, ?)", (identity, parent_image)))
            now_ns = time.time_ns()
            statements += _tag_statements(names, identity, now_ns)
            self._database.write_now(*statements)
        except BaseException:
            self._remove_files(new)
            raise
        self._layers.update({layer.chain: layer for layer in new})
        image = Image(identity, raw, chain)
        self._images[identity] = image
        if parent_image:
            self._parents[identity] = parent_image
        self._note_tags(names, identity, now_ns)
        return image

    def _unpack(self, chain: str, diff: str, parent: str, path: str, digest: str) -> Layer:
        size_bytes = layers_module.unpack(self.layout, chain, diff, path)
        if os.path.exists(path):
            self.layout.keep_blob(path, digest)
        self._unwritten.add(chain)
        return Layer(chain, diff, parent, digest, size_bytes)

    # -- taking out -------------------------------------------------------------------------------

    def save(self, names: list[str], out: IO[bytes]) -> None:
        """Writes images as an archive; a name without tag stands for all its tags."""
        chosen: dict[str, list[str]] = {}
        for name in names:
            for tag, identity in self.saved_names(name):
                tags = chosen.setdefault(identity, [])
                if tag and tag not in tags:
                    tags.append(tag)
        saved = []
        for identity, tags in chosen.items():
            image = self._images[identity]
            layers = [(layer.diff, self.layout.blob(layer.blob)) for layer in self.layers_of(image)]
            saved.append(archive.Saved(image.raw, layers, tags))
        archive.write(saved, out, self.layout)

    def saved_names(self, name: str) -> list[tuple[str, str]]:
        """What `name` means to `save`: (tag or '', image id) of each; NotFound if nothing."""
        try:
            bare = reference.parse(name, default_tag="")
        except InvalidParameter:
            bare = None
        if bare and not bare.tag and not bare.digest:
            prefix = f"{bare.familiar_name}:"
            found = [(tag, identity) for tag, identity in self._tags.items() if tag.startswith(prefix)]
            if found:
                return found
        image = self.find(name)
        familiar = _familiar(name)
        return [(familiar if self._tags.get(familiar) == image.id else "", image.id)]

    # -- start-up ---------------------------------------------------------------------------------

    def reconcile(self) -> list[str]:
        """Makes disk and database agree after a crash; returns what was mended, in words."""
        unfinished = self.layout.empty_tmp()
        mended = [f"{unfinished} unfinished files in {self.layout.tmp} are removed"] if unfinished else []
        mended += self._unpack_anew()
        for image in list(self._images.values()):
            if reason := self._lack(image):
                self._drop([image], self.names_of(image.id), [])
                mended.append(f"image {_short(image.id)} is dropped: {reason}; load or import it again")
        dangling = [name for name, identity in self._tags.items() if identity not in self._images]
        if dangling:
            self._untag(dangling)
            mended.append(f"tags of images that are not there: {', '.join(dangling)}")
        used = {layer.chain for image in self._images.values() for layer in self.layers_of(image)}
        for chain in [chain for chain in self._layers if chain not in used]:
            self._database.write_now(("DELETE FROM layers WHERE chain = ?", (chain,)))
            del self._layers[chain]
        chains = {chain.removeprefix("sha256:") for chain in self._layers}
        blobs = {layer.blob.removeprefix("sha256:") for layer in self._layers.values()}
        return mended + self._clear(self.layout.layers, chains, "layer") + self._clear(self.layout.content, blobs, "blob")

    def _unpack_anew(self) -> list[str]:
        """Layers whose directories are gone or may lack bytes, from their blobs."""
        unwritten = self._unwritten.of_earlier_boots()
        mended = []
        for chain, layer in self._layers.items():
            gone = not os.path.isdir(self.layout.layer(chain))
            if not gone and chain not in unwritten:
                continue
            reason = "its directory was gone" if gone else "the host ended before its files must have been on disk"
            try:
                layers_module.unpack(self.layout, chain, layer.diff, self.layout.blob(layer.blob))
            except (OSError, DataLoss) as error:
                mended.append(f"layer {_short(chain)} cannot be unpacked again ({error}), though {reason}")
                continue
            self._unwritten.add(chain)
            mended.append(f"layer {_short(chain)} is unpacked again: {reason}")
        for chain in unwritten:
            self._unwritten.forget(chain)
        return mended

    def _lack(self, image: Image) -> str:
        """What an image needs and does not have, or ''."""
        if f"sha256:{hashlib.sha256(image.raw).hexdigest()}" != image.id:
            return "its configuration is damaged"
        chain = image.chain
        while chain:
            layer = self._layers.get(chain)
            if layer is None or not os.path.isdir(self.layout.layer(chain)):
                return f"layer {_short(chain)} is gone"
            chain = layer.parent
        return ""

    def _clear(self, directory: str, known: set[str], word: str) -> list[str]:
        """Removes what no image uses; keeps it where its record may be one of those lost."""
        mended = []
        for name in os.listdir(directory):
            if name not in known and self._database.incomplete:
                mended.append(f"{word} {name[:12]} is in no record: kept in {self.layout.put_aside(f'{directory}/{name}')}")
            elif name not in known:
                layers_module.remove_path(f"{directory}/{name}")
                mended.append(f"{word} {name[:12]} is removed: no image uses it")
        return mended


def _now() -> str:
    """With nanoseconds, so that two images made within a second are two, and have an order."""
    now_ns = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ns // 10**9)) + f".{now_ns % 10**9:09d}Z"


def _full_name(name: str) -> str:
    parsed = reference.parse(name)
    return f"{parsed.registry}/{parsed.repository}:{parsed.tag}"


def _tag_name(name: str) -> str:
    parsed = reference.parse(name)
    if parsed.digest:
        raise InvalidParameter(f"refusing to create a tag with a digest reference: {name!r}")
    return parsed.familiar


def _tag_statements(names: list[str], identity: str, now_ns: int) -> list[Statement]:
    statements: list[Statement] = [("INSERT OR REPLACE INTO tags VALUES (?, ?)", (name, identity)) for name in names]
    return [*statements, ("INSERT OR REPLACE INTO tagged VALUES (?, ?)", (identity, now_ns))] if names else []


def _familiar(text: str) -> str:
    try:
        return reference.parse(text).familiar
    except InvalidParameter:
        return ""


def _short(identity: str) -> str:
    return identity.removeprefix("sha256:")[:12]


def _chain_id(parent: str, diff: str) -> str:
    """OCI image specification, config.md#layer-chainid."""
    return diff if not parent else f"sha256:{hashlib.sha256(f'{parent} {diff}'.encode()).hexdigest()}"


def _digest_of(stream: IO[bytes]) -> str:
    hasher = hashlib.sha256()
    try:
        while data := stream.read(1 << 20):
            hasher.update(data)
    except Exception as error:
        raise DataLoss(f"the archive is cut off or damaged: {error}") from error
    return f"sha256:{hasher.hexdigest()}"


def _checked_config(raw: bytes) -> dict:
    try:
        config = json.loads(raw)
        diffs = config["rootfs"]["diff_ids"]
        good = isinstance(diffs, list) and all(isinstance(d, str) and reference.is_digest(d) for d in diffs)
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise DataLoss("the image's configuration is not JSON with a list of digests at rootfs.diff_ids")
    return dict(config)
