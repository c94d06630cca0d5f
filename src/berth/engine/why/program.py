"""Looks at the first program's file as the kernel would at the start: beneath the container's root, and without running it."""

import os
import stat

from berth.engine.why.model import ProgramFile
from berth.linux import libc, programs

_RESOLVE = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS
_RUNS = {"x86_64": ("x86_64", "i386", "x32"), "aarch64": ("aarch64", "arm")}
_OTHER_FORMATS = "/proc/sys/fs/binfmt_misc"


def look(root: int, name: str, workdir: str, search: str) -> ProgramFile:
    """name: the command's first word, looked up as execvp(3) does in `search`. root: a descriptor of the container's root."""
    if "/" in name:
        path = name if name.startswith("/") else f"{workdir}/{name}"
        return ProgramFile(name, problem_of(root, path))
    denied = ""
    for directory in search.split(":"):
        path = f"{directory or workdir}/{name}"
        found = _mode(root, path)
        if found and stat.S_ISREG(found):
            if found & 0o111:
                return ProgramFile(path, problem_of(root, path))
            denied = denied or path
    return ProgramFile(denied, "it is not executable") if denied else ProgramFile(name, f"it was not found in PATH ({search})")


def problem_of(root: int, path: str) -> str:
    """Why a file cannot be executed; '' if nothing speaks against it."""
    mode = _mode(root, path)
    if not mode:
        return "it was not found"
    if stat.S_ISDIR(mode):
        return "it is a directory"
    if not stat.S_ISREG(mode):
        return "it is not a file"
    if not mode & 0o111:
        return "it is not executable"
    return _problem_of_content(root, _head(root, path))


def _problem_of_content(root: int, head: bytes) -> str:
    interpreter = programs.script_interpreter(head)
    if interpreter:
        return "" if _mode(root, interpreter) else f"its interpreter {interpreter!r} does not exist in the container"
    if programs.is_elf(head):
        machine = programs.elf_machine(head)
        if machine not in _RUNS.get(libc.MACHINE, (libc.MACHINE,)):
            return "" if _emulates() else f"it is built for {machine}, this machine is {libc.MACHINE}"
        loader = programs.elf_interpreter(head)
        return f"its interpreter {loader!r} does not exist in the container" if loader and not _mode(root, loader) else ""
    if not head:
        return "it is empty"
    return "" if _emulates() else "it is neither an ELF program nor a script that starts with '#!'"


def _emulates() -> bool:
    """Whether the host knows formats besides the kernel's own."""
    try:
        return bool(set(os.listdir(_OTHER_FORMATS)) - {"register", "status"})
    except OSError:
        return False


def _mode(root: int, path: str) -> int:
    """0 where nothing is."""
    try:
        fd = libc.openat2(root, path, os.O_PATH | os.O_CLOEXEC, _RESOLVE)
    except (OSError, ValueError):
        return 0
    try:
        return os.fstat(fd).st_mode
    finally:
        os.close(fd)


def _head(root: int, path: str) -> bytes:
    try:
        # O_NONBLOCK: by now it may be another file, and a pipe must not stop the engine.
        fd = libc.openat2(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, _RESOLVE)
    except (OSError, ValueError):
        return b""
    try:
        return os.read(fd, programs.HEAD_BYTES) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(fd)
