"""What the sources of COPY and ADD name, as BuildKit has it: one entry for every file and directory that is going to be copied.

A source that is a link is followed inside the root, links found below it stay links. Of a directory the contents are meant.
"""

import difflib
import errno
import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from berth.build.files.ignore import Ignore
from berth.build.files.places import changed, cleaned, resolve
from berth.errors import InvalidParameter
from berth.models import globs
from berth.store.tarwriter import open_below

FILE, DIRECTORY, SYMLINK, OTHER = "file", "directory", "symlink", "other"
_WILDCARDS = "*?["
_MOST_PATTERN_BYTES = 4095
_MOST_NAME_BYTES = 255
_MOST_NAMES = 2000  # that are compared with one that is not there


class Selected:
    """path: relative to the root, without links in it; '' is the root. target: relative to the destination, '' where the destination itself
    gets what a directory holds. kind: one of the constants above. named: whether a source of the instruction named it, and not a directory
    above it.
    """

    __slots__ = ("kind", "named", "path", "target")

    def __init__(self, path: str, target: str, kind: str, *, named: bool = False) -> None:
        self.path = path
        self.target = target
        self.kind = kind
        self.named = named

    def __repr__(self) -> str:
        return f"Selected({self.path!r}, {self.target!r}, {self.kind!r}, named={self.named})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selected) and (self.path, self.target, self.kind, self.named) == (
            other.path, other.target, other.kind, other.named,
        )  # fmt: skip

    __hash__ = None  # type: ignore[assignment]


def select(
    root_fd: int, patterns: Sequence[str], *, exclude: Sequence[str] = (), ignore: Ignore | None = None, parents: bool = False,
    wildcards: bool = True,
) -> list[Selected]:  # fmt: skip
    """In the order in which they are to be copied. InvalidParameter for a source that is not there, in BuildKit's words.

    exclude: `--exclude`, relative to each source. parents: `--parents`. A source with wildcards that nothing fits brings nothing.
    """
    selection = _Selection(root_fd, Ignore(exclude), ignore or Ignore(()))
    for pattern in patterns:
        if len(pattern) > _MOST_PATTERN_BYTES or any(len(part) > _MOST_NAME_BYTES for part in pattern.split("/")):
            raise InvalidParameter(f"a source is longer than a path can be: {pattern[:60]}...")
        if parents:
            selection.with_parents(pattern, wildcards)
        elif wildcards and has_wildcards(pattern):
            selection.fitting(pattern)
        else:
            selection.named(pattern)
    return selection.found


def has_wildcards(pattern: str) -> bool:
    """Whether Go's filepath.Match sees more in it than a name."""
    index = 0
    while index < len(pattern):
        if pattern[index] in _WILDCARDS:
            return True
        index += 2 if pattern[index] == "\\" else 1
    return False


class _Selection:
    def __init__(self, root_fd: int, exclude: Ignore, ignore: Ignore) -> None:
        self._root_fd = root_fd
        self._exclude = exclude
        self._ignore = ignore
        self.found: list[Selected] = []

    # -- a name ---------------------------------------------------------------------------------------

    def named(self, pattern: str) -> None:
        name = cleaned(pattern)
        place = resolve(self._root_fd, name)
        if place.status is None or not (self._is_shown(name, place.is_directory) and self._is_shown(place.path, place.is_directory)):
            raise _not_found(pattern, self._why_not(name))
        if pattern.endswith(("/", "/.")) and not place.is_directory:
            raise _not_found(pattern, f"{name} is not a directory")
        self._add(name, place.path, place.status.st_mode)

    def _add(self, name: str, path: str, mode: int) -> None:
        """What has the last part of `name` as its name, and is at `path`."""
        base = name.rpartition("/")[2]
        if stat.S_ISDIR(mode):
            self._tree(path, "", self._takes, named=True)
        elif not self._exclude.ignores(base):
            self.found.append(Selected(path, base, _kind(mode), named=True))

    def _is_shown(self, path: str, is_directory: bool) -> bool:
        return not path or not self._ignore.ignores(path) or (is_directory and self._ignore.may_contain(path))

    def _why_not(self, name: str) -> str:
        """What may help: a name like it, or who hides it."""
        if resolve(self._root_fd, name).status is not None:
            return "it is there, but .dockerignore excludes it"
        while name:
            directory, _, base = name.rpartition("/")
            with suppress(OSError):
                fd = open_below(self._root_fd, directory, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    names = os.listdir(fd)
                finally:
                    os.close(fd)
                like = [near for near in names if near.casefold() == base.casefold()] or difflib.get_close_matches(base, names[:_MOST_NAMES], 1, 0.7)
                return f"did you mean {posixpath.join('/', directory, like[0])!r}?" if like else ""
            name = directory
        return ""

    # -- wildcards ------------------------------------------------------------------------------------

    def fitting(self, pattern: str) -> None:
        """Go's filepath.Match, part by part: no wildcard fits a slash, nor is a link on the way followed."""
        parts = cleaned(pattern).split("/")
        plain = next((index for index, part in enumerate(parts) if has_wildcards(part)), len(parts))
        start = resolve(self._root_fd, "/".join(_unescaped(part) for part in parts[:plain]))
        if not start.is_directory:
            return
        for name in self._fitting(start.path, parts[plain:], pattern):
            place = resolve(self._root_fd, name)
            if place.status and self._is_shown(name, place.is_directory) and self._is_shown(place.path, place.is_directory):
                self._add(name, place.path, place.status.st_mode)

    def _fitting(self, directory: str, parts: Sequence[str], pattern: str) -> Iterable[str]:
        for name, kind in self._list(directory):
            try:
                fits = globs.matches(parts[0], name)
            except ValueError as error:
                raise InvalidParameter(f"{pattern!r}: {error}") from None
            if fits and len(parts) == 1:
                yield posixpath.join(directory, name)
            elif fits and kind == DIRECTORY:
                yield from self._fitting(posixpath.join(directory, name), parts[1:], pattern)

    # -- parents --------------------------------------------------------------------------------------

    def with_parents(self, pattern: str, wildcards: bool) -> None:
        """The path below the root, or below the pivot `/./`, is the one below the destination; `**` fits directories."""
        start, pivot, inner = pattern.partition("/./")
        if not pivot:
            start, inner = "", pattern
        place = resolve(self._root_fd, cleaned(start))
        wanted = cleaned(inner)
        if not place.is_directory:
            raise _not_found(pattern, self._why_not(cleaned(start)))
        if not wanted:
            self._tree(place.path, "", self._takes, named=True)
            return
        include = Ignore([wanted if wildcards else _escaped(wanted)])
        leads = Ignore(["**", f"!{wanted if wildcards else _escaped(wanted)}"])
        before = len(self.found)

        def takes(inside: str, relative: str) -> tuple[bool, bool]:
            here, below = self._takes(inside, relative)
            if include.ignores(relative):
                return here, below
            return False, below and leads.may_contain(relative)

        self._tree(place.path, "", takes, named=False, top=False)
        if len(self.found) == before and not (wildcards and has_wildcards(wanted)):
            raise _not_found(pattern, self._why_not(posixpath.join(place.path, wanted)))

    # -- trees ----------------------------------------------------------------------------------------

    def _takes(self, path: str, relative: str) -> tuple[bool, bool]:
        """Whether it is copied, and whether something below it may be."""
        hidden, excluded = self._ignore.ignores(path), self._exclude.ignores(relative)
        if not hidden and not excluded:
            return True, True
        below = (not hidden or self._ignore.may_contain(path)) and (not excluded or self._exclude.may_contain(relative))
        return False, below

    def _tree(self, path: str, target: str, takes: Callable[[str, str], tuple[bool, bool]], *, named: bool, top: bool = True) -> None:
        """A directory and what is below; one that is not taken is, where something below is."""
        if top:
            self.found.append(Selected(path, target, DIRECTORY, named=named))
        came: set[str] = set()
        pending: list[tuple[str, str, tuple[Selected, ...]]] = [(path, "", ())]
        while pending:
            at, relative, waiting = pending.pop()
            subdirectories = []
            for name, kind in self._list(at):
                inside = f"{at}/{name}" if at else name
                below = f"{relative}/{name}" if relative else name
                here, deeper = takes(inside, below)
                if here:
                    self.found += [item for item in waiting if item.target not in came]
                    came.update(item.target for item in waiting)
                    waiting = ()
                    self.found.append(Selected(inside, below, kind))
                if kind == DIRECTORY and deeper:
                    subdirectories.append((inside, below, () if here else (*waiting, Selected(inside, below, DIRECTORY))))
            pending += reversed(subdirectories)

    def _list(self, path: str) -> list[tuple[str, str]]:
        """Names in a directory, sorted, and the kind of each; what went away meanwhile is not there."""
        try:
            fd = open_below(self._root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise changed(path, error) from error
            raise InvalidParameter(f"directories are nested too deep to be copied: /{path[:60]}...") from None
        try:
            with os.scandir(fd) as entries:
                return sorted((entry.name, _entry_kind(entry)) for entry in entries)
        finally:
            os.close(fd)


def _kind(mode: int) -> str:
    return {stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK}.get(stat.S_IFMT(mode), OTHER)


def _entry_kind(entry: "os.DirEntry[str]") -> str:
    if entry.is_file(follow_symlinks=False):
        return FILE
    if entry.is_dir(follow_symlinks=False):
        return DIRECTORY
    return SYMLINK if entry.is_symlink() else OTHER


def _unescaped(name: str) -> str:
    out, index = [], 0
    while index < len(name):
        index += name[index] == "\\" and index + 1 < len(name)
        out.append(name[index])
        index += 1
    return "".join(out)


def _escaped(name: str) -> str:
    return "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in name)


def _not_found(pattern: str, hint: str) -> InvalidParameter:
    shown = posixpath.join("/", pattern)
    return InvalidParameter(
        f'failed to compute cache key: failed to calculate checksum of the source: "{shown}": not found{"; " + hint if hint else ""}'
    )
