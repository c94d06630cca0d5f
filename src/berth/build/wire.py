"""What `berth build` and the engine say to each other over one connection, `POST /berth/build` with an upgrade. Pure.

Frames: one byte of kind, four of length, then the payload: JSON, or for D four bytes with a question's number and then bytes.

    client ▶ engine   R  the request, first (see `Request` of engine/buildsession.py for its fields)
                      D, E  data that answers a question, and its end: {"question": n, "error": why there is none}
                      C  the person wants no more
    engine ▶ client   P  an event (progress.Event)
                      Q  a question: {"question": n, "ask": …}
                           list    context, patterns (null for all)  ▶ D: JSON lines [path, mode, size, mtime_ns, link target]
                           files   context, paths                    ▶ D: a tar of these, as they are
                           secret  id                                ▶ D: its bytes
                           ssh     id                                ▶ D both ways: the agent's connection
                           output  number (of the request's outputs, then its cache_to) ◀ D: what the client writes, ◀ E; ▶ E once it has
                      D, E  for ssh and output
                      X  the end: {"image": …, "metadata": {…}} or {"error": …, "kind": …, "exit_code": …, "vertex": …}

Either side may close at any time; for the engine that is a C.
"""

import json
import struct
from typing import Any

REQUEST, DATA, END, CANCEL = b"R", b"D", b"E", b"C"
EVENT, QUESTION, RESULT = b"P", b"Q", b"X"
UPGRADE = "berth-build"
MOST_PAYLOAD_BYTES = 8 << 20
DATA_BYTES = 256 << 10  # in one frame, so that others come in between

_header = struct.Struct(">cI")
_number = struct.Struct(">I")


def encode(kind: bytes, value: Any) -> bytes:
    """A frame of JSON."""
    payload = json.dumps(value, separators=(",", ":")).encode()
    return _header.pack(kind, len(payload)) + payload


def encode_data(question: int, data: bytes) -> bytes:
    """A frame of bytes."""
    return _header.pack(DATA, _number.size + len(data)) + _number.pack(question) + data


def decode_data(payload: bytes) -> tuple[int, bytes]:
    """A payload of D -> the question's number and the bytes. ValueError."""
    if len(payload) < _number.size:
        raise ValueError("a data frame without a number")
    return _number.unpack_from(payload)[0], payload[_number.size :]


class Decoder:
    """Collects bytes, gives whole frames; sans I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """(kind, payload) of those that are whole by now. ValueError for what cannot be a frame."""
        self._buffer += data
        found = []
        while len(self._buffer) >= _header.size:
            kind, length = _header.unpack_from(self._buffer)
            if length > MOST_PAYLOAD_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            end = _header.size + length
            if len(self._buffer) < end:
                break
            found.append((kind, bytes(self._buffer[_header.size : end])))
            del self._buffer[:end]
        return found
