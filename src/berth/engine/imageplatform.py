"""Whether an image here is for the platform that was asked for: the store keeps one platform of each image."""

from berth.errors import NotFound
from berth.oci import platforms
from berth.oci.platforms import Platform
from berth.store.images import Image, ImageStore


def found(store: ImageStore, name: str, wanted: Platform | None) -> Image:
    """The image of a name or id. NotFound in Docker's words if it is for another platform than wanted."""
    image = store.find(name)
    offered = platforms.of_document(image.config)
    if wanted and offered and platforms.rank(wanted, offered) is None:
        raise NotFound(f"image with reference {name} was found but its platform ({offered}) does not match the specified platform ({wanted})")
    return image


def warnings(image: Image) -> list[str]:
    """What whoever makes a container of it without naming a platform should hear."""
    offered, host = platforms.of_document(image.config), platforms.host()
    if offered is None or platforms.rank(host, offered) is not None:
        return []
    return [
        f"The requested image's platform ({offered}) does not match the detected host platform ({host}) and no specific platform was requested"
    ]
