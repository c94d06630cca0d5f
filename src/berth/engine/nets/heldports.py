"""What containers have of the host's ports while they run: held, led to them by rules or relays, moved, given back.

A port is held by a socket before a rule leads it anywhere, and the socket is closed after the rule has gone: nobody may get one that
still leads elsewhere.
"""

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace

from berth import errors
from berth.engine.nets.host import HostNetworks
from berth.engine.nets.places import Target
from berth.engine.nets.portmaps import Wish
from berth.network import ports as hostports
from berth.network.model import Address, PublishedPort
from berth.network.relay import Relay, is_needed

_WITHOUT_SOCKETS = "sctp"  # of which many kernels have no sockets, while their packet rules know it
_Key = tuple[str, Address, int]
_Ports = dict[PublishedPort, hostports.Held | None]


@dataclass(slots=True)
class Held:
    """Of one container: each port with what keeps it from others, None where that could not be had."""

    ports: _Ports = field(default_factory=dict)
    relays: dict[PublishedPort, Relay] = field(default_factory=dict)

    @property
    def published(self) -> list[PublishedPort]:
        return list(self.ports)

    def close(self, published: Iterable[PublishedPort]) -> None:
        for port in list(published):
            self.stop_relay(port)
            if kept := self.ports.pop(port, None):
                kept.close()

    async def relay(self) -> None:
        """Serves those that rules cannot lead on."""
        for port, kept in self.ports.items():
            if is_needed(port) and port not in self.relays and kept and kept.socket:
                self.relays[port] = Relay(port, kept.socket)
                await self.relays[port].start()

    def stop_relay(self, port: PublishedPort) -> None:
        if relay := self.relays.pop(port, None):
            relay.close()


class HeldPorts:
    """Of all containers that run, by their ids."""

    def __init__(self, host: HostNetworks, settled: Callable[[], Awaitable[None]]) -> None:
        """settled: returns once those that have ended have given everything back."""
        self._host = host
        self._settled = settled
        self._of: dict[str, Held] = {}
        self._seed = int.from_bytes(os.urandom(2), "little")

    def of(self, identity: str) -> Held:
        return self._of.setdefault(identity, Held())

    def pop(self, identity: str) -> Held | None:
        """The caller's to give back."""
        return self._of.pop(identity, None)

    def ids(self) -> list[str]:
        return list(self._of)

    def published(self) -> list[PublishedPort]:
        """By all of them."""
        return [port for held in self._of.values() for port in held.published]

    # -- a container that starts and ends -------------------------------------------------------

    async def hold(self, identity: str, wishes: Iterable[Wish], target: Target | None) -> None:
        """Those of a container that no published port can lead to are left out, as Docker does."""
        held = self.of(identity)
        for wish in wishes if target else ():
            assert target
            held.ports |= await self._hold(wish, target, {})

    async def lead(self, identity: str) -> None:
        """Rules, and relays, for all that is held."""
        held = self.of(identity)
        await self._host.publish(held.published)
        await held.relay()

    def retake(self, identity: str, published: Iterable[PublishedPort]) -> list[str]:
        """What a container had under the engine before; what of it somebody else has by now, in words: that leads to the container all the same."""
        held, troubles = self.of(identity), []
        for port in published:
            held.ports[port] = None
            if not port.host_port:
                continue
            try:
                held.ports[port] = self._bind(port.protocol, port.host_address, port.host_port)
            except errors.BerthError as error:
                troubles.append(f"port {port.host_port}/{port.protocol} still leads to it, but is not held: {error}")
        return troubles

    async def give_back(self, held: Held) -> None:
        """What `pop` gave."""
        if held.ports:
            try:
                await self._host.unpublish(held.published)
            finally:
                held.close(held.published)

    # -- one that runs --------------------------------------------------------------------------

    def can_move(self, identity: str, target: Target | None) -> bool:
        """Whether its ports lead to another target as they are, without letting go of them; else they are held anew."""
        return target is not None and not target.opened and all(port.host_port and target.of(port.host_address) for port in self.of(identity).ports)

    async def retarget(self, identity: str, target: Target) -> None:
        """All its ports to another address of it, if they `can_move`."""
        held = self.of(identity)
        moved = {port: _to(port, target) for port in held.ports}
        changed = {old: new for old, new in moved.items() if old != new}
        if changed:
            await self._host.publish(list(changed.values()), instead_of=list(changed))
            for old in changed:
                held.stop_relay(old)
            held.ports = {moved[port]: kept for port, kept in held.ports.items()}
            await held.relay()

    async def change(
        self, identity: str, wishes: Iterable[Wish], going: Iterable[PublishedPort], target: Target | None, commit: Callable[[], Awaitable[None]]
    ) -> None:  # fmt: skip
        """Takes `going` away and publishes more; all of it, or nothing. commit: writes down that it is so, before anything is let go.

        The container may end meanwhile: what it is held to have at that moment is given back by whoever sees it end.
        """
        held, leaving, before = self.of(identity), list(going), dict(self.of(identity).ports)
        new = await self._hold_instead(held, list(wishes) if target else [], leaving, target)
        try:
            await self._host.publish(list(new), instead_of=leaving)
            if not self._has(identity, held):
                raise errors.Conflict(f"container {identity} has ended meanwhile")
            for port in leaving:
                held.stop_relay(port)
            held.ports = {**{port: kept for port, kept in before.items() if port not in leaving}, **new}
            await held.relay()
            await commit()
        except BaseException:
            await self._undo(identity, held, before, new, leaving)
            raise
        _close((before[port] for port in leaving), but=held.ports.values())

    def _has(self, identity: str, held: Held) -> bool:
        return self._of.get(identity) is held

    async def _undo(self, identity: str, held: Held, before: _Ports, new: _Ports, leaving: list[PublishedPort]) -> None:
        for port in new:
            held.stop_relay(port)
        held.ports = before
        try:
            await self._host.publish(leaving if self._has(identity, held) else (), instead_of=list(new))
            if not self._has(identity, held):
                await self._host.unpublish(leaving)
        finally:
            _close(new.values(), but=before.values())
            if self._has(identity, held):
                await held.relay()
            else:
                _close((before.get(port) for port in leaving), but=())

    async def _hold_instead(self, held: Held, wishes: list[Wish], leaving: list[PublishedPort], target: Target | None) -> _Ports:
        """What an update adds. A port that it takes away and adds again in another form stays held; one in the way is let go first."""
        again = {_key(port): kept for port in leaving if (kept := held.ports[port])}
        new: _Ports = {}
        try:
            for wish in wishes:
                assert target
                new |= await self._hold(wish, target, again)
            return new
        except BaseException as error:
            _close(new.values(), but=again.values())
            if not isinstance(error, errors.Conflict) or not again:
                raise
        _close(again.values(), but=())  # 127.0.0.1:80 cannot be had beside 0.0.0.0:80
        new = {}
        try:
            for wish in wishes:
                assert target
                new |= await self._hold(wish, target, {})
        except BaseException:
            _close(new.values(), but=())
            for port in leaving:
                held.ports[port] = None
                if port.host_port:
                    with contextlib.suppress(errors.BerthError):
                        held.ports[port] = self._bind(port.protocol, port.host_address, port.host_port)
            raise
        return new

    # -- parts ----------------------------------------------------------------------------------

    async def _hold(self, wish: Wish, target: Target, again: dict[_Key, hostports.Held]) -> _Ports:
        """again: what the container has already and may have again."""
        opened = {
            PublishedPort(wish.protocol, address, 0, own, wish.port, interface): None
            for address in wish.addresses for own, interface in target.opened if address.version == own.version and not address.is_loopback
        }  # fmt: skip
        wish = replace(wish, addresses=tuple(address for address in wish.addresses if target.of(address)))
        if wish.host_ports is None:
            self._seed += 1
            candidates = hostports.ephemeral(self._seed)
        else:
            candidates = wish.host_ports
        try:
            found = self._hold_any(wish, candidates, again)
        except errors.Conflict:
            await self._settled()  # one that has just ended gives it back in a moment
            found = self._hold_any(wish, candidates, again)
        led = {(one.address, one.port): one for one in found}
        return opened | {
            PublishedPort(wish.protocol, address, port, own, wish.port, target.interface): one
            for (address, port), one in led.items() if (own := target.of(address))
        }  # fmt: skip

    def _hold_any(self, wish: Wish, candidates: Iterable[int], again: dict[_Key, hostports.Held]) -> list[hostports.Held]:
        """The first port that is free on every address. The last refusal where none is."""
        refusal: errors.Conflict | None = None
        for number in candidates:
            found: list[hostports.Held] = []
            try:
                for address in wish.addresses:
                    found.append(again.get((wish.protocol, address, number)) or self._bind(wish.protocol, address, number))
                return found
            except BaseException as error:
                _close(found, but=again.values())
                if not isinstance(error, errors.Conflict):
                    raise
                refusal = error
        raise refusal or errors.Conflict(f"no port is free for {wish.protocol}")

    def _bind(self, protocol: str, address: Address, port: int) -> hostports.Held:
        if protocol == _WITHOUT_SOCKETS:
            if owner := self._owner(protocol, address, port):
                raise errors.Conflict(hostports.allocated(protocol, address, port, f"container {owner[:12]}"))
        try:
            return hostports.hold(protocol, address, port)
        except errors.Conflict:
            if owner := self._owner(protocol, address, port):
                raise errors.Conflict(hostports.allocated(protocol, address, port, f"container {owner[:12]}")) from None
            raise

    def _owner(self, protocol: str, address: Address, port: int) -> str:
        """The container of ours that has it; '' for none."""
        for identity, held in self._of.items():
            if any(kept and other.protocol == protocol and _collide(other, address, port) for other, kept in held.ports.items()):
                return identity
        return ""


def _close(those: Iterable[hostports.Held | None], *, but: Iterable[hostports.Held | None]) -> None:
    kept = {id(one) for one in but}
    for one in those:
        if one and id(one) not in kept:
            one.close()


def _to(port: PublishedPort, target: Target) -> PublishedPort:
    address = target.of(port.host_address)
    assert address
    return PublishedPort(port.protocol, port.host_address, port.host_port, address, port.port, target.interface)


def _key(port: PublishedPort) -> _Key:
    return port.protocol, port.host_address, port.host_port


def _collide(other: PublishedPort, address: Address, port: int) -> bool:
    same = other.host_address.version == address.version and other.host_port == port
    return same and (other.host_address == address or other.host_address.is_unspecified or address.is_unspecified)
