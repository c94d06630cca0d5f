"""What takes room, and giving back what nobody uses: `system df`, `container prune`, `image prune`, `volume prune`."""

import asyncio
import datetime
import os
import re
import time
from collections import Counter
from collections.abc import Callable

from berth import errors
from berth.engine import imagelist, views, volumerecord
from berth.engine.containers import ContainerService
from berth.engine.events import EventBus
from berth.engine.images import publish_removed
from berth.engine.registry import Container
from berth.engine.volumerecord import VolumeRecord
from berth.engine.volumes import Volumes
from berth.store.images import ImageStore

_SPANS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SPAN = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")
_SECONDS = re.compile(r"-?[0-9]{1,15}(\.[0-9]*)?")
_CONTAINER_FILTERS = ("label", "label!", "until")
_IMAGE_FILTERS = ("dangling", *_CONTAINER_FILTERS)
_VOLUME_FILTERS = ("all", "label", "label!")
Filters = dict[str, list[str]]


class Housekeeping:
    """Counts the bytes of containers and images, and removes those that are of no use any more."""

    def __init__(self, containers: ContainerService, images: ImageStore, events: EventBus, volumes: Volumes) -> None:
        self._containers = containers
        self.built: Callable[[], list[dict]] = list  # what the cache of builds holds; set by whoever has one
        self._volumes = volumes
        self._images = images
        self._events = events

    async def usage(self, kinds: set[str]) -> dict:
        """GET /system/df; kinds: of 'container', 'image', 'volume', 'build-cache', or none for all."""
        found: dict = {}
        if not kinds or "image" in kinds:
            found |= {"LayersSize": await asyncio.to_thread(self._images.layers.file_bytes), "Images": self._image_payloads()}
        if not kinds or "container" in kinds:
            found["Containers"] = [await self._container_payload(c) for c in self._containers.all()]
        if not kinds or "volume" in kinds:
            found["Volumes"] = [await self._volume_payload(volume.record) for volume in self._volumes.all()]
        if not kinds or "build-cache" in kinds:
            found["BuildCache"] = await asyncio.to_thread(self.built)
            found["BuilderSize"] = sum(entry["Size"] for entry in found["BuildCache"] if not entry["Shared"])
        return found

    def _layers(self) -> dict[str, int]:
        """Bytes of the files of every layer that an image has."""
        return {layer.chain: layer.size_bytes for image in self._images.all() for layer in self._images.layers_of(image)}

    def _image_payloads(self) -> list[dict]:
        users = Counter(container.record.image_id for container in self._containers.all())
        found = imagelist.summaries(self._images, {}, shared_size=True)
        return [{**payload, "Containers": users[payload["Id"]]} for payload in found]

    async def _container_payload(self, container: Container) -> dict:
        payload = self._containers.summary(container)
        size = await asyncio.to_thread(tree_bytes, f"{self._containers.directory(container)}/upper")
        try:
            image_bytes = self._images.size_bytes(self._images.find(container.record.image_id))
        except errors.NotFound:
            image_bytes = 0
        return {**payload, **({"SizeRw": size} if size else {}), "SizeRootFs": size + image_bytes}

    async def _volume_payload(self, record: VolumeRecord) -> dict:
        size = await asyncio.to_thread(tree_bytes, self._volumes.mountpoint(record.name))
        links = len(self._containers.users_of_volume(record.name))
        return {**volumerecord.payload(record, self._volumes.mountpoint(record.name)), "UsageData": {"RefCount": links, "Size": size}}

    # -- pruning ------------------------------------------------------------------------------------

    async def prune_containers(self, filters: Filters) -> tuple[list[str], int]:
        """Removes those that do not run -> their ids, and the bytes of what they had written."""
        check(filters, _CONTAINER_FILTERS)
        until_s = until(filters)
        removed, reclaimed = [], 0
        for container in self._containers.all():
            record = container.record
            if record.active or record.created_ns / 1e9 > until_s or not labels_match(record.config.get("Labels") or {}, filters):
                continue
            size = await asyncio.to_thread(tree_bytes, f"{self._containers.directory(container)}/upper")
            try:
                await self._containers.remove(container, force=False)
            except errors.Conflict:
                continue  # it was started meanwhile, or is being removed
            removed.append(record.id)
            reclaimed += size
        self._events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
        return removed, reclaimed

    async def prune_images(self, filters: Filters) -> tuple[list[dict[str, str]], int]:
        """Removes images without a name (dangling=false: all) that no container uses -> Docker's list, and bytes."""
        check(filters, _IMAGE_FILTERS)
        dangling, until_s = dangling_only(filters), until(filters)
        sizes = self._layers()
        removed: list[dict[str, str]] = []
        for image in self._images.all():
            names = self._images.names_of(image.id)  # one that has but a digest is pruned, as Docker does
            if (dangling and names) or (not names and self._images.children_of(image.id)):
                continue  # one that others were made of goes with the last of them
            labels = imagelist.labels_of(image)
            if views.created_s(image.config) > until_s or not labels_match(labels, filters):
                continue
            in_use = self._containers.images_in_use()
            if image.id in in_use:
                continue
            try:
                # All its names go with it, so it is asked for by its id and with force.
                gone = await asyncio.to_thread(self._images.remove, image.id, force=True, in_use=in_use)
            except (errors.Conflict, errors.NotFound):
                continue
            publish_removed(self._events, image, gone)
            removed += gone
        reclaimed = sum(sizes.get(item.get("Deleted", ""), 0) for item in removed)
        if not set(filters) - {"dangling"}:  # what pulls that were cut off have left is not labelled, nor of any age
            reclaimed += await asyncio.to_thread(self._images.discard_unused)
        self._events.publish("image", "prune", "", {"reclaimed": str(reclaimed)})
        return removed, reclaimed

    async def prune_volumes(self, filters: Filters, *, everything: bool) -> tuple[list[str], int]:
        """Removes volumes that no container has -> their names, and bytes. everything: also those that somebody named.

        What has options is left, as Docker does: its files are elsewhere.
        """
        check(filters, _VOLUME_FILTERS)
        removed, reclaimed = [], 0
        for volume in self._volumes.all():
            record = volume.record
            if record.options or not (everything or record.anonymous) or not labels_match(record.labels, filters):
                continue
            if self._containers.users_of_volume(record.name):
                continue
            size = await asyncio.to_thread(tree_bytes, self._volumes.mountpoint(record.name))
            try:
                await self._volumes.remove(record.name)
            except (errors.Conflict, errors.NotFound):
                continue  # a container has it now, or somebody was quicker
            removed.append(record.name)
            reclaimed += size
        self._events.publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return removed, reclaimed


def tree_bytes(path: str) -> int:
    """Bytes of all files in a tree; one with several names counts once."""
    total, seen, pending = 0, set(), [path]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink == 1 or (status.st_dev, status.st_ino) not in seen:
                        seen.add((status.st_dev, status.st_ino))
                        total += status.st_size
        except OSError:
            continue  # it goes away while we count
    return total


# -- filters; pure --------------------------------------------------------------------------------------


def check(filters: Filters, known: tuple[str, ...]) -> None:
    """Refuses a key that a prune of this kind does not have, and a time that is none."""
    for key in filters:
        if key not in known:
            raise errors.InvalidParameter(f"invalid filter '{key}'")
    until(filters)


def labels_match(labels: dict[str, str], filters: Filters) -> bool:
    """Every `label` and none of `label!`."""

    def has(text: str) -> bool:
        key, equals, value = text.partition("=")
        return labels.get(key) == value if equals else key in labels

    return all(map(has, filters.get("label", []))) and not any(map(has, filters.get("label!", [])))


def dangling_only(filters: Filters) -> bool:
    """Without the filter, only what has no name."""
    return imagelist.dangling_of(filters) is not False


def until(filters: Filters) -> float:
    """What was made after this time is kept; seconds since the epoch, infinite without the filter."""
    values = filters.get("until", [])
    if len(values) > 1:
        raise errors.InvalidParameter("more than one until filter specified")
    return moment_s(values[0], time.time()) if values else float("inf")


def moment_s(text: str, now_s: float) -> float:
    """A span before now ('1h30m'), seconds since the epoch, or a date with or without time and zone."""
    if text and not _SPAN.sub("", text):
        return now_s - sum(float(number) * _SPANS_S[unit] for number, unit in _SPAN.findall(text))
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise errors.InvalidParameter(
            f"invalid filter 'until={text}': expected a span like 1h30m, seconds since 1970 or a time like 2006-01-02T15:04:05Z"
        ) from None
