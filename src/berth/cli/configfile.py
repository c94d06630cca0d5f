"""~/.docker/config.json, which Docker's command line reads and writes too.

Keys that berth does not know stay. One process writes at a time (a lock on the directory), the file appears whole and is
its owner's alone, for there may be passwords in it; where it is a symbolic link, what it points to is replaced.
"""

import os

from berth.cli.flags import Misuse
from berth.models.jsonlite import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MOST_BYTES = 16 << 20


def path_of(directory: str) -> str:
    return f"{directory}/config.json"


def read(directory: str) -> "dict[str, Any]":
    """{} where there is no file; Misuse where it cannot be read as an object."""
    path = path_of(directory)
    try:
        with open(path, encoding="utf-8", errors="strict") as file:
            text = file.read(_MOST_BYTES)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    try:
        value = loads(text) if text.strip() else {}
    except ValueError as error:
        raise Misuse(f"{path} is no JSON: {error}; mend it or move it away") from None
    if not isinstance(value, dict):
        raise Misuse(f"{path} is no JSON object; mend it or move it away")
    return value


def setting(directory: str, name: str) -> "Any":
    """What a person has set for a command; None where there is nothing, or no file that can be read: commands go on without."""
    try:
        with open(path_of(directory), encoding="utf-8") as file:
            if f'"{name}"' not in file.read(_MOST_BYTES):
                return None
        return read(directory).get(name)
    except (OSError, UnicodeDecodeError, Misuse):
        return None


def text_setting(directory: str, name: str) -> str:
    """The same where it is a string, '' otherwise."""
    value = setting(directory, name)
    return value if isinstance(value, str) else ""


def change(directory: str, how: "Callable[[dict[str, Any]], None]") -> bool:
    """Reads, lets `how` change the object, writes it if it did; whether it did."""
    import fcntl
    import json

    os.makedirs(directory, mode=0o700, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        value = read(directory)
        before = json.dumps(value)
        how(value)
        if json.dumps(value) == before:
            return False
        _replace(os.path.realpath(path_of(directory)), json.dumps(value, indent="\t", ensure_ascii=False).encode())
        return True
    finally:
        os.close(lock)


def _replace(path: str, data: bytes) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            try:
                held = os.stat(path)
                os.fchown(fd, held.st_uid, held.st_gid)  # as with sudo, in another's home
            except (FileNotFoundError, PermissionError):
                pass
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
