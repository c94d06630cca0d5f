"""Which images an archive holds, and which of them are meant: docker-archive (`manifest.json`) or OCI layout (`index.json`).

An index may offer one image for several platforms. Of what is not brought in nothing has to be there: archives of one
platform keep the index of all.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from berth.errors import DataLoss, InvalidParameter, NotFound
from berth.oci import platforms
from berth.oci.digest import is_sha256
from berth.oci.platforms import Platform
from berth.store.archive import Archive, Member, clean, parse

_INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MAX_DESCRIPTORS = 10_000  # however indexes lead to each other
_ATTESTATION = "vnd.docker.reference.type"

Content = tuple[bytes, list[Member]]


class ArchivedImage:
    """platform: None where nothing says so; names: references to tag; open: its configuration and layers, bottom first.

    DataLoss of `open`: a digest is wrong, or something is missing. None for an image that is listed and not in the archive.
    """

    __slots__ = ("names", "open", "platform")

    def __init__(self, platform: Platform | None, names: list[str], open: Callable[[], Content] | None) -> None:
        self.platform = platform
        self.names = names
        self.open = open


Group = list[ArchivedImage]  # one image, for each of these platforms


def images_of(archive: Archive) -> list[Group]:
    """InvalidParameter where it is no image archive; DataLoss where its documents are damaged."""
    layout = _Layout(archive)
    if "manifest.json" in archive and not layout.has_indexes():  # which Docker's own file does not know of
        return [[_docker_image(archive, item)] for item in _objects(archive.json("manifest.json", list), "manifest.json")]
    if "index.json" in archive:
        if groups := layout.groups():
            return groups
        raise InvalidParameter("the archive's index.json lists no image")
    raise InvalidParameter(
        "the archive has neither manifest.json (docker save) nor index.json (OCI layout) in it; "
        "use import for the archive of a file system"
    )


def choose(groups: list[Group], wanted: Platform | None) -> tuple[list[ArchivedImage], list[str]]:
    """The images to bring in, and of those passed over why. NotFound if none is for the platform.

    wanted: None for this machine's, where there is a choice; what is offered for one platform alone is taken as it is.
    """
    found: list[ArchivedImage] = []
    passed: list[str] = []
    for group in groups:
        here = [one for one in group if one.open]
        index = platforms.choose(wanted or platforms.host(), [one.platform for one in here])
        if index is None and len(here) == 1 and (wanted is None or here[0].platform is None):
            index = 0
        if index is not None:
            found.append(here[index])
            continue
        if here and wanted is None:
            raise NotFound(f"{_offer(group)}, not for this machine's {platforms.host()}: choose one with --platform")
        passed.append(_offer(group))
    if passed and not found:
        asked = f"for {wanted}" if wanted else "whole"
        raise NotFound(f"no image of the archive is {asked}: {'; '.join(passed)}")
    return found, passed


def _offer(group: Group) -> str:
    here, left_out = (
        " and ".join(sorted(str(one.platform or "an unknown platform") for one in group if bool(one.open) == there)) for there in (True, False)
    )
    name = ", ".join(group[0].names) or "an image without a name"
    if not here:
        return f"{name} is listed for {left_out}, and not in the archive"
    return f"{name} is for {here}" + (f" (listed for {left_out}, which is not in the archive)" if left_out else "")


# -- docker-archive -----------------------------------------------------------------------------------


def _docker_image(archive: Archive, item: dict) -> ArchivedImage:
    config, layers, names = item.get("Config"), item.get("Layers"), item.get("RepoTags") or []
    if not isinstance(config, str) or not isinstance(layers, list) or not _is_texts(layers):
        raise InvalidParameter("manifest.json in the archive has an entry without Config and Layers")
    if not _is_texts(names):
        raise InvalidParameter("manifest.json in the archive has an entry whose RepoTags are no list of names")
    raw = archive.read_bytes(clean(config))
    if config.startswith("blobs/sha256/"):
        _verify(raw, f"sha256:{config.removeprefix('blobs/sha256/')}")
    return ArchivedImage(_platform_of(raw, config), names, lambda: (raw, [archive.member(clean(name)) for name in layers]))


# -- OCI layout ---------------------------------------------------------------------------------------


class _Layout:
    """The index of an OCI layout, and those that it leads to."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._left = _MAX_DESCRIPTORS

    def has_indexes(self) -> bool:
        """Whether an image is offered for several platforms."""
        if "index.json" not in self._archive:
            return False
        return any(descriptor.get("mediaType") in _INDEX_TYPES for descriptor in self._top())

    def _top(self) -> list[dict]:
        return _manifests(self._archive.json("index.json", dict), "index.json")

    def groups(self) -> list[Group]:
        """An index is one image. So are manifests side by side that have one name, or none, and a platform each."""
        found: list[Group] = []
        beside: dict[str, list[Group]] = {}
        for descriptor in self._top():
            names = _names(descriptor)
            group = self._images(descriptor, names, [])
            alike = beside.setdefault(" ".join(names), []) if descriptor.get("platform") and len(group) == 1 else []
            other = next((one for one in alike if group[0].platform not in [image.platform for image in one]), None)
            if other is not None:
                other += group
            elif group:
                alike.append(group)
                found.append(group)
        return found

    def _images(self, descriptor: dict, names: list[str], seen: list[str]) -> Group:
        self._left -= 1
        if self._left < 0:
            raise DataLoss(f"the archive's indexes lead to more than {_MAX_DESCRIPTORS} manifests: refused")
        digest = _text(descriptor, "digest", "a descriptor")
        if digest in seen:
            raise DataLoss(f"the archive's index {digest} contains itself")
        platform = platforms.of_document(descriptor.get("platform"))
        if (platform and platform.os == "unknown") or _ATTESTATION in _object(descriptor, "annotations"):
            return []  # said about an image, not one
        if seen and _blob_name(digest) not in self._archive:
            return [ArchivedImage(platform, names, None)]
        document = parse(_blob(self._archive, digest), digest, dict)
        if (descriptor.get("mediaType") or document.get("mediaType")) in _INDEX_TYPES:
            inner = [(one, self._images(one, names, [*seen, digest])) for one in _manifests(document, digest)]
            return [image for _, images in inner for image in images]
        if "config" not in document:
            return []  # an artifact
        config = _text(_object(document, "config"), "digest", f"the configuration of {digest}")
        if platform is None:
            platform = _platform_of(_blob(self._archive, config), config)
        return [ArchivedImage(platform, names, lambda: (_blob(self._archive, config), self._layers(document, digest)))]

    def _layers(self, document: dict, name: str) -> list[Member]:
        found = []
        for layer in _objects(document.get("layers") or [], f"layers of {name}"):
            digest = _text(layer, "digest", f"a layer of {name}")
            member = self._archive.member(_blob_name(digest))
            if member.digest != digest:
                raise DataLoss(f"layer {digest} in the archive has digest {member.digest}")
            found.append(member)
        return found


def _names(descriptor: dict) -> list[str]:
    annotations = _object(descriptor, "annotations")
    name = annotations.get("io.containerd.image.name") or annotations.get("org.opencontainers.image.ref.name")
    return [name] if isinstance(name, str) and ("/" in name or ":" in name) else []


# -- documents, which may be anything -----------------------------------------------------------------


def _manifests(document: dict, name: str) -> list[dict]:
    return _objects(document.get("manifests") or [], f"manifests of {name}")


def _objects(value: Any, name: str) -> list[dict]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataLoss(f"{name} in the archive: not a list of objects")
    return value


def _object(holder: dict, key: str) -> dict:
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def _text(holder: dict, key: str, name: str) -> str:
    value = holder.get(key)
    if not isinstance(value, str):
        raise DataLoss(f"{name} in the archive has no {key}")
    return value


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _platform_of(config: bytes, name: str) -> Platform | None:
    return platforms.of_document(parse(config, name, dict))


def _blob(archive: Archive, digest: str) -> bytes:
    data = archive.read_bytes(_blob_name(digest))
    _verify(data, digest)
    return data


def _blob_name(digest: str) -> str:
    if not is_sha256(digest):
        raise DataLoss(f"the archive uses digest {digest!r}; berth reads sha256 ones")
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _verify(data: bytes, digest: str) -> None:
    have = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if have != digest:
        raise DataLoss(f"content of digest {digest} in the archive has digest {have}")
