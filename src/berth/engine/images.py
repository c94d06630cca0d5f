"""Events of images, as Docker sends them."""

from berth.engine.events import EventBus
from berth.store.images import Image


def publish(events: EventBus, image: Image, action: str, name: str = "") -> None:
    """name: what `tag` gave; every other action of an image has its id there. Its labels are attributes, for filters."""
    labels = (image.config.get("config") or {}).get("Labels") or {}
    events.publish("image", action, image.id, {**labels, "name": name or image.id})


def publish_removed(events: EventBus, image: Image, removed: list[dict[str, str]], *, by_id: bool = False) -> None:
    """removed: Docker's list of what was untagged and deleted. A deleted image has no labels any more.

    by_id: the image was asked for by its id; otherwise nothing is said of digests that go with a tag.
    """
    untagged = [item["Untagged"] for item in removed if "Untagged" in item]
    tags = [name for name in untagged if "@" not in name]
    for _ in untagged if by_id or not tags else tags:
        publish(events, image, "untag")
    if any(item.get("Deleted") == image.id for item in removed):
        events.publish("image", "delete", image.id, {"name": image.id})
