"""D-Bus as far as talking to systemd needs it: codec, SASL EXTERNAL, calls and signals on a unix socket.

    client                                            peer (systemd itself, or a bus)
      | NUL AUTH EXTERNAL, DATA, BEGIN    ------------->|
      |<------------- DATA, OK guid                     |
      | [Hello] [AddMatch] call call ...  ------------->|   one write for all that is queued
      |<------------- returns, errors, signals, in any order

Calls wait for the OK, though a bus takes them with BEGIN: systemd (257, tried) reads them together with
the handshake then, sees no more bytes come, and never looks at them.

The identity is left empty: the peer takes it from the socket (SO_PEERCRED), which is right in a user
namespace too, where the uid here is not the uid there.

Source: D-Bus specification 0.43, "Type system", "Marshaling", "Message protocol", "Authentication".
"""

import os
import socket
import struct
import time

from berth.errors import DataLoss, Forbidden, InvalidParameter, SystemFailure, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE = range(1, 9)
_FIELD_TYPES = dict(zip(range(1, 10), "osssussgu", strict=True))

# The specification allows 128 MiB (and 64 in an array); what systemd says to us has some hundred bytes.
LARGEST_MESSAGE = 1 << 24
_LARGEST_LINE = 4096  # of the handshake
_DEEPEST = 64  # containers in one value: 32 arrays and 32 structs
_HEAD = 16  # bytes of a message that tell how long it is

_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}
_BASIC = "ybnqiuxtdhsog"
_ALIGNMENT = {
    "y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "b": 4, "i": 4, "u": 4, "h": 4, "s": 4, "o": 4, "a": 4,
    "x": 8, "t": 8, "d": 8, "(": 8, "{": 8,
}  # fmt: skip
_ORDERS = {ord("l"): "<", ord("B"): ">"}


class MethodError(SystemFailure):
    """The peer answered with an error; `name` is what D-Bus calls it."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{text or 'no reason given'} ({name})")
        self.name = name
        self.text = text


# -- types ----------------------------------------------------------------------------------------


def split(signature: str) -> list[str]:
    """A signature's complete types. Raises DataLoss where it is none."""
    if len(signature) > 255:
        raise DataLoss(f"D-Bus signature of {len(signature)} characters, the most is 255")
    found, at = [], 0
    while at < len(signature):
        end = _type_end(signature, at, 0, 0)
        found.append(signature[at:end])
        at = end
    return found


def _type_end(signature: str, at: int, arrays: int, structs: int) -> int:
    """Where the complete type that begins at `at` ends."""
    code = signature[at : at + 1]
    if code and (code in _BASIC or code == "v"):
        return at + 1
    if code == "a" and arrays < 32:
        if signature[at + 1 : at + 2] != "{":
            return _type_end(signature, at + 1, arrays + 1, structs)
        key = signature[at + 2 : at + 3]
        if key and key in _BASIC and structs < 32:
            end = _type_end(signature, at + 3, arrays + 1, structs + 1)
            if signature[end : end + 1] == "}":
                return end + 1
    if code == "(" and structs < 32:
        end = _type_end(signature, at + 1, arrays, structs + 1)
        while signature[end : end + 1] not in (")", ""):
            end = _type_end(signature, end, arrays, structs + 1)
        if signature[end : end + 1] == ")":
            return end + 1
    raise DataLoss(f"D-Bus signature {signature!r} is not valid at character {at}")


def is_object_path(text: str) -> bool:
    """`/`, or elements of letters, digits and `_`, each with a `/` before it."""
    if text == "/":
        return True
    return text.startswith("/") and all(
        part and part.isascii() and part.replace("_", "a").isalnum() for part in text[1:].split("/")
    )


# -- values to bytes ------------------------------------------------------------------------------
#
# integers int, b bool, d float, s o g str, v (signature, value), a list, ay bytes, a{} dict, () tuple


def pack(signature: str, values: "tuple[Any, ...] | list[Any]", order: str = "<") -> bytes:
    """Values as a message's body. Raises InvalidParameter for a value that its type cannot hold."""
    types = split(signature)
    if len(types) != len(values):
        raise InvalidParameter(f"D-Bus signature {signature!r} takes {len(types)} values, not {len(values)}")
    out = bytearray()
    for code, value in zip(types, values, strict=True):
        _write(out, code, value, order, 0)
    return bytes(out)


def _write(out: bytearray, code: str, value: "Any", order: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise InvalidParameter(f"D-Bus value nested deeper than {_DEEPEST}")
    kind = code[0]
    out += bytes(-len(out) % _ALIGNMENT[kind])
    try:
        if kind in _FIXED:
            out += struct.pack(order + _FIXED[kind], value)
        elif kind in "so":
            out += struct.pack(order + "I", len(_text(kind, value))) + _text(kind, value) + b"\0"
        elif kind == "g":
            split(value)
            out += bytes([len(value)]) + value.encode("ascii") + b"\0"
        elif kind == "v":
            inner, value = value
            if len(split(inner)) != 1:
                raise InvalidParameter(f"D-Bus variant of {inner!r}: must be one complete type")
            _write(out, "g", inner, order, depth + 1)
            _write(out, inner, value, order, depth + 1)
        elif kind == "a":
            _write_array(out, code[1:], value, order, depth + 1)
        else:
            members = split(code[1:-1])
            for member, each in zip(members, value, strict=True):
                _write(out, member, each, order, depth + 1)
    except (struct.error, TypeError, ValueError, AttributeError) as error:
        raise InvalidParameter(f"D-Bus type {code!r} cannot hold {value!r:.100}: {error}") from None


def _write_array(out: bytearray, element: str, value: "Any", order: str, depth: int) -> None:
    length_at = len(out)
    out += bytes(4)
    out += bytes(-len(out) % _ALIGNMENT[element[0]])
    start = len(out)
    if element == "y":
        out += bytes(value)
    else:
        for item in value.items() if element[0] == "{" else value:
            _write(out, element, item, order, depth)
    struct.pack_into(order + "I", out, length_at, len(out) - start)


def _text(kind: str, value: str) -> bytes:
    data = value.encode()
    if b"\0" in data:
        raise ValueError("a NUL in a string")
    if kind == "o" and not is_object_path(value):
        raise ValueError("not an object path")
    return data


# -- bytes to values ------------------------------------------------------------------------------


def unpack(signature: str, data: bytes, order: str = "<") -> "tuple[Any, ...]":
    """A message's body as values; all of it. Raises DataLoss."""
    reader = _Reader(data, order)
    values = tuple(reader.read(code, 0) for code in split(signature))
    if reader.at != len(data):
        raise DataLoss(f"D-Bus message: {len(data) - reader.at} bytes behind the last value")
    return values


class _Reader:
    """Takes values off a buffer; never reads behind its end, whatever the lengths in it say."""

    __slots__ = ("_data", "_order", "at")

    def __init__(self, data: bytes, order: str, at: int = 0) -> None:
        self._data = data
        self._order = order
        self.at = at

    def _take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise DataLoss(f"D-Bus message is cut off: {count} bytes wanted at {self.at} of {len(self._data)}")
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def align(self, to: int) -> None:
        if self._take(-self.at % to).strip(b"\0"):
            raise DataLoss(f"D-Bus message: padding before byte {self.at} is not zero")

    def _fixed(self, kind: str) -> "Any":
        form = self._order + _FIXED[kind]
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def read(self, code: str, depth: int) -> "Any":
        if depth > _DEEPEST:
            raise DataLoss(f"D-Bus message: values nested deeper than {_DEEPEST}")
        kind = code[0]
        self.align(_ALIGNMENT[kind])
        if kind == "b":
            return self._boolean()
        if kind in _FIXED:
            return self._fixed(kind)
        if kind in "sog":
            return self._string(kind)
        if kind == "v":
            inner = self._string("g")
            if len(split(inner)) != 1:
                raise DataLoss(f"D-Bus message: variant of {inner!r}")
            return inner, self.read(inner, depth + 1)
        if kind == "a":
            return self._array(code[1:], depth + 1)
        return tuple(self.read(member, depth + 1) for member in split(code[1:-1]))

    def _boolean(self) -> bool:
        number = self._fixed("u")
        if number > 1:
            raise DataLoss(f"D-Bus message: boolean {number}")
        return bool(number)

    def _string(self, kind: str) -> str:
        data = self._take(self._fixed("y" if kind == "g" else "u") + 1)
        if data.find(b"\0") != len(data) - 1:
            raise DataLoss("D-Bus message: string without its NUL, or with one too many")
        try:
            text = data[:-1].decode()
        except UnicodeDecodeError:
            raise DataLoss("D-Bus message: string that is not UTF-8") from None
        if kind == "o" and not is_object_path(text):
            raise DataLoss(f"D-Bus message: object path {text!r:.100}")
        if kind == "g":
            split(text)
        return text

    def _array(self, element: str, depth: int) -> "Any":
        length = self._fixed("u")
        self.align(_ALIGNMENT[element[0]])
        end = self.at + length
        if end > len(self._data):
            raise DataLoss(f"D-Bus message is cut off: an array of {length} bytes at {self.at} of {len(self._data)}")
        if element == "y":
            return self._take(length)
        found = []
        while self.at < end:
            found.append(self.read(element, depth))
        if self.at != end:
            raise DataLoss(f"D-Bus message: an array of {length} bytes ends inside of a value")
        return dict(found) if element[0] == "{" else found


# -- messages -------------------------------------------------------------------------------------


class Message:
    """A message received. Its body is decoded when it is asked for: most signals are for others."""

    __slots__ = (
        "_body", "_order", "error_name", "interface", "kind", "member", "path", "reply_serial", "sender", "serial",
        "signature", "size",
    )  # fmt: skip

    def __init__(self, data: bytes) -> None:
        """Of the whole message. Raises DataLoss."""
        length = message_length(data)
        self.size = len(data)
        self._order = _ORDERS[data[0]]
        self.kind = data[1]
        self.serial: int = struct.unpack_from(self._order + "I", data, 8)[0]
        reader = _Reader(data, self._order, 12)
        fields = self._checked(reader.read("a(yv)", 0))
        reader.align(8)
        self._body = data[reader.at : length]
        self.path: str = fields.get(PATH, "")
        self.interface: str = fields.get(INTERFACE, "")
        self.member: str = fields.get(MEMBER, "")
        self.error_name: str = fields.get(ERROR_NAME, "")
        self.reply_serial: int = fields.get(REPLY_SERIAL, 0)
        self.sender: str = fields.get(SENDER, "")
        self.signature: str = fields.get(SIGNATURE, "")
        if len(data) != length or not self.serial:
            raise DataLoss(f"D-Bus message of {len(data)} bytes, serial {self.serial}, claims to have {length}")

    def _checked(self, pairs: "list[tuple[int, Any]]") -> "dict[int, Any]":
        """Header fields; those unknown to us are ignored, as the specification wants it."""
        for code, (signature, _) in pairs:
            if _FIELD_TYPES.get(code, signature) != signature:
                raise DataLoss(f"D-Bus message: header field {code} of type {signature!r}")
        return {code: value for code, (_, value) in pairs}

    def values(self) -> "tuple[Any, ...]":
        """The body. Raises DataLoss."""
        return unpack(self.signature, self._body, self._order)


def message_length(head: bytes) -> int:
    """How many bytes a message has, from its first 16. Raises DataLoss for one that cannot be."""
    if len(head) < _HEAD:
        raise DataLoss(f"D-Bus message is cut off after {len(head)} bytes")
    order = _ORDERS.get(head[0])
    if order is None or head[3] != 1 or head[1] == 0:
        raise DataLoss(f"not a D-Bus message: {head[:_HEAD].hex()}")
    body, fields = struct.unpack_from(order + "I4xI", head, 4)
    length: int = _HEAD + fields + -fields % 8 + body
    if length > LARGEST_MESSAGE:
        raise DataLoss(f"D-Bus message of {length} bytes, more than {LARGEST_MESSAGE} are not taken")
    return length


def message(
    kind: int, serial: int, fields: "list[tuple[int, Any]]", signature: str = "", values: "tuple[Any, ...]" = (),
    order: str = "<",
) -> bytes:  # fmt: skip
    """A message's bytes. fields: (code, value); empty ones are left out, and the signature is added."""
    body = pack(signature, values, order)
    header = [(code, (_FIELD_TYPES[code], value)) for code, value in [*fields, (SIGNATURE, signature)] if value]
    mark = ord("l" if order == "<" else "B")
    head = pack("yyyyuua(yv)", (mark, kind, 0, 1, len(body), serial, header), order)
    return head + bytes(-len(head) % 8) + body


# -- addresses ------------------------------------------------------------------------------------


def socket_names(address: str) -> list[str]:
    """What to connect to for a D-Bus address, in order: paths, or names with a leading NUL (abstract)."""
    found = []
    for entry in address.split(";"):
        transport, _, rest = entry.partition(":")
        keys = dict(pair.partition("=")[::2] for pair in rest.split(","))
        if transport != "unix":
            continue  # tcp, autolaunch, unixexec: none of them is a session's or the system's
        if "path" in keys:
            found.append(_unescape(keys["path"]))
        elif "abstract" in keys:
            found.append("\0" + _unescape(keys["abstract"]))
        elif keys.get("runtime") == "yes" and os.environ.get("XDG_RUNTIME_DIR"):
            found.append(os.environ["XDG_RUNTIME_DIR"] + "/bus")
    return found


def _unescape(text: str) -> str:
    first, *rest = text.split("%")
    try:
        data = os.fsencode(first) + b"".join(bytes.fromhex(part[:2]) + os.fsencode(part[2:]) for part in rest)
    except ValueError:
        raise InvalidParameter(f"D-Bus address: {text!r} is not escaped as it should be") from None
    return os.fsdecode(data)


# -- a connection ---------------------------------------------------------------------------------


class Connection:
    """One peer. Calls are queued and sent when something is waited for; every wait ends at a deadline.

    Own it with `with`. bus: the peer is a message bus, not a program that speaks D-Bus itself.
    patience_s: how long one wait may last. Raises Unavailable when the peer is silent or gone,
    Forbidden when it does not accept us, DataLoss when what it sends is not D-Bus.
    """

    __slots__ = (
        "_authenticated", "_in", "_kept", "_kept_bytes", "_out", "_pending", "_replies", "_serial", "_socket", "bus",
        "name", "patience_s",
    )  # fmt: skip

    def __init__(self, name: str, *, bus: bool, patience_s: float = 30.0) -> None:
        self.name = name.replace("\0", "@")
        self.bus = bus
        self.patience_s = patience_s
        self._out = bytearray()
        self._in = bytearray()
        self._authenticated = False
        self._serial = 0
        self._pending: set[int] = set()
        self._replies: dict[int, Message] = {}
        self._kept: list[Message] = []  # signals that came while a reply was waited for
        self._kept_bytes = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(patience_s)
            self._socket.connect(name)
        except OSError as error:
            self._socket.close()
            raise Unavailable(f"cannot connect to D-Bus at {self.name}: {error.strerror or error}") from None
        except BaseException:
            self._socket.close()
            raise
        if bus:
            self._queue("/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", "org.freedesktop.DBus", "", ())

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(
        self, path: str, interface: str, member: str, signature: str = "", values: "tuple[Any, ...]" = (),
        *, destination: str = "",
    ) -> int:  # fmt: skip
        """Queues a call; its serial is for `reply`."""
        serial = self._queue(path, interface, member, destination, signature, values)
        self._pending.add(serial)
        return serial

    def _queue(self, path: str, interface: str, member: str, destination: str, signature: str, values: "tuple[Any, ...]") -> int:
        fields = [(PATH, path), (INTERFACE, interface), (MEMBER, member), (DESTINATION, destination)]
        self._serial += 1
        self._out += message(CALL, self._serial, fields, signature, values)
        return self._serial

    def reply(self, serial: int) -> "tuple[Any, ...]":
        """What a call returned. Raises MethodError where that is an error."""
        if serial not in self._replies:
            for _ in self._messages():
                if serial in self._replies:
                    break
        self._pending.discard(serial)
        found = self._replies.pop(serial)
        values = found.values()
        if found.kind == ERROR:
            raise MethodError(found.error_name, values[0] if values and isinstance(values[0], str) else "")
        return values

    def signal(self, interface: str, member: str, wanted: "Callable[[tuple[Any, ...]], bool]") -> "tuple[Any, ...]":
        """The first signal of this name, of those kept and those to come, that is `wanted`."""
        for kept in self._kept:
            if kept.interface == interface and kept.member == member and wanted(kept.values()):
                self._kept.remove(kept)
                return kept.values()
        self._kept, self._kept_bytes = [], 0  # who waits for a signal has had every reply that decides which
        for found in self._messages():
            self._kept, self._kept_bytes = [], 0
            if found.kind == SIGNAL and found.interface == interface and found.member == member and wanted(found.values()):
                return found.values()
        raise AssertionError("_messages ends only by raising")

    def _messages(self) -> "Iterator[Message]":
        """Sends what is queued, and what comes in from then on, until the deadline; replies are filed."""
        deadline = time.monotonic() + self.patience_s
        try:
            self._wait_until(deadline)
            if not self._authenticated:
                self._socket.sendall(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
                while not self._authenticated:
                    self._authenticated = self._handshake_line(deadline)
            out, self._out = bytes(self._out), bytearray()
            self._socket.sendall(out)
            while True:
                found = self._next(deadline)
                if found.kind in (RETURN, ERROR) and found.reply_serial in self._pending:
                    self._replies[found.reply_serial] = found
                elif found.kind == SIGNAL:
                    self._keep(found)
                yield found
        except TimeoutError:
            raise Unavailable(f"D-Bus at {self.name} does not answer within {self.patience_s:g} s") from None
        except OSError as error:
            raise Unavailable(f"D-Bus at {self.name}: {error.strerror}") from None

    def _keep(self, found: Message) -> None:
        self._kept_bytes += found.size
        if self._kept_bytes > LARGEST_MESSAGE:
            raise DataLoss(f"D-Bus at {self.name} sends signals and no reply")
        self._kept.append(found)

    def _wait_until(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def _fill(self, deadline: float) -> None:
        self._wait_until(deadline)
        data = self._socket.recv(65536)
        if not data:
            raise Unavailable(f"D-Bus at {self.name} closed the connection")
        self._in += data

    def _handshake_line(self, deadline: float) -> bool:
        """Takes one line of the handshake; whether it was the last."""
        while self._in.find(b"\r\n") < 0:
            if len(self._in) > _LARGEST_LINE:
                raise DataLoss(f"what listens at {self.name} does not speak D-Bus: {bytes(self._in[:40])!r}")
            self._fill(deadline)
        line, _, rest = bytes(self._in).partition(b"\r\n")
        self._in = bytearray(rest)
        word = line.partition(b" ")[0]
        if word == b"REJECTED":
            raise Forbidden(f"D-Bus at {self.name} does not accept uid {os.geteuid()}")
        if word not in (b"DATA", b"OK"):
            raise DataLoss(f"what listens at {self.name} does not speak D-Bus: {line[:40]!r}")
        return word == b"OK"

    def _next(self, deadline: float) -> Message:
        while len(self._in) < _HEAD:
            self._fill(deadline)
        length = message_length(bytes(self._in[:_HEAD]))
        while len(self._in) < length:
            self._fill(deadline)
        data = bytes(self._in[:length])
        del self._in[:length]
        self._wait_until(deadline)  # a peer that never pauses does not get around it
        return Message(data)


def connect(names: "list[tuple[str, bool]]", patience_s: float = 30.0) -> Connection:
    """To the first that listens, of (socket name, whether it is a bus). Raises the last one's error."""
    failure: Unavailable = Unavailable("no D-Bus address to connect to")
    for name, bus in names:
        try:
            return Connection(name, bus=bus, patience_s=patience_s)
        except Unavailable as error:
            failure = error
    raise failure
