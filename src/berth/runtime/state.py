"""One container on disk, between one call of the runtime and the next.

    ROOT/ID/             --root (/run/berth/oci), one directory a container
      lock               held by whoever creates or deletes it; the kernel lets go when that dies. A record lock
                         (fcntl): one of flock's would live on in init, which is forked meanwhile and waits for `start`
      state.json         what cannot be asked of the kernel; whole or not there (renamed into place)
      config.json        the specification as it was at `create`: later edits must not matter
      start.sock         there while the container is created and not started; init waits on it

Whether it runs is not kept but derived: from the process (its start time tells it from a later one of
the same pid), from start.sock and from the freezer.
"""

import fcntl
import os

from berth import errors
from berth.linux import cgroup
from berth.models.jsonlite import dumps, loads

MAX_ID_BYTES = 1024
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")

CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"
START_SOCKET = "start.sock"


def check_id(identity: str) -> None:
    """Raises InvalidParameter unless it can be a directory's name, as runc and crun read it."""
    if not identity or len(identity) > MAX_ID_BYTES or not _ID_CHARACTERS.issuperset(identity) or identity in (".", ".."):
        raise errors.InvalidParameter(
            f"invalid container id {identity!r}: expected up to {MAX_ID_BYTES} of the characters a-z A-Z 0-9 _ + - ."
        )


def start_time(pid: int) -> int:
    """When a process started, in ticks since boot (proc(5), field 22); 0 if it is gone or a zombie."""
    text = cgroup.read_file(f"/proc/{pid}/stat")
    fields = text.rpartition(")")[2].split()
    return int(fields[19]) if fields and fields[0] not in ("Z", "X") else 0


class Container:
    """One container's directory. `values` is state.json; `create` and `load` make it. Owns the lock, if it has it."""

    __slots__ = ("_lock_fd", "directory", "id", "values")

    def __init__(self, root: str, identity: str) -> None:
        check_id(identity)
        self.id = identity
        self.directory = f"{root}/{identity}"
        self.values: dict = {}
        self._lock_fd = -1

    @classmethod
    def create(cls, root: str, identity: str) -> "Container":
        """A new directory, locked; Conflict where the id is taken."""
        container = cls(root, identity)
        try:
            _make_root(root)
            os.mkdir(container.directory, 0o711)
        except FileExistsError:
            raise errors.Conflict(f"container with id exists: {identity!r} is there already in {root}; delete it first") from None
        except OSError as error:
            raise errors.SystemFailure(f"cannot make {container.directory}: {error.strerror}; --root chooses another place") from error
        try:
            container.lock()
        except OSError:
            container.remove()
            raise
        return container

    @classmethod
    def load(cls, root: str, identity: str) -> "Container":
        """The container of that id; NotFound where there is none."""
        container = cls(root, identity)
        container.read()
        return container

    def read(self) -> None:
        """Takes state.json as it is by now; NotFound where there is no container."""
        text = cgroup.read_file(f"{self.directory}/state.json")
        if not text:
            _why_not_there(self.directory, self.id, os.path.dirname(self.directory))
        try:
            self.values = loads(text) if text else {}
        except ValueError:
            raise errors.DataLoss(f"{self.directory}/state.json is damaged; delete --force {self.id}") from None

    def lock(self) -> None:
        """Waits for whoever is creating or deleting the container. NotFound if it is gone by then."""
        path = f"{self.directory}/lock"
        try:
            self._lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.lockf(self._lock_fd, fcntl.LOCK_EX)
            same = os.path.samestat(os.fstat(self._lock_fd), os.stat(path))
        except FileNotFoundError:
            same = False
        if not same:  # else we would remove one that has been made since
            self.unlock()
            raise errors.NotFound(f"container {self.id!r} has just been deleted")

    def unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _is_locked(self) -> bool:
        if self._lock_fd >= 0:
            return True  # by us; closing another descriptor of the file would let it go (fcntl(2))
        try:
            fd = os.open(f"{self.directory}/lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who ask do not see each other
            return False
        except OSError:
            return True
        finally:
            os.close(fd)

    def open(self) -> int:
        """A descriptor of the directory, the caller's."""
        return os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def write(self, name: str, value: dict) -> None:
        """A JSON file, whole or as it was before."""
        path = f"{self.directory}/{name}"
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            file.write(dumps(value))
        os.rename(f"{path}.new", path)

    def save(self, **values: object) -> None:
        """Adds to state.json."""
        self.values.update(values)
        self.write("state.json", self.values)

    def spec(self) -> dict:
        """The specification as it was at `create`."""
        try:
            with open(f"{self.directory}/config.json") as file:
                return dict(loads(file.read()))
        except (OSError, ValueError):
            raise errors.DataLoss(f"{self.directory}/config.json is missing or damaged; delete --force {self.id}") from None

    @property
    def pid(self) -> int:
        """Of the first program; 0 if it is gone."""
        pid = int(self.values.get("pid") or 0)
        return pid if pid and start_time(pid) == self.values.get("start_time") else 0

    def group(self, hosts: cgroup.Hierarchies) -> "cgroup.Cgroup | None":
        """Its cgroup as it was made; None where it was killed before there was one."""
        saved = self.values.get("cgroup")
        return cgroup.reopen(saved, hosts) if saved else None

    def status(self, hosts: "cgroup.Hierarchies | None" = None) -> str:
        """One of the five; without `hosts` paused counts as running."""
        if not self.values.get("pid"):
            return CREATING if self._is_locked() else STOPPED
        if not self.pid:
            return STOPPED
        waits = os.path.exists(f"{self.directory}/{START_SOCKET}")
        if waits and self.values.get("creating") and self._is_locked():
            return CREATING
        group = self.group(hosts) if hosts else None
        if group and group.frozen():
            return PAUSED
        return CREATED if waits else RUNNING

    def remove(self) -> None:
        """The directory and what is in it, and the lock with it."""
        for name in (START_SOCKET, "config.json", "config.json.new", "state.json.new", "state.json", "notify.sock", "lock"):
            try:
                os.unlink(f"{self.directory}/{name}")
            except FileNotFoundError:
                continue
        try:
            os.rmdir(self.directory)
        except FileNotFoundError:
            pass
        self.unlock()


def _make_root(root: str) -> None:
    """An ordinary user's is for nobody else; sticky, so that what tidies XDG_RUNTIME_DIR lets it be."""
    try:
        os.mkdir(root, 0o711 if os.geteuid() == 0 else 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        os.makedirs(os.path.dirname(root), mode=0o755 if os.geteuid() == 0 else 0o700, exist_ok=True)
        _make_root(root)
        return
    if os.geteuid():
        os.chmod(root, 0o1700)


def _why_not_there(directory: str, identity: str, root: str) -> None:
    """Raises, unless the directory is there and ours: then a crash has left it without its file."""
    try:
        owner = os.stat(directory).st_uid
    except FileNotFoundError:
        raise errors.NotFound(f"container {identity!r} does not exist in {root}") from None
    except PermissionError:
        raise errors.Forbidden(f"container {identity!r}: no permission to look into {root}, which belongs to another user") from None
    if owner != os.geteuid() and not os.access(directory, os.W_OK):
        raise errors.Forbidden(f"container {identity!r} in {root} belongs to another user, uid {owner}")


def identities(root: str) -> "list[str]":
    """Ids of all containers, sorted; none where the root does not exist."""
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if _ID_CHARACTERS.issuperset(name) and os.path.isdir(f"{root}/{name}"))
