"""Reads the logs that json-file and local keep: the last N lines, a span of time, and what is added meanwhile.

A log is several files, see runtime.logfile, which its monitor may turn over at any moment. They are
opened newest to oldest: a turn meanwhile shows a file twice, which its first entry tells, and never
hides one. An open file stays whole whatever becomes of its name, so a reader loses only files that
were dropped before it got to open them.

What a monitor wrote in one batch has one time; it is decoded as a whole (`Run`), at several times the
speed of line by line.
"""

import asyncio
import json
import os
import re
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from typing import NamedTuple, TypeVar

from berth.engine.monitors import MonitorConnection
from berth.errors import InvalidParameter

_T = TypeVar("_T")

_BLOCK_BYTES = 1 << 18
_TAIL_BLOCK_BYTES = 1 << 16
_FIRST_BYTES = 4096
_GZIP_READ_BYTES = 1 << 16
# No entry of ours is longer: a part of a line has 16 KiB, which JSON escapes at most sixfold, and attributes.
_MAX_ENTRY_BYTES = 1 << 20
_OPENING = b'{"log":"'


class Run(NamedTuple):
    """Entries of one stream with one time. data: whole lines, each an entry; or one part of a line."""

    stream: str
    stamp: str  # RFC 3339 with nine digits: comparing texts compares times
    attrs: str  # JSON, or ''
    data: bytes


Form = Callable[[Run], bytes]  # what a client gets of it


class Wanted(NamedTuple):
    """Which part of a log. The last `tail` entries come first, then the times: as with Docker."""

    tail: int | None = None
    since_ns: int = 0
    until_ns: int = 0
    follow: bool = False


class LogReader:
    """Reads a container's log forward, over all its files; owns their descriptors. driver: json-file or local."""

    def __init__(self, path: str, driver: str) -> None:
        self._path = path
        self._decode: Callable[[bytes], Iterator[Run]] = _json_runs if driver == "json-file" else _local_runs
        self._sources = deque(reversed(_open_all(path)))
        self._end: tuple[int, int] | None = None

    def end_at(self, inode: int, size: int) -> None:
        """Nothing is read beyond these bytes of this file, which is opened now: see Monitor's H frame."""
        self._end = inode, size
        if not self._sources:
            self._sources.extend(reversed(_open_all(self._path)))
        elif all(source.inode != inode for source in self._sources):
            self._find_newer()

    def seek_tail(self, entries: int) -> None:
        """Moves to the start of the last `entries` entries."""
        missing = entries
        kept: deque[_Source] = deque()
        while self._sources:
            source = self._sources.pop()
            if missing > 0 or not kept:
                missing -= source.seek_tail(missing)
                kept.appendleft(source)
            else:
                source.close()
        self._sources = kept

    def runs(self) -> list[Run] | None:
        """The next of them; None at the present end: call again for what is added later."""
        if not self._sources:
            self._sources.extend(reversed(_open_all(self._path)))
        while self._sources:
            source = self._sources[0]
            limit = self._end[1] if self._end and self._end[0] == source.inode else None
            block = source.read_entries(limit)
            if block:
                return list(self._decode(block))
            if limit is not None or (len(self._sources) == 1 and not self._find_newer()):
                return None
            # The writer has left this file, but may have added to it after the read above.
            block = source.read_entries(limit)
            if block:
                return list(self._decode(block))
            self._sources.popleft().close()
        return None

    def _find_newer(self) -> bool:
        """Appends the files that came after the last one; whether there are any."""
        last = self._sources[-1]
        if last.is_at(self._path):
            return False
        newer = _open_all(self._path)
        known = next((index for index, source in enumerate(newer) if source.same(last)), len(newer))
        for source in newer[known:]:
            source.close()
        del newer[known:]
        self._sources.extend(reversed(newer))
        return bool(newer)

    def close(self) -> None:
        while self._sources:
            self._sources.pop().close()


class _Source:
    """One file of a log, plain or compressed; owns its descriptor."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._compressed = path.endswith(".gz")
        self.inode = os.fstat(self._fd).st_ino
        self._offset = 0  # of a plain file: where the next entry begins
        self._rest = b""  # of a compressed one: the beginning of the next entry
        self._unpacker = zlib.decompressobj(31)
        self.first = b""
        self._learn_first()

    def _learn_first(self) -> None:
        """The first entry, by which a file is known again; a file that is still empty has none yet."""
        for size in () if self.first else (_FIRST_BYTES, _MAX_ENTRY_BYTES):
            data = self._beginning(size)
            self.first = data[: data.find(b"\n") + 1]
            if self.first or len(data) < size:
                return

    def _beginning(self, size: int) -> bytes:
        data = os.pread(self._fd, size, 0)
        try:
            return zlib.decompressobj(31).decompress(data, size) if self._compressed else data
        except zlib.error:
            return b""

    def same(self, other: "_Source") -> bool:
        """Whether both are one file of the log, perhaps compressed meanwhile."""
        self._learn_first()
        other._learn_first()
        return self.inode == other.inode or bool(self.first and self.first == other.first)

    def is_at(self, path: str) -> bool:
        """Whether the writer still adds to this file."""
        try:
            return os.stat(path, follow_symlinks=False).st_ino == self.inode
        except OSError:
            return True  # removed: nothing comes after it

    def _rewind(self) -> None:
        if self._compressed:
            os.lseek(self._fd, 0, os.SEEK_SET)
            self._unpacker = zlib.decompressobj(31)
            self._rest = b""

    def _unpacked(self) -> Iterator[bytes]:
        """Of a compressed file what comes next, in blocks; a broken one ends where it breaks."""
        while not self._unpacker.eof:
            try:
                packed = self._unpacker.unconsumed_tail or os.read(self._fd, _GZIP_READ_BYTES)
                data = self._unpacker.decompress(packed, _BLOCK_BYTES)
            except (OSError, zlib.error):
                return
            if data:
                yield data
            elif not packed:
                return

    def read_entries(self, limit: int | None) -> bytes:
        """Whole entries, b'' at the end; of a plain file none beyond `limit` bytes."""
        if self._compressed:
            return self._read_unpacked()
        size = _BLOCK_BYTES
        while True:
            wanted = size if limit is None else min(size, limit - self._offset)
            # What is unfinished is read again: a full disk makes the writer take it back.
            data = os.pread(self._fd, wanted, self._offset) if wanted > 0 else b""
            end = data.rfind(b"\n") + 1
            if not end and len(data) == size and size < _MAX_ENTRY_BYTES:
                size = _MAX_ENTRY_BYTES
                continue
            if not end and len(data) == size:
                end = len(data)  # no entry of ours: the decoder skips it
            self._offset += end
            return data[:end]

    def _read_unpacked(self) -> bytes:
        data = self._rest
        while True:
            end = data.rfind(b"\n") + 1
            self._rest = data[end:] if len(data) - end < _MAX_ENTRY_BYTES else b""
            more = b"" if end else next(self._unpacked(), b"")
            if not more:
                return data[:end]
            data = self._rest + more

    def seek_tail(self, entries: int) -> int:
        """Moves to the last `entries` entries, or to the start if there are fewer; returns how many there are from there."""
        return self._seek_tail_unpacked(entries) if self._compressed else self._seek_tail_plain(entries)

    def _seek_tail_plain(self, entries: int) -> int:
        position = os.fstat(self._fd).st_size
        if entries <= 0:
            self._offset = position
            return 0
        found = 0
        while position > 0:
            start = max(0, position - _TAIL_BLOCK_BYTES)
            block = os.pread(self._fd, position - start, start)
            count = block.count(b"\n")
            if found + count <= entries:
                found += count
                position = start
                continue
            end = len(block)
            for _ in range(entries - found + 1):
                end = block.rfind(b"\n", 0, end)
            self._offset = start + end + 1
            return entries
        self._offset = 0
        return found

    def _seek_tail_unpacked(self, entries: int) -> int:
        total = sum(data.count(b"\n") for data in self._unpacked())
        self._rewind()
        skip = max(0, total - entries)
        while skip and (data := next(self._unpacked(), b"")):
            count = data.count(b"\n")
            if count < skip:
                skip -= count
                continue
            end = 0
            for _ in range(skip):
                end = data.index(b"\n", end) + 1
            self._rest, skip = data[end:], 0
        return min(total, entries)

    def close(self) -> None:
        os.close(self._fd)


def _open_all(path: str) -> list[_Source]:
    """All files of a log, newest to oldest, each once."""
    found: list[_Source] = []
    number = 0
    while True:
        source = _open(path, number)
        if source is None and number:
            return found
        number += 1
        if source is None:
            continue  # just being turned over
        if any(source.same(other) for other in found):
            source.close()
        else:
            found.append(source)


def _open(path: str, number: int) -> _Source | None:
    for name in (f"{path}.{number}", f"{path}.{number}.gz") if number else (path,):
        try:
            return _Source(name)
        except OSError:
            continue
    return None


# -- for clients ------------------------------------------------------------------------------------


class LogStream:
    """What `form` makes of a log, piece by piece; with a connection, until the container ends. Owns both: `close` it."""

    def __init__(self, reader: LogReader | None, wanted: Wanted, connection: MonitorConnection | None, form: Form) -> None:
        self._reader = reader
        self._wanted = wanted
        self._connection = connection
        self._form = form

    async def __aiter__(self) -> AsyncIterator[bytes]:
        selection = _Selection(self._wanted, self._form)
        reader, tail = self._reader, self._wanted.tail
        if reader and tail is not None:
            await _in_thread(lambda: reader.seek_tail(tail))
        waits = self._connection is not None
        while reader and not selection.ended:
            data = await _in_thread(lambda: selection.next_of(reader))
            if data:
                yield data
            elif data is None:
                if self._connection is None or not waits:
                    return
                waits = await _grown(self._connection, self._wanted.until_ns)

    def close(self) -> None:
        if self._reader:
            self._reader.close()
        if self._connection:
            self._connection.close()


class _Selection:
    """The runs of a span of time, formed."""

    def __init__(self, wanted: Wanted, form: Form) -> None:
        self._since = stamp_of(wanted.since_ns) if wanted.since_ns > 0 else ""
        self._until = stamp_of(wanted.until_ns) if wanted.until_ns else "~"
        self._form = form
        self.ended = False

    def next_of(self, reader: LogReader) -> bytes | None:
        """The next block's; None at the present end."""
        runs = reader.runs()
        if runs is None:
            return None
        chosen = []
        for run in runs:
            if run.stamp > self._until:
                self.ended = True
                break
            if run.stamp >= self._since:
                chosen.append(self._form(run))
        return b"".join(chosen)


async def _grown(connection: MonitorConnection, until_ns: int) -> bool:
    """Waits for more of the log; False once there can be none: the container ended, or the time is over."""
    left_s = (until_ns - time.time_ns()) / 1e9 if until_ns else None
    try:
        return await asyncio.wait_for(connection.log_growth(), left_s)
    except TimeoutError:
        return False


async def _in_thread(work: Callable[[], _T]) -> _T:
    """In a thread, which is awaited also by who is cancelled: it uses descriptors that are closed next."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    finally:
        if not future.done():
            await asyncio.wait({future})


# -- decoding ---------------------------------------------------------------------------------------


def _json_runs(block: bytes) -> Iterator[Run]:
    """Whole lines of json-file -> runs. What is no entry is skipped: cut off by a loss of power."""
    start = 0
    while start < len(block):
        end = block.find(b"\n", start) + 1 or len(block)
        # Within the text every quote is escaped: the first bare one ends it.
        mark = block.find(b'","stream":"', start, end)
        if mark < 0 or not block.startswith(_OPENING, start):
            run, start = _foreign_entry(block[start:end]), end
            if run:
                yield run
            continue
        tail = block[mark:end]
        if block[mark - 2 : mark] == b"\\n" and block.startswith(tail, block.find(b"\n", end) + 1 - len(tail)):
            end = _same_tail_end(block, tail, end)
        run = _run(block[start + len(_OPENING) : end - len(tail)], tail)
        if run is None and end - start > len(tail):
            yield from filter(None, map(_foreign_entry, block[start:end].splitlines(keepends=True)))
        elif run:
            yield run
        start = end


def _same_tail_end(block: bytes, tail: bytes, end: int) -> int:
    """Where the entries of one batch end: the last place with this tail, looked for in growing steps."""
    window = 4096
    while True:
        last = block.rfind(tail, end, end + window)
        reached = last + len(tail) if last >= 0 else end
        if end + window >= len(block) or block.find(b"\n", reached, end + window) >= 0:
            return reached
        window *= 4


def _run(body: bytes, tail: bytes) -> Run | None:
    """body: the escaped texts of entries with one tail, which stands between them."""
    text = body.removesuffix(b"\\n").replace(b"\\n" + tail + _OPENING, b"\n")
    if b"\\" not in text:
        if b'"' in text:
            return None  # something else stands between them
        data = text
    else:
        try:
            data = json.loads(b'"' + text.replace(b"\n", b"\\n") + b'"').encode(errors="replace")
        except ValueError:
            return None
    if body.endswith(b"\\n"):
        data += b"\n"
    try:
        meta = json.loads(b'{"' + tail[3:])
        return Run(meta["stream"], full_stamp(meta["time"]), _attrs_text(meta), data)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _foreign_entry(line: bytes) -> Run | None:
    """An entry that another program wrote, in any order and spacing."""
    try:
        entry = json.loads(line)
        return Run(str(entry["stream"]), full_stamp(entry["time"]), _attrs_text(entry), entry["log"].encode(errors="replace"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _attrs_text(entry: dict) -> str:
    return json.dumps(entry["attrs"]) if entry.get("attrs") else ""


def _local_runs(block: bytes) -> Iterator[Run]:
    """Whole lines of `local` -> runs."""
    start = 0
    while start < len(block):
        end = block.find(b"\n", start) + 1 or len(block)
        space = block.find(b" ", start, end) + 1
        prefix = block[start:space]
        if prefix[:1] not in b"oeOE" or not prefix[1:-1].isdigit():
            start = end
            continue
        whole = prefix[:1].islower()
        while whole and block.startswith(prefix, end):
            end = block.find(b"\n", end) + 1
        data = block[space:end].replace(b"\n" + prefix, b"\n")
        stream = "stderr" if prefix[:1] in b"eE" else "stdout"
        yield Run(stream, stamp_of(int(prefix[1:-1])), "", data if whole else data[:-1])
        start = end


# -- times ------------------------------------------------------------------------------------------


def stamp_of(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nine digits."""
    second, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{rest:09d}Z"


def full_stamp(text: str) -> str:
    """The same with all nine digits, which Go leaves out where they are zero."""
    if len(text) == 30 and text[19] == ".":
        return text
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return f"{whole}.{fraction[:9]:0<9}Z"


def parse_time_ns(text: str) -> int:
    """`since` and `until`: SECONDS[.FRACTION] since 1970, or RFC 3339; nanoseconds, 0 for absent."""
    seconds, _, fraction = (text or "0").partition(".")
    if re.fullmatch(r"-?[0-9]{1,11}(\.[0-9]*)?", text or "0"):
        return int(seconds) * 1_000_000_000 + int(f"{fraction[:9]:0<9}")
    try:
        moment = datetime.fromisoformat(text.replace(f".{fraction}", "") if "." in text else text)
        digits = fraction[: len(fraction) - len(fraction.lstrip("0123456789"))]
        zone = fraction[len(digits) :]
        if digits:
            moment = datetime.fromisoformat(text.partition(".")[0] + zone)
        return int(moment.timestamp()) * 1_000_000_000 + int(f"{digits[:9]:0<9}")
    except (ValueError, OverflowError):
        raise InvalidParameter(
            f"invalid time {text!r}: expected seconds since 1970 or a time like 2006-01-02T15:04:05Z"
        ) from None
