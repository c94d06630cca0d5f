"""Docker's json-file log: one JSON object a line, `{"log":"text\\n","stream":"stdout","time":"RFC 3339"}`.

A line longer than 16 KiB is written in parts, and only the last of them ends in a line feed, as
Docker's readers expect. What came in one read is one batch with one time: it is escaped as a whole,
and the JSON between two lines is put in by replacing the line feeds. That is ten times as fast as
line by line, and lets engine.logs read it as fast.
"""

import time

from berth.runtime.logfile import LogFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINE_BYTES = 16384
_OPENING = b'{"log":"'
_BACKSLASH = ord("\\")
_ESCAPES = {byte: b"\\u%04x" % byte for byte in range(32) if byte != 10}
_ESCAPES |= {ord(char): f"\\{letter}".encode() for char, letter in ('""', "\\\\", "\rr", "\tt", "\bb", "\ff")}
# What goes into a JSON string as it is; and the line feed, which comes last.
_ORDINARY = bytes(set(range(256)) - set(_ESCAPES))


class Lines:
    """Makes batches of what streams give in any pieces. A driver says where they go in `_put`."""

    __slots__ = ("_partial",)

    def __init__(self) -> None:
        self._partial: dict[str, bytes] = {}

    def write(self, stream: str, data: bytes) -> None:
        """Takes what a stream gave; whole lines go out, the last, unfinished one is kept."""
        if self._partial:
            data = self._partial.pop(stream, b"") + data
        now_ns = time.time_ns()
        whole = 0
        for batch in batches(data):
            whole += len(batch)
            self._put(stream, batch, now_ns)
        if whole < len(data):
            self._partial[stream] = data[whole:]

    def flush(self) -> None:
        """Writes what came without a line feed; at the end of the streams."""
        now_ns = time.time_ns()
        for stream, rest in self._partial.items():
            self._put(stream, rest, now_ns)
        self._partial.clear()

    def unfinished(self) -> dict[str, bytes]:
        """Of each stream what is not in the log yet."""
        return dict(self._partial)

    def _put(self, stream: str, batch: bytes, now_ns: int) -> None:
        """batch: lines that end in line feeds, none too long; or one part of a line."""
        raise NotImplementedError

    # What a monitor asks of every driver; only those with files have anything to say.

    def position(self) -> tuple[int, int]:
        """(inode, bytes) up to which a reader finds what came before; (0, 0) for what cannot be read."""
        return 0, 0

    @property
    def child_fd(self) -> int:
        """Readable when `child_ended` is to be called; or -1."""
        return -1

    def child_ended(self) -> None:
        pass

    def close(self) -> None:
        pass


class FileLines(Lines):
    """A driver that writes to a LogFile, which it owns."""

    __slots__ = ("_file",)

    def __init__(self, file: LogFile) -> None:
        super().__init__()
        self._file = file

    def position(self) -> tuple[int, int]:
        return self._file.position()

    @property
    def child_fd(self) -> int:
        return self._file.child_fd

    def child_ended(self) -> None:
        self._file.child_ended()

    def close(self) -> None:
        self._file.close()


class JsonLog(FileLines):
    """The driver json-file. attrs: what is written beside each line, or '', as JSON."""

    __slots__ = ("_attrs", "_second", "_second_text")

    def __init__(self, file: LogFile, attrs: str = "") -> None:
        super().__init__(file)
        self._attrs = f'"attrs":{attrs},' if attrs else ""
        self._second = -1
        self._second_text = ""

    def _put(self, stream: str, batch: bytes, now_ns: int) -> None:
        tail = f'","stream":"{stream}",{self._attrs}"time":"{self._timestamp(now_ns)}"}}\n'.encode()
        ends = batch.endswith(b"\n")
        text = escaped(batch[:-1] if ends else batch, tail + _OPENING)
        self._file.append(b"".join((_OPENING, text, b"\\n" if ends else b"", tail)))

    def _timestamp(self, now_ns: int) -> str:
        second, nanosecond = divmod(now_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{nanosecond:09d}Z"


def escaped(text: bytes, after_line: bytes) -> bytes:
    """`text` as the inside of a JSON string, and `after_line` behind each line feed, which is escaped too."""
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            text = text.decode(errors="replace").encode()
    special = text.translate(None, _ORDINARY)
    if special:
        # The backslash first: what it escapes comes after. Each is a pass at the speed of memchr.
        for byte in sorted(set(special), key=lambda byte: byte != _BACKSLASH):
            text = text.replace(bytes((byte,)), _ESCAPES[byte])
    return text.replace(b"\n", b"\\n" + after_line)


def batches(data: bytes) -> "Iterator[bytes]":
    """Whole lines of at most MAX_LINE_BYTES together; parts of longer ones alone. The unfinished rest is left out."""
    start = at = 0
    while at < len(data):
        end = data.rfind(b"\n", at, at + MAX_LINE_BYTES) + 1
        if end:
            at = end
            continue
        if len(data) - at <= MAX_LINE_BYTES:
            break
        if at > start:
            yield data[start:at]
        start = at
        at = _character_end(data, at + MAX_LINE_BYTES)
        yield data[start:at]
        start = at
    if at > start:
        yield data[start:at]


def _character_end(data: bytes, end: int) -> int:
    """Where to cut at or before `end` without cutting a character of UTF-8 in two."""
    for back in range(4):
        if data[end - back] & 0xC0 != 0x80:
            return end - back
    return end
