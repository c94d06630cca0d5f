"""linux.netDevices: network devices of the host that a container gets, with their addresses, under another name if asked.

The kernel takes a device's addresses away when it moves; those that are permanent and global are given
back. A start that fails gives the devices back too: a virtual one would go with the container's
network namespace. When a container ends, the kernel itself returns physical devices to the host.

Source: OCI runtime specification 1.3, config-linux.md#network-devices.
"""

import errno
import os

from berth.errors import InvalidSpec
from berth.linux import libc, netlink


class _Device:
    __slots__ = ("addresses", "flags", "index", "inside", "name", "now")

    def __init__(self, host: netlink.Client, name: str, inside: str) -> None:
        self.name = name
        self.inside = inside
        self.now = ""  # what it may be called in the container by now
        try:
            self.index, self.flags = host.link(name)
        except OSError as error:
            raise InvalidSpec(f"linux.netDevices[{name!r}]: {error.strerror}; it must be in the runtime's network namespace") from None
        self.addresses = [a for a in host.addresses(self.index) if a.scope == 0 and a.flags & netlink.IFA_F_PERMANENT]


class Devices:
    """Devices of one container; made in the runtime's own network namespace, before anything else. Close it."""

    __slots__ = ("_devices", "_here", "_host", "_there")

    def __init__(self, wanted: "dict[str, dict]") -> None:
        """Raises InvalidSpec for a device that is not there."""
        self._here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._there = -1
        self._host = netlink.Client()
        try:
            self._devices = [_Device(self._host, name, entry.get("name") or name) for name, entry in wanted.items()]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._host.close()
        for fd in (self._here, self._there):
            if fd >= 0:
                os.close(fd)

    def move(self, pid: int) -> None:
        """Into the network namespace of `pid`. Raises InvalidSpec; `give_back` undoes what was done."""
        self._there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if os.path.sameopenfile(self._here, self._there):
            raise InvalidSpec("linux.netDevices: the container's network namespace is the runtime's own; there is nowhere to move them")
        inside = self._client_there()
        try:
            for device in self._devices:
                try:
                    _refuse_taken(inside, device.inside)
                    # The kernel moves first and renames then, so a device may be there and have its old name.
                    device.now = device.name
                    self._host.move(device.index, self._there, device.inside)
                    device.now = device.inside
                    _settle(inside, device, device.inside, up=True)
                except OSError as error:
                    raise InvalidSpec(f"linux.netDevices[{device.name!r}]: as {device.inside!r}: {error.strerror}") from None
        finally:
            inside.close()

    def give_back(self) -> None:
        """After a start that failed: the devices as they were, as far as they can be had."""
        moved = [device for device in self._devices if device.now]
        if not moved:
            return
        inside = self._client_there()
        try:
            for device in moved:
                try:
                    inside.move(inside.link(device.now)[0], self._here, device.name)
                    _settle(self._host, device, device.name, up=bool(device.flags & netlink.IFF_UP))
                except OSError:
                    continue  # why the start failed is what a person must hear
        finally:
            inside.close()

    def _client_there(self) -> netlink.Client:
        before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)  # a starter's is not where it began
        try:
            libc.setns(self._there, libc.CLONE_NEWNET)
            try:
                return netlink.Client()
            finally:
                libc.setns(before, libc.CLONE_NEWNET)
        finally:
            os.close(before)


def _refuse_taken(client: netlink.Client, name: str) -> None:
    try:
        client.link(name)
    except OSError:
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _settle(client: netlink.Client, device: _Device, name: str, *, up: bool) -> None:
    index, _ = client.link(name)
    for address in device.addresses:
        client.add_address(index, address)
    if up:
        client.set_up(index, True)
