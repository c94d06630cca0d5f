"""What differs by the version of the API that a client speaks. Pure.

Source: Docker's API version history. What a version did not know is taken out of its requests, and what a later one dropped
is put back into its answers. The engine below speaks the newest version alone.
"""

from typing import Any

from berth import errors
from berth.api.streams import version_numbers

# Fields of an image's Config that are the container's; shown up to 1.49 although no image has them.
_NOT_OF_IMAGES = {
    "Hostname": "", "Domainname": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False, "Tty": False,
    "OpenStdin": False, "StdinOnce": False, "Image": "",
}  # fmt: skip


def before(version: str, minor: int) -> bool:
    """Whether `version` is older than 1.MINOR."""
    return version_numbers(version) < (1, minor)


# -- requests -------------------------------------------------------------------------------------


def adjust_create(version: str, config: dict[str, Any], host: dict[str, Any], networks: dict[str, Any], *, has_v1: bool) -> None:
    """Makes a create request of an old client what it means to a new one; InvalidParameter for what that client cannot ask."""
    mounts = [mount for mount in host.get("Mounts") or [] if isinstance(mount, dict)]
    if before(version, 25):
        host.pop("AutoRemove", None)  # such a client removes it itself
    if before(version, 40):
        host["IpcMode"] = host.get("IpcMode") or "shareable"
    if before(version, 41) and has_v1:
        host["CgroupnsMode"] = host.get("CgroupnsMode") or "host"
    if before(version, 42):
        host.pop("ConsoleSize", None)
        for mount in mounts:
            _adjust_mount(mount)
    if before(version, 43):
        host.pop("Annotations", None)
    if before(version, 44):
        (config.get("Healthcheck") or {}).pop("StartInterval", None)
        _adjust_read_only(mounts)
        if len(networks) > 1:
            raise errors.InvalidParameter(f"Container cannot be created with multiple network endpoints: {', '.join(networks)}")
        _move_mac_address(config, host, networks)
    if before(version, 48):
        for endpoint in networks.values():
            endpoint.pop("GwPriority", None)
    if before(version, 48) and any(mount.get("Type") == "image" for mount in mounts):
        raise errors.InvalidParameter('Mount type "Image" needs API v1.48 or newer')


def _move_mac_address(config: dict[str, Any], host: dict[str, Any], networks: dict[str, Any]) -> None:
    """Before 1.44, the address was the container's, and that of an endpoint was ignored."""
    for endpoint in networks.values():
        endpoint.pop("MacAddress", None)
    mode = host.get("NetworkMode") or "default"
    if config.get("MacAddress") and mode not in ("host", "none") and not mode.startswith("container:"):  # with these it is refused further on
        name = next(iter(networks), mode)  # there is one at most
        networks[name] = {**networks.get(name, {}), "MacAddress": config.pop("MacAddress")}


def _adjust_mount(mount: dict[str, Any]) -> None:
    """Before 1.42, options of another type were ignored."""
    (mount.get("BindOptions") or {}).pop("CreateMountpoint", None)
    for kind, field in (("volume", "VolumeOptions"), ("tmpfs", "TmpfsOptions")):
        if mount.get("Type") != kind:
            mount.pop(field, None)


def _adjust_read_only(mounts: list[dict[str, Any]]) -> None:
    """Before 1.44, read-only was not recursive."""
    for mount in mounts:
        if mount.get("Type") == "bind":
            if (mount.get("BindOptions") or {}).get("ReadOnlyForceRecursive"):
                raise errors.InvalidParameter("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
            if mount.get("ReadOnly"):
                mount["BindOptions"] = {**(mount.get("BindOptions") or {}), "ReadOnlyNonRecursive": True}


def adjust_network(version: str, body: dict[str, Any]) -> None:
    """Makes a request for a network of an old client what it means to a new one."""
    if before(version, 48):
        body.pop("EnableIPv4", None)


# -- answers --------------------------------------------------------------------------------------


def image_inspect(version: str, found: dict[str, Any]) -> dict[str, Any]:
    """GET /images/{name}/json."""
    found = dict(found)
    if before(version, 48):
        found.pop("Descriptor", None)
    if before(version, 50):
        found["Config"] = {**_NOT_OF_IMAGES, **found["Config"]}
    if before(version, 45):
        found |= {"Container": "", "ContainerConfig": {**_NOT_OF_IMAGES, "User": "", "Env": None, "Cmd": None, "Volumes": None,
                                                       "WorkingDir": "", "Entrypoint": None, "OnBuild": None, "Labels": None}}  # fmt: skip
    if before(version, 44):
        found["VirtualSize"] = found["Size"]
    return found


def image_summaries(version: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The elements of GET /images/json."""
    if before(version, 48):
        found = [{key: value for key, value in image.items() if key != "Descriptor"} for image in found]
    if before(version, 43):
        nameless = {"RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]}
        found = [image if image["RepoTags"] else {**image, **nameless} for image in found]
    return [{**image, "VirtualSize": image["Size"]} for image in found] if before(version, 44) else found


def container(version: str, found: dict[str, Any]) -> dict[str, Any]:
    """GET /containers/{id}/json."""
    if before(version, 45):  # such clients find a container's own names among its aliases; later ones in DNSNames
        own = [found["Id"][:12], found["Config"]["Hostname"]]
        for name, entry in found["NetworkSettings"]["Networks"].items():
            if name not in ("bridge", "host", "none"):
                entry["Aliases"] = list(dict.fromkeys((*(entry["Aliases"] or ()), *own)))
    return found


def network(version: str, found: dict[str, Any]) -> dict[str, Any]:
    """GET /networks/{id}, and the elements of GET /networks."""
    return {key: value for key, value in found.items() if key != "EnableIPv4"} if before(version, 48) else found


def disk_usage(version: str, found: dict[str, Any]) -> dict[str, Any]:
    """GET /system/df."""
    return {**found, "Images": image_summaries(version, found["Images"])} if found.get("Images") else found


def info(version: str, found: dict[str, Any]) -> dict[str, Any]:
    """GET /info."""
    found = dict(found)
    if before(version, 50):
        found |= {"BridgeNfIptables": False, "BridgeNfIp6tables": False}
    if before(version, 49):
        found.pop("FirewallBackend", None)
        for name in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            found[name] = {**found[name], "Expected": found[name]["ID"]}
    if not before(version, 47):
        hidden = ("AllowNondistributableArtifactsCIDRs", "AllowNondistributableArtifactsHostnames")
        found["RegistryConfig"] = {key: value for key, value in found["RegistryConfig"].items() if key not in hidden}
    if before(version, 25):
        found["ExecutionDriver"] = "<not supported>"
        found["SecurityOptions"] = [option.partition(",")[0].removeprefix("name=") for option in found["SecurityOptions"]]
    return found
