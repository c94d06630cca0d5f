"""Reads the members of tar archives from a stream; `unpacking` makes files of them.

Formats: POSIX ustar and pax, GNU long names and sparse files. Source: pax(5), tar(5).
"""

import functools
import os
import zlib
from collections.abc import Iterator

from berth.errors import DataLoss
from berth.store.compression import ExactReader

_BLOCK = 512
_MAX_HEADER_BYTES = 1 << 20  # of pax records and long names: what no honest archive reaches
_MAX_HEADERS_BYTES = 4 << 20  # of all those in front of one member
_MAX_GLOBAL_RECORDS = 100  # they are looked at for each member
_MAX_SPARSE_MAP_BYTES = 8 << 20
_MAX_SPARSE_PIECES = 200_000
_MAX_FILE_BYTES = 1 << 50  # of a sparse file, which takes no room
_ZERO_BLOCK = bytes(_BLOCK)
FILE, HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_FILES = (FILE, b"\0", b"7", b"S")


class Entry:
    """One member. size_bytes: of the data in the archive; sparse: (offset, length) pairs or None."""

    __slots__ = (
        "gid", "kind", "link", "major", "minor", "mode", "mtime_ns", "name", "real_size_bytes", "size_bytes",
        "sparse", "uid", "xattrs",
    )  # fmt: skip

    def __init__(self) -> None:
        self.name = self.link = ""
        self.kind = FILE
        self.mode = self.uid = self.gid = self.size_bytes = self.mtime_ns = self.major = self.minor = 0
        self.real_size_bytes = 0
        self.sparse: list[tuple[int, int]] | None = None
        self.xattrs: dict[str, bytes] = {}

    @property
    def is_file(self) -> bool:
        return self.kind == FILE


def read_entries(reader: ExactReader) -> Iterator[Entry]:
    """The members in order. Who iterates must read each one's data (`size_bytes`, then `skip_padding`)."""
    global_pax: dict[str, bytes] = {}
    pax: dict[str, bytes] = {}
    long_name = long_link = None
    headers_bytes = 0
    block = _first_block(reader)
    while block not in (_ZERO_BLOCK, b""):
        _check_sum(block)
        kind, size = block[156:157], _number(block[124:136])
        if kind in (b"x", b"g", b"L", b"K"):
            if size > _MAX_HEADER_BYTES:
                raise DataLoss(f"an extended header claims {size} bytes; more than {_MAX_HEADER_BYTES} is refused")
            headers_bytes += _BLOCK + size
            if headers_bytes > _MAX_HEADERS_BYTES:
                raise DataLoss(f"extended headers of more than {_MAX_HEADERS_BYTES} bytes that belong to one file are refused")
            data = reader.read_exactly(size)
            skip_padding(reader, size)
            if kind == b"x":
                pax = {**pax, **_pax_records(data)}
            elif kind == b"g":
                global_pax = {**global_pax, **_pax_records(data)}
                if len(global_pax) > _MAX_GLOBAL_RECORDS:
                    raise DataLoss(f"global extended headers of more than {_MAX_GLOBAL_RECORDS} records are refused")
            elif kind == b"L":
                long_name = data.rstrip(b"\0")
            else:
                long_link = data.rstrip(b"\0")
        else:
            yield _entry(block, kind, size, {**global_pax, **pax}, long_name, long_link, reader)
            pax, long_name, long_link, headers_bytes = {}, None, None, 0
        block = reader.read_or_end(_BLOCK)


def _first_block(reader: ExactReader) -> bytes:
    """With better words for what is something else altogether."""
    block = b""
    while len(block) < _BLOCK and (data := reader.read_some(_BLOCK - len(block))):
        block += data
    if not block:
        raise DataLoss("the archive is empty")
    if len(block) == _BLOCK and block != _ZERO_BLOCK:
        try:
            _check_sum(block)
        except DataLoss:
            raise DataLoss("this is no tar archive, nor one compressed with gzip, zstd, xz or bzip2; or its first header is damaged") from None
    if len(block) < _BLOCK:
        raise DataLoss(f"the archive ends {_BLOCK - len(block)} bytes too early")
    return block


def skip_padding(reader: ExactReader, size: int) -> None:
    """Data is padded to whole blocks."""
    if size % _BLOCK:
        reader.read_or_end(_BLOCK - size % _BLOCK)


def _check_sum(block: bytes) -> None:
    """Sum of the header's bytes with the sum's own field as spaces; old writers summed signed bytes."""
    stored = _number(block[148:156])
    head = block[:148] + b"        " + block[156:]
    if sum_of_bytes(head) != stored and sum(b - 256 if b > 127 else b for b in head) != stored:
        raise DataLoss("not a tar archive, or a damaged one: a header's checksum is wrong")


def sum_of_bytes(header: bytes) -> int:
    """Of at most 512, in a tenth of the time that sum() takes: half of an Adler-32 is one more than the sum, modulo more than 256 bytes reach."""
    return (zlib.adler32(header[:256]) & 0xFFFF) + (zlib.adler32(header[256:]) & 0xFFFF) - 2


@functools.lru_cache(maxsize=4096)  # most fields are those of the entry before
def _number(field: bytes) -> int:
    """Octal digits, or GNU's base-256 where the top bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] == 0xFF:
            value -= 1 << (8 * len(field) - 1)
        return value
    text = field.split(b"\0", 1)[0].strip()
    try:
        return int(text, 8) if text else 0
    except ValueError:
        raise DataLoss(f"not a tar archive, or a damaged one: a header has {field!r} where a number belongs") from None


def _pax_records(data: bytes) -> dict[str, bytes]:
    records: dict[str, bytes] = {}
    sparse: list[bytes] = []
    while data:
        length_text, space, _ = data.partition(b" ")
        # Few digits, because int() refuses thousands of them with an error of another kind.
        if not space or len(length_text) > 8 or not length_text.isdigit() or not 0 < int(length_text) <= len(data):
            raise DataLoss("a pax header has a record of impossible length")
        if data[int(length_text) - 1 : int(length_text)] != b"\n":
            raise DataLoss("a pax header has a record that does not end where it says")
        record = data[len(length_text) + 1 : int(length_text) - 1]
        data = data[int(length_text) :]
        key, _, value = record.partition(b"=")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):  # format 0.0 repeats its keys
            sparse.append(value)
        records[key.decode(errors="surrogateescape")] = value
    if sparse:
        records["GNU.sparse.map"] = b",".join(sparse)
    return records


def _entry(
    block: bytes, kind: bytes, size: int, pax: dict[str, bytes], long_name: bytes | None, long_link: bytes | None,
    reader: ExactReader,
) -> Entry:  # fmt: skip
    entry = Entry()
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and block[345] and not long_name:
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    entry.name = os.fsdecode(pax.get("path", long_name or name))
    entry.link = os.fsdecode(pax.get("linkpath", long_link or block[157:257].split(b"\0", 1)[0]))
    entry.kind = FILE if kind in _FILES else kind
    if entry.kind == FILE and entry.name.endswith("/"):  # how the oldest tars wrote directories
        entry.kind = DIRECTORY
    entry.mode = _number(block[100:108]) & 0o7777
    entry.uid, entry.gid = _pax_number(pax, "uid", block[108:116]), _pax_number(pax, "gid", block[116:124])
    entry.major, entry.minor = _number(block[329:337]), _number(block[337:345])
    entry.size_bytes = _pax_number(pax, "size", block[124:136])
    if entry.size_bytes < 0:
        raise DataLoss(f"{entry.name!r} claims a size of {entry.size_bytes} bytes")
    if entry.kind in (HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO):
        entry.size_bytes = 0
    entry.mtime_ns = _time_ns(pax["mtime"]) if "mtime" in pax else _number(block[136:148]) * 1_000_000_000
    entry.real_size_bytes = entry.size_bytes
    for key, value in pax.items():
        if key.startswith("SCHILY.xattr."):
            entry.xattrs[key.removeprefix("SCHILY.xattr.")] = value
    if kind == b"S":
        _old_gnu_sparse(entry, block, reader)
    elif any(key.startswith("GNU.sparse.") for key in pax):
        _pax_sparse(entry, pax, reader)
    return entry


def _pax_number(pax: dict[str, bytes], key: str, field: bytes) -> int:
    if key not in pax:
        return _number(field)
    try:
        return int(pax[key])
    except ValueError:
        raise DataLoss(f"a pax header gives {pax[key]!r} as {key}") from None


def _time_ns(text: bytes) -> int:
    seconds, _, fraction = text.partition(b".")
    try:
        return int(seconds or b"0") * 1_000_000_000 + int((fraction + b"000000000")[:9])
    except ValueError:
        raise DataLoss(f"a pax header gives {text!r} as a time") from None


def _old_gnu_sparse(entry: Entry, block: bytes, reader: ExactReader) -> None:
    pairs = [(_number(block[o : o + 12]), _number(block[o + 12 : o + 24])) for o in range(386, 482, 24)]
    entry.real_size_bytes = _number(block[483:495])
    more = block[482]
    while more:
        block = reader.read_exactly(_BLOCK)
        pairs += [(_number(block[o : o + 12]), _number(block[o + 12 : o + 24])) for o in range(0, 504, 24)]
        more = block[504]
        if len(pairs) > _MAX_SPARSE_PIECES:
            raise DataLoss(f"a sparse map of more than {_MAX_SPARSE_PIECES} pieces is refused")
    entry.sparse = _checked_sparse(entry, [pair for pair in pairs if pair[1]], entry.size_bytes)


def _pax_sparse(entry: Entry, pax: dict[str, bytes], reader: ExactReader) -> None:
    """GNU's formats 0.0, 0.1 (map in the header) and 1.0 (map in front of the data)."""
    try:
        entry.real_size_bytes = int(pax.get("GNU.sparse.realsize") or pax.get("GNU.sparse.size") or 0)
        if "GNU.sparse.name" in pax:
            entry.name = os.fsdecode(pax["GNU.sparse.name"])
        if pax.get("GNU.sparse.major") == b"1":
            numbers, used = _sparse_map_in_data(reader)
            entry.size_bytes -= used
        else:
            numbers = [int(text) for text in pax.get("GNU.sparse.map", b"").split(b",") if text]
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    except ValueError:
        raise DataLoss(f"{entry.name!r} has a sparse map that is not made of pairs of numbers") from None
    entry.sparse = _checked_sparse(entry, pairs, entry.size_bytes)


def _sparse_map_in_data(reader: ExactReader) -> tuple[list[int], int]:
    blocks = [reader.read_exactly(_BLOCK)]
    count = int(blocks[0].partition(b"\n")[0])
    if not 0 <= count <= _MAX_SPARSE_PIECES:
        raise DataLoss(f"a sparse map claims {count} pieces")
    line_feeds = blocks[0].count(b"\n")
    while line_feeds < 2 * count + 1:
        blocks.append(reader.read_exactly(_BLOCK))
        line_feeds += blocks[-1].count(b"\n")
        if len(blocks) * _BLOCK > _MAX_SPARSE_MAP_BYTES:
            raise DataLoss(f"a sparse map of {count} pieces does not end")
    lines = b"".join(blocks).split(b"\n")
    return [int(line) for line in lines[1 : 2 * count + 1]], len(blocks) * _BLOCK


def _checked_sparse(entry: Entry, pairs: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    end = 0
    if entry.real_size_bytes > _MAX_FILE_BYTES:
        raise DataLoss(f"{entry.name!r} claims a size of {entry.real_size_bytes} bytes")
    for offset, length in pairs:
        if offset < end or length < 0 or offset + length > entry.real_size_bytes:
            raise DataLoss(f"{entry.name!r} has a sparse map that contradicts itself")
        end = offset + length
    if sum(length for _, length in pairs) != size:
        raise DataLoss(f"{entry.name!r} has a sparse map that does not fit its data")
    return pairs
