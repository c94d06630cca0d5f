"""Hooks: programs of the person who wrote the bundle, run at six points of a container's life.

    point             runs in the        when                                  a failure
    prestart          runtime            mounts are made, before pivot_root    ends the container
    createRuntime     runtime            the same, after prestart              ends the container
    createContainer   container          the same, after createRuntime         ends the container
    startContainer    container, pivoted after `start`, before the program     ends the container
    poststart         runtime            the program runs                      ends the container
    poststop          runtime            after `delete`                        is a warning

Each gets the container's state as JSON on its standard input, and runs after the one before it ended.
Source: OCI runtime specification, config.md#posix-platform-hooks and runtime.md#lifecycle.
"""

import os
import select

from berth.errors import BerthError, StartFailed
from berth.linux import signals
from berth.models.jsonlite import dumps

_SHOWN_BYTES = 4096
RUNTIME_POINTS = ("prestart", "createRuntime")


def state(identity: str, spec: dict, bundle: str, *, status: str, pid: int) -> dict:
    """The container's state as hooks, `state` and the seccomp listener get it (runtime.md#state)."""
    found = {"ociVersion": spec["ociVersion"], "id": identity, "status": status, "pid": pid, "bundle": bundle}
    if not pid:
        del found["pid"]
    if spec.get("annotations"):
        found["annotations"] = spec["annotations"]
    return found


def run(hooks: "list[dict]", point: str, state: dict, environment: "dict[str, str] | None" = None) -> None:
    """Runs the hooks of one point in order. Raises StartFailed at the first that fails.

    environment: of a hook that names none.
    """
    text = dumps(state).encode()
    for index, hook in enumerate(hooks):
        try:
            _run_one(hook, text, dict(os.environ) if environment is None else environment)
        except BerthError as error:
            raise StartFailed(f"hooks.{point}[{index}]: {hook['path']}: {error}") from None


def run_all(hooks: "list[dict]", point: str, state: dict) -> "list[str]":
    """Runs the hooks of one point, each whatever became of the others; returns what went wrong."""
    problems = []
    for index, hook in enumerate(hooks):
        try:
            run([hook], point, state)
        except BerthError as error:
            problems.append(str(error).replace(f"hooks.{point}[0]", f"hooks.{point}[{index}]"))
    return problems


def _run_one(hook: dict, text: bytes, environment: "dict[str, str]") -> None:
    given: list[str] | None = hook.get("env")
    if given is not None:
        environment = dict(item.partition("=")[::2] for item in given)
    run_program(hook["path"], hook.get("args") or [hook["path"]], environment, text, hook.get("timeout"))


def run_program(path: str, arguments: "list[str]", environment: "dict[str, str]", text: bytes, timeout_s: "int | None") -> None:
    """Runs a program to its end with `text` as its input. Raises StartFailed with what it said, unless it exits with 0."""
    # Files in memory: a pipe of 64 KiB could fill up and block either side, and what a hook leaves
    # running in the background would hold its end open.
    with open(os.memfd_create("berth-hook-state"), "w+b") as standard_in, open(os.memfd_create("berth-hook-output"), "w+b") as output:
        standard_in.write(text)
        standard_in.flush()
        os.lseek(standard_in.fileno(), 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, standard_in.fileno(), 0)]
        actions += [(os.POSIX_SPAWN_DUP2, output.fileno(), number) for number in (1, 2)]
        try:
            pid = os.posix_spawn(
                path, arguments, environment, file_actions=actions, setpgroup=0, setsigmask=[],
                setsigdef=[signals.SIGPIPE, signals.SIGXFSZ, signals.SIGCHLD, signals.SIGINT, signals.SIGTERM],
            )  # fmt: skip
        except OSError as error:
            raise StartFailed(f"cannot be run: {error.strerror}") from None
        ended_in_time = _await(pid, timeout_s)
        _, status = os.waitpid(pid, 0)
        if not ended_in_time:
            raise StartFailed(f"ran longer than its timeout of {timeout_s} s and was killed")
        code = os.waitstatus_to_exitcode(status)
        if code:
            said = os.pread(output.fileno(), _SHOWN_BYTES, 0).decode(errors="replace").strip()
            how = f"was ended by signal {-code}" if code < 0 else f"exited with {code}"
            raise StartFailed(f"{how}: {said}" if said else how)


def _await(pid: int, timeout_s: "int | None") -> bool:
    """Whether the process ended within its time; one that did not is killed with its process group."""
    if not timeout_s:
        return True  # waitpid waits
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if poll.poll(timeout_s * 1000):
            return True
        try:
            os.killpg(pid, signals.SIGKILL)
        except ProcessLookupError:
            signals.pidfd_send(pidfd, signals.SIGKILL)
        return False
    finally:
        os.close(pidfd)
