"""What a context holds, as the client tells the engine: a line for each directory, file and link, parents first. Pure.

    ["src/a.c",33188,1204,1700000000000000000,"",1700000000000000123]      path, mode, size, mtime_ns, link target, stamp

The stamp changes whenever the file does (its ctime_ns); 0 where it was changed so shortly before that a further change would not
show. The mode says what it is, as in stat. Of directories and links the stamp says nothing.
"""

from berth.models.jsonlite import dumps, loads

try:
    from _stat import S_ISDIR, S_ISLNK, S_ISREG
except ImportError:
    from stat import S_ISDIR, S_ISLNK, S_ISREG

UNSURE = b",0]\n"  # how the line of a file ends whose next change may not show


class Entry:
    """One line."""

    __slots__ = ("link", "mode", "mtime_ns", "path", "size", "stamp")

    def __init__(self, path: str, mode: int, size: int, mtime_ns: int, link: str, stamp: int) -> None:
        self.path, self.mode, self.size, self.mtime_ns, self.link, self.stamp = path, mode, size, mtime_ns, link, stamp

    @property
    def is_file(self) -> bool:
        return S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        return S_ISDIR(self.mode)


def line(path: str, mode: int, size: int, mtime_ns: int, link: str, stamp: int) -> str:
    """Without its end."""
    if link or not (path.isascii() and path.isprintable()) or '"' in path or "\\" in path:
        return dumps([path, mode, size, mtime_ns, link, stamp])
    return f'["{path}",{mode},{size},{mtime_ns},"",{stamp}]'


def parse(text: bytes) -> Entry:
    """ValueError for what is no line, or would lead anywhere but below the context."""
    found = loads(text.decode())
    if not (isinstance(found, list) and len(found) == 6):
        raise ValueError(f"{text[:80]!r} is no line of a listing")
    path, mode, size, mtime_ns, link, stamp = found
    numbers = (mode, size, mtime_ns, stamp)
    if not (isinstance(path, str) and isinstance(link, str) and all(type(each) is int and -1 << 63 <= each < 1 << 63 for each in numbers)):
        raise ValueError(f"{text[:80]!r} is no line of a listing")
    if not path or "\0" in path or "\0" in link or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"{path[:200]!r} is no path below a context")
    f"{path}{link}".encode(errors="surrogateescape")  # names are bytes: ValueError for what is none
    if mode >> 16 or not (S_ISDIR(mode) or S_ISREG(mode) or S_ISLNK(mode)) or size < 0 or (S_ISLNK(mode) and not link):
        raise ValueError(f"{path[:200]!r} is no file, directory or link")
    return Entry(path, mode, size, mtime_ns, link, stamp)
