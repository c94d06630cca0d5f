"""What `berth build` and the engine say to each other over one connection, `POST /berth/build` with an upgrade. Pure.

Frames: one byte of kind, four of length, then the payload: JSON, or for D four bytes with a question's number and then bytes.

    client ▶ engine   R  the request, first (see api/buildwords.py for its fields)
                      D, E  data that answers a question, and its end: {"question": n, "error": why there is none}
                      C  the person wants no more
    engine ▶ client   P  an event (progress.Event)
                      Q  a question: {"question": n, "ask": …}
                           list    context, patterns (null for all)  ▶ D: a listing (listing.py)
                           files   context, numbers: [first, last] of its lines, from 0 ▶ D: for each a FILE_HEAD and its bytes
                           tar                                       ▶ D: the archive that is the context
                           secret  id                                ▶ D: its bytes
                           auth    registry                          ▶ D: Docker's AuthConfig, {} for none
                           ssh     id                                ▶ D both ways: the agent's connection
                           output  number (of the request's outputs, then its cache_to) ◀ D: what the client writes, ◀ E; ▶ E once it has
                      D, E  for ssh and output
                      X  the end: {"image": …, "metadata": {…}} or {"error": …, "kind": …, "exit_code": …, "source": {…}}

Either side may close at any time; for the engine that is a C. The client gives out nothing but what it has listed.
"""

from berth.models.jsonlite import dumps, loads

try:
    from _struct import Struct
except ImportError:
    from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REQUEST, DATA, END, CANCEL = b"R", b"D", b"E", b"C"
EVENT, QUESTION, RESULT = b"P", b"Q", b"X"
UPGRADE = "berth-build"
MOST_PAYLOAD_BYTES = 8 << 20
DATA_BYTES = 256 << 10  # in one frame, so that others come in between
FILE_HEAD = Struct(">IIQq")  # of a file among `files`: its number, mode, size and mtime_ns

_header = Struct(">cI")
_number = Struct(">I")


def encode(kind: bytes, value: "Any") -> bytes:
    """A frame of JSON. ValueError for one that is too large to be read."""
    payload = dumps(value).encode()
    if len(payload) > MOST_PAYLOAD_BYTES:
        raise ValueError(f"{len(payload)} bytes are more than one message holds, which is {MOST_PAYLOAD_BYTES}")
    return _header.pack(kind, len(payload)) + payload


def decode(payload: bytes) -> "dict[str, Any]":
    """A payload of JSON. ValueError for anything but an object."""
    value = loads(payload.decode())
    if not isinstance(value, dict):
        raise ValueError("a message that is no JSON object")
    return value


def encode_data(question: int, data: "bytes | memoryview") -> bytes:
    """A frame of bytes."""
    return b"".join((_header.pack(DATA, _number.size + len(data)), _number.pack(question), data))


def decode_data(payload: bytes) -> "tuple[int, bytes]":
    """A payload of D -> the question's number and the bytes. ValueError."""
    if len(payload) < _number.size:
        raise ValueError("a data frame without a number")
    return _number.unpack_from(payload)[0], payload[_number.size :]


class Decoder:
    """Collects bytes, gives whole frames; sans I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> "list[tuple[bytes, bytes]]":
        """(kind, payload) of those that are whole by now. ValueError for what cannot be a frame."""
        self._buffer += data
        found = []
        at = 0
        while len(self._buffer) - at >= _header.size:
            kind, length = _header.unpack_from(self._buffer, at)
            if length > MOST_PAYLOAD_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            end = at + _header.size + length
            if len(self._buffer) < end:
                break
            found.append((kind, bytes(self._buffer[at + _header.size : end])))
            at = end
        del self._buffer[:at]
        return found
