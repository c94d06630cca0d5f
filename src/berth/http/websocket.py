"""The server's side of RFC 6455, as much as an attach needs: binary messages both ways, ping, close.

    client frame = FIN RSV opcode | MASK length | mask | payload, masked
    a message = one frame, or a first and any number of continuations; control frames may come between

Standard input is a stream, so fragments are passed on as they come. A client that breaks the protocol
is told why in a close frame, and gone.
"""

import base64
import binascii
import hashlib
import struct

from berth.errors import InvalidParameter
from berth.http.exchange import Exchange, Hijacked

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_CONTINUATION = 0
_NORMAL, _PROTOCOL_ERROR, _TOO_LARGE = 1000, 1002, 1009
_MAX_PAYLOAD_BYTES = 1 << 20
_MAX_CONTROL_BYTES = 125
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class ProtocolError(Exception):
    """What the client sent is not RFC 6455; code: what its close frame says."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def accept_key(headers: dict[str, str]) -> str:
    """Sec-WebSocket-Accept for an upgrade request; InvalidParameter, in Docker's words, for what is none."""
    connection = {word.strip().lower() for word in headers.get("connection", "").split(",")}
    if headers.get("upgrade", "").lower() != "websocket" or "upgrade" not in connection:
        raise InvalidParameter("not websocket protocol")
    if headers.get("sec-websocket-version", "").strip() != "13":
        raise InvalidParameter(f"missing or bad WebSocket Version: {headers.get('sec-websocket-version', '')!r}; expected 13")
    key = headers.get("sec-websocket-key", "").strip()
    try:
        if len(base64.b64decode(key, validate=True)) != 16:
            raise ValueError
    except (ValueError, binascii.Error):
        raise InvalidParameter(f"mismatch challenge/response: Sec-WebSocket-Key {key!r} is not 16 bytes in base64") from None
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def frame(opcode: int, payload: bytes) -> bytes:
    """One whole message of a server: unmasked."""
    if len(payload) < 126:
        head = struct.pack(">BB", 0x80 | opcode, len(payload))
    elif len(payload) < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, 126, len(payload))
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 127, len(payload))
    return head + payload


def unmasked(payload: bytes, mask: bytes) -> bytes:
    """XOR with the mask, as one large number."""
    length = len(payload)
    key = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(length, "little")


class Decoder:
    """Bytes of a client -> (opcode, payload) of each frame, continuations as what they continue; sans I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._continued = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Frames that are whole by now; ProtocolError once what comes cannot be one."""
        self._buffer += data
        found = []
        while (one := self._next()) is not None:
            found.append(one)
        return found

    def _next(self) -> tuple[int, bytes] | None:
        if len(self._buffer) < 2:
            return None
        first, second = self._buffer[:2]
        final, opcode = first & 0x80, first & 0x0F
        self._check(first, second, final, opcode)
        size, length = {126: (2, None), 127: (8, None)}.get(second & 0x7F, (0, second & 0x7F))
        start = 2 + size + 4
        if len(self._buffer) < start:
            return None
        if length is None:
            length = int.from_bytes(self._buffer[2 : 2 + size], "big")
        if length > _MAX_PAYLOAD_BYTES:
            raise ProtocolError(_TOO_LARGE, f"a frame of {length} bytes; at most {_MAX_PAYLOAD_BYTES}")
        if len(self._buffer) < start + length:
            return None
        payload = unmasked(bytes(self._buffer[start : start + length]), bytes(self._buffer[start - 4 : start]))
        del self._buffer[: start + length]
        if opcode < CLOSE:
            opcode = opcode or self._continued
            self._continued = 0 if final else opcode
        return opcode, payload

    def _check(self, first: int, second: int, final: int, opcode: int) -> None:
        if first & 0x70:
            raise ProtocolError(_PROTOCOL_ERROR, "a reserved bit is set, and no extension was agreed on")
        if opcode not in (_CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise ProtocolError(_PROTOCOL_ERROR, f"opcode {opcode} is reserved")
        if not second & 0x80:
            raise ProtocolError(_PROTOCOL_ERROR, "a client's frame must be masked")
        if opcode >= CLOSE and (not final or second & 0x7F > _MAX_CONTROL_BYTES):
            raise ProtocolError(_PROTOCOL_ERROR, "a control frame must be whole, with at most 125 bytes")
        if opcode < CLOSE and (opcode == _CONTINUATION) != bool(self._continued):
            raise ProtocolError(_PROTOCOL_ERROR, "a continuation without a beginning, or a beginning within a message")


class WebSocket:
    """A hijacked connection as a stream of messages, with the methods of exchange.Hijacked."""

    def __init__(self, client: Hijacked, opcode: int) -> None:
        self._client = client
        self._opcode = opcode
        self._decoder = Decoder()
        self._waiting: list[tuple[int, bytes]] = []
        self._closed = False

    async def read(self) -> bytes:
        """The next message or fragment that is not empty; b'' once the client has closed or left."""
        while not self._closed:
            while self._waiting:
                opcode, payload = self._waiting.pop(0)
                if opcode == CLOSE:
                    self._say_close(payload[:2] or struct.pack(">H", _NORMAL))
                    return b""
                if opcode == PING:
                    await self._client.write(frame(PONG, payload))
                elif opcode in (TEXT, BINARY) and payload:
                    return payload
            data = await self._client.read()
            if not data:
                return b""
            try:
                self._waiting = self._decoder.feed(data)
            except ProtocolError as error:
                self._say_close(struct.pack(">H", error.code) + str(error).encode()[:100])
        return b""

    async def write(self, data: bytes) -> None:
        if data and not self._closed:
            await self._client.write(frame(self._opcode, data))

    async def gone(self) -> None:
        await self._client.gone()

    def _say_close(self, payload: bytes) -> None:
        """A close frame, and no more after it; the transport still sends what it holds."""
        if not self._closed:
            self._closed = True
            self._client.write_now(frame(CLOSE, payload))
            self._client.close()

    def close(self) -> None:
        self._say_close(struct.pack(">H", _NORMAL))


def upgrade(exchange: Exchange, opcode: int) -> WebSocket:
    """Answers an upgrade request; InvalidParameter if it is none."""
    head = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(exchange.headers)}\r\n\r\n"
    )
    return WebSocket(exchange.hijack("", head=head), opcode)
