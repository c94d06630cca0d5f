"""Frames between a monitor and who is connected to it: one byte of kind, four of length, then the payload.

    to the monitor     I standard input      C standard input ends     W rows, columns (two u16)
                       K signal (one u8)     A streams wanted (one u8)
                       Q who asks for the signal that comes next: a word, kept with the exit status
                       H as A, but say first where the log ends
                       L answer with L once the log has grown since the last answer
    from the monitor   O standard output     E standard error
                       S started (JSON)      F failed to start (JSON)  X exited (JSON)
                       H (JSON: inode and bytes of the log up to which everything is in it; what is in no log
                       yet follows as O and E)      L the log has grown

A connection to `monitor.sock` first gets S, or S and X, so that an engine that was away knows at once.
"""

import struct

STDIN, CLOSE, RESIZE, SIGNAL, ATTACH = b"I", b"C", b"W", b"K", b"A"
ASKED = b"Q"
HISTORY, LOG = b"H", b"L"  # both ways
STDOUT, STDERR, STARTED, FAILED, EXITED = b"O", b"E", b"S", b"F", b"X"

WANT_STDIN, WANT_STDOUT, WANT_STDERR = 1, 2, 4

HEADER_BYTES = 5
# A frame larger than this is not berth's: the reader gives the connection up.
MAX_PAYLOAD_BYTES = 1 << 20

_header = struct.Struct(">cI")


def encode(kind: bytes, payload: bytes = b"") -> bytes:
    """One frame."""
    return _header.pack(kind, len(payload)) + payload


def decode_header(header: bytes) -> tuple[bytes, int]:
    """HEADER_BYTES bytes -> kind, length of the payload; ValueError for a length that cannot be."""
    kind, length = _header.unpack(header)
    if length > MAX_PAYLOAD_BYTES:
        raise ValueError(f"frame {kind!r} of {length} bytes")
    return kind, length


class Decoder:
    """Collects bytes, gives whole frames; sans I/O."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Adds bytes and returns the frames that are whole by now; ValueError if they cannot be frames."""
        self._buffer += data
        found = []
        while len(self._buffer) >= HEADER_BYTES:
            kind, length = decode_header(bytes(self._buffer[:HEADER_BYTES]))
            end = HEADER_BYTES + length
            if len(self._buffer) < end:
                break
            found.append((kind, bytes(self._buffer[HEADER_BYTES:end])))
            del self._buffer[:end]
        return found
