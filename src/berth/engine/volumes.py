"""Volumes: made, found, removed, and what an earlier engine left of them.

    volumes/NAME/_data          the files, as Docker has them; an option volume's file system is mounted there while it is used
    volumes/NAME/.new, .ready   content of an image on its way into it (copyup.py)
    volumes/.removed.NAME       being removed

The record comes first, then the directory, which whoever uses it makes where it is missing; on removal the directory is
set aside first, then the record goes, then the files. So no moment at which the engine is killed leaves files that belong to
nobody, or half of a volume. Who uses a volume is counted from the containers' records, never kept.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress

from berth import errors
from berth.engine import copyup, hostfiles, localdriver, volumerecord
from berth.engine.events import EventBus
from berth.engine.volumerecord import VolumeRecord
from berth.store.database import Database, Statement

_REMOVED = ".removed."


class Volume:
    """A record and what only a running engine has. holds: by whom it is kept mounted besides running containers."""

    def __init__(self, record: VolumeRecord) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self.holds = 0


class Volumes:
    """All volumes of one data root."""

    def __init__(self, data_root: str, database: Database, events: EventBus, owner: tuple[int, int]) -> None:
        """owner: ids on the host of the containers' root, to whom a new volume belongs."""
        self._top = f"{data_root}/volumes"
        self._database = database
        self._events = events
        self._owner = owner
        self._by_name: dict[str, Volume] = {}
        self.lock = asyncio.Lock()  # held by who makes or removes one, and while a container that will use some is made
        self.users: Callable[[str], list[str]] = lambda name: []  # ids of the containers that have it in their records
        self.is_used_now: Callable[[str], bool] = lambda name: False  # by a container that runs or is being started

    # -- looking up -----------------------------------------------------------------------------------

    def all(self) -> list[Volume]:
        """By name."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    def find(self, name: str) -> Volume:
        """NotFound in the words that Docker's clients know."""
        if name not in self._by_name:
            raise errors.NotFound(f"get {name}: no such volume" if name else "get: no such volume")
        return self._by_name[name]

    def has(self, name: str) -> bool:
        return name in self._by_name

    def mountpoint(self, name: str) -> str:
        """Where its files are."""
        return f"{self._top}/{name}/_data"

    # -- making ---------------------------------------------------------------------------------------

    async def create(self, name: str, driver: str, labels: dict[str, str], options: dict[str, str]) -> Volume:
        """One of that name, new or as it is; '' for an anonymous one. Conflict where it is there with other options."""
        async with self.lock:
            record = self.drafted(name, driver, labels, options)
            if record is None:
                return self._by_name[name]
            await self._database.write(insertion(record))
            await self.add([record])
            return self._by_name[record.name]

    def drafted(self, name: str, driver: str, labels: dict[str, str], options: dict[str, str]) -> VolumeRecord | None:
        """The record of a volume that is to be made, or None if it is there. The caller has the lock, saves and adds it."""
        if not name:
            name, labels = volumerecord.new_name(), {**labels, volumerecord.ANONYMOUS_LABEL: ""}
        volumerecord.check_driver(name, driver)
        if name in self._by_name:
            have = self._by_name[name].record.options
            if options and options != have:
                raise errors.Conflict(
                    f"create {name}: a volume of that name is there with other options: {_shown(have)}; not {_shown(options)}. "
                    "Leave them out to use it as it is, or remove it first"
                )
            return None
        volumerecord.check_name(name)
        volumerecord.check_options(name, options)
        record = VolumeRecord(name, labels, options)
        if record.size_bytes:
            localdriver.check_limit(record, self._top)
        return record

    async def add(self, records: list[VolumeRecord]) -> None:
        """Takes in what has been saved; without directories, if that fails, it is taken out again."""
        try:
            for record in records:
                await asyncio.to_thread(self._make_directory, record)
        except BaseException:
            await asyncio.to_thread(hostfiles.remove_directories, [f"{self._top}/{record.name}" for record in records])
            await self._database.write(*(deletion(record.name) for record in records))
            raise
        for record in records:
            self._by_name[record.name] = Volume(record)
            self._publish(record.name, "create")

    def _make_directory(self, record: VolumeRecord) -> None:
        """Where it is missing; with its limit where it has one."""
        path = self.mountpoint(record.name)
        if os.path.isdir(path):
            return
        top = os.path.dirname(path)
        os.makedirs(top, mode=0o701, exist_ok=True)
        if record.size_bytes and not record.has_filesystem:
            localdriver.set_limit(record, top, self._top)  # what is made in it inherits it
        new = f"{top}/.making"  # a `_data` that is there is whole
        with suppress(FileExistsError):
            os.mkdir(new)
        os.chmod(new, 0o755)
        os.chown(new, *self._owner)
        os.rename(new, path)

    # -- use ------------------------------------------------------------------------------------------

    async def mount(self, names: Iterable[str]) -> None:
        """Has the files of volumes in their places before somebody looks there; `unmount_idle` undoes it."""
        for name in names:
            volume = self.find(name)
            async with volume.lock:
                await asyncio.to_thread(self._make_directory, volume.record)
                if volume.record.has_filesystem:
                    await asyncio.to_thread(localdriver.mount_once, volume.record, self.mountpoint(name))

    async def unmount_idle(self, names: Iterable[str]) -> None:
        """Takes down the file systems of those that nobody uses any more."""
        for name in names:
            volume = self._by_name.get(name)
            if volume is None or not volume.record.has_filesystem:
                continue
            async with volume.lock:
                if not volume.holds and not self.is_used_now(name):
                    await asyncio.to_thread(localdriver.unmount, self.mountpoint(name))

    @asynccontextmanager
    async def held(self, names: Iterable[str]) -> AsyncIterator[None]:
        """Mounted meanwhile, for who looks into a container that does not run."""
        held = [self.find(name) for name in names]
        for volume in held:
            volume.holds += 1
        try:
            await self.mount(volume.record.name for volume in held)
            yield
        finally:
            for volume in held:
                volume.holds -= 1
            await self.unmount_idle(volume.record.name for volume in held)

    # -- removing -------------------------------------------------------------------------------------

    async def remove(self, name: str) -> None:
        """Conflict in Docker's words while a container has it."""
        async with self.lock:
            volume = self.find(name)
            if users := self.users(name):
                raise errors.Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            if volume.holds:
                raise errors.Conflict(f"remove {name}: volume is in use: files are being copied")
            await asyncio.to_thread(hostfiles.remove_directories, await self.remove_with([name]))

    async def remove_with(self, names: list[str], *statements: Statement) -> list[str]:
        """Removes volumes that nobody uses, in one transaction with what else is said; returns directories to be removed then.

        The caller has the lock. Until the transaction is through, a volume's directory is only set aside.
        """
        aside = {name: f"{self._top}/{_REMOVED}{name}" for name in names}
        try:
            for name in names:
                await asyncio.to_thread(self._set_aside, name, aside[name])
            await self._database.write(*(deletion(name) for name in names), *statements)
        except BaseException:
            for name in names:
                with suppress(OSError):
                    os.rename(aside[name], f"{self._top}/{name}")
            raise
        for name in names:
            del self._by_name[name]
            self._publish(name, "destroy")
        return list(aside.values())

    def _set_aside(self, name: str, aside: str) -> None:
        if self._by_name[name].record.has_filesystem:
            localdriver.unmount(self.mountpoint(name))
        hostfiles.remove_directories([aside])  # what an earlier attempt left
        with suppress(FileNotFoundError):
            os.rename(f"{self._top}/{name}", aside)

    # -- start-up -------------------------------------------------------------------------------------

    def load(self) -> list[str]:
        """Reads the records and makes the disk agree; returns what was mended, in words."""
        os.makedirs(self._top, mode=0o701, exist_ok=True)
        mended = []
        for name, text in self._database.read("SELECT name, record FROM volumes"):
            try:
                self._by_name[name] = Volume(VolumeRecord.from_json(text))
            except ValueError as error:
                mended.append(f"the record of volume {name} is damaged ({error}): its files are kept")
                self._database.write_now(deletion(name))
        for entry in sorted(os.listdir(self._top)):
            if entry.startswith(_REMOVED):
                mended.append(self._finish_removal(entry.removeprefix(_REMOVED)))
            elif entry not in self._by_name and os.path.isdir(f"{self._top}/{entry}/_data"):
                record = VolumeRecord(entry, {}, {})
                self._database.write_now(insertion(record))
                self._by_name[entry] = Volume(record)
                mended.append(f"volume {entry} was in no record: its files are kept")
        for name, volume in self._by_name.items():
            self._make_directory(volume.record)
            if not volume.record.has_filesystem and copyup.mend(self.mountpoint(name)):
                mended.append(f"volume {name}: a copy of an image's files was cut off; mended")
        return mended

    def _finish_removal(self, name: str) -> str:
        """The database decides: what it still has was not removed."""
        aside, path = f"{self._top}/{_REMOVED}{name}", f"{self._top}/{name}"
        if name in self._by_name and not os.path.isdir(path):  # else somebody has made it anew
            os.rename(aside, path)
            return f"volume {name} was about to be removed; kept"
        hostfiles.remove_directories([aside])
        return f"volume {name} was being removed; removed"

    async def settle(self) -> None:
        """Once it is known which containers run: takes down what only those had that do not any more."""
        await self.unmount_idle(list(self._by_name))

    # -- telling --------------------------------------------------------------------------------------

    def _publish(self, name: str, action: str) -> None:
        self._events.publish("volume", action, name, {"driver": volumerecord.LOCAL})

    def publish_use(self, name: str, action: str, attributes: dict[str, str]) -> None:
        """`mount` and `unmount` by a container."""
        self._events.publish("volume", action, name, {"driver": volumerecord.LOCAL, **attributes})


def insertion(record: VolumeRecord) -> Statement:
    """For the transaction in which a volume comes into being."""
    return ("INSERT INTO volumes VALUES (?, ?)", (record.name, record.to_json()))


def deletion(name: str) -> Statement:
    return ("DELETE FROM volumes WHERE name = ?", (name,))


def _shown(options: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(options.items())) or "none"
