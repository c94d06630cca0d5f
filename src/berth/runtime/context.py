"""What init, its operations and its parent hand one another: how to start, what operations share, the wait for a word."""

import os

from berth.linux import cgroup, sockets
from berth.runtime.plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Launch:
    """How to start a container or an exec: what is not in the bundle.

    standard_fds: what becomes 0, 1 and 2, or None for those there are (or a terminal). clone_flags:
    more of them, e.g. CLONE_PARENT. seccomp_cache: directory of compiled filters, or '';
    seccomp_program: the filter, where the caller has it compiled. namespaces: flags of those that an exec joins, None to
    find out. gate: a
    listening socket on which init waits for `start`; None to go on at once. die_with_parent: whether
    the program ends with who started it. on_cloned: called with init's pid and its cgroup before init has
    got far. environment: what the program gets besides its own. gate and on_cloned are for a container's first
    program alone. on_group: called with the cgroup before it is made. on_waiting: called when an exec's program waits
    for its scheduler; on_outside: when init or a joiner waits for what its parent does, and whether that is to put it into the cgroup.
    on_listener: takes the descriptor of a seccomp listener. state: of the container, for hooks. peers: trees that are
    already there for bind mounts, by their sources, which are to be peers of mounts of another mount namespace.
    """

    __slots__ = (
        "clone_flags", "die_with_parent", "environment", "gate", "manager", "namespaces", "new_keyring", "on_cloned", "on_group",
        "on_listener", "on_outside", "on_waiting", "peers", "pivot", "preserve_fds", "rootless", "seccomp_cache",
        "seccomp_program", "standard_fds", "state",
    )  # fmt: skip

    def __init__(self, seccomp_cache: str = "", *, clone_flags: int = 0, die_with_parent: bool = True) -> None:
        self.seccomp_cache = seccomp_cache
        self.seccomp_program = b""
        self.clone_flags = clone_flags
        self.die_with_parent = die_with_parent
        self.standard_fds: tuple[int, int, int] | None = None
        self.preserve_fds = 0
        self.environment: list[str] = []
        self.gate: sockets.socket | None = None
        self.manager = "cgroupfs"
        self.rootless = False
        self.new_keyring = True
        self.namespaces: int | None = None
        self.pivot = True
        self.state: dict = {}
        self.peers: dict[str, int] = {}
        self.on_cloned: Callable[[int, cgroup.Cgroup], None] = lambda pid, group: None
        self.on_listener: Callable[[int], None] = os.close
        self.on_group: Callable[[cgroup.Cgroup], None] = lambda group: None
        self.on_waiting: Callable[[], None] = lambda: None
        self.on_outside: Callable[[bool], None] = lambda is_outside: None


class Context:
    """What operations share. Descriptors are this process's until execve closes them."""

    __slots__ = (
        "cgroup", "channel", "has_asked", "hosts", "in_cgroup", "launch", "lsm_proc_fd", "opened", "plan", "proc_fd", "root_fd",
        "seccomp_program", "terminal_fd", "trees",
    )  # fmt: skip

    def __init__(
        self, plan: Plan, channel: sockets.socket, group: cgroup.Cgroup, hosts: cgroup.Hierarchies, seccomp_program: bytes,
        launch: Launch,
    ) -> None:  # fmt: skip
        self.plan = plan
        self.channel = channel
        self.cgroup = group
        self.hosts = hosts
        self.seccomp_program = seccomp_program
        self.launch = launch
        self.has_asked = False  # the parent, to do what takes the parent
        self.in_cgroup = False  # and so has its namespace
        self.root_fd = -1
        self.terminal_fd = -1
        self.proc_fd = self.lsm_proc_fd = -1
        self.trees: list[int] = []  # see mounts.idmapped_trees
        self.opened: dict[str, int] = {}  # host path -> descriptor, see _open_host_paths


def await_parent(channel: sockets.socket, word: bytes) -> None:
    """Blocks until the parent says `word`; ends quietly if the parent is gone."""
    if channel.recv(1) != word:
        os._exit(1)
