"""RFC 6455 as an attach needs it: the handshake, frames in any pieces, and what breaks the protocol."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidParameter
from berth.http import websocket

GOOD = {
    "upgrade": "websocket", "connection": "keep-alive, Upgrade", "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


def client_frame(opcode: int, payload: bytes, *, final: bool = True, mask: bytes = b"abcd", first: int = 0) -> bytes:
    length = len(payload)
    if length < 126:
        head = struct.pack(">BB", (final << 7) | first | opcode, 0x80 | length)
    elif length < 1 << 16:
        head = struct.pack(">BBH", (final << 7) | first | opcode, 0x80 | 126, length)
    else:
        head = struct.pack(">BBQ", (final << 7) | first | opcode, 0x80 | 127, length)
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def test_the_sample_handshake_of_the_rfc() -> None:
    assert websocket.accept_key(GOOD) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"upgrade": "tcp"}, "not websocket protocol"), ({"connection": "close"}, "not websocket protocol"),
        ({"sec-websocket-version": "8"}, "missing or bad WebSocket Version"), ({"sec-websocket-key": "x"}, "mismatch challenge/response"),
        ({"sec-websocket-key": ""}, "mismatch challenge/response"), ({"upgrade": ""}, "not websocket protocol"),
    ],
)  # fmt: skip
def test_bad_handshakes(change: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        websocket.accept_key({**GOOD, **change})


@given(st.lists(st.tuples(st.sampled_from([1, 2, 9]), st.binary(max_size=120)), max_size=8), st.integers(0, 1 << 30))
def test_frames_in_any_pieces(messages: list[tuple[int, bytes]], seed: int) -> None:
    dice = random.Random(seed)
    data = b"".join(client_frame(opcode, payload, mask=dice.randbytes(4)) for opcode, payload in messages)
    decoder, found = websocket.Decoder(), []
    while data:
        size = dice.randint(1, 40)
        found += decoder.feed(data[:size])
        data = data[size:]
    assert found == messages


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536, 1 << 20])
def test_lengths(length: int) -> None:
    payload = b"x" * length
    assert websocket.Decoder().feed(client_frame(2, payload)) == [(2, payload)]
    head = websocket.frame(2, payload)
    assert head.endswith(payload)
    assert len(head) - length == (2 if length < 126 else 4 if length < 65536 else 10)


def test_fragments_with_a_ping_between() -> None:
    decoder = websocket.Decoder()
    data = client_frame(1, b"one", final=False) + client_frame(9, b"p") + client_frame(0, b"two", final=False) + client_frame(0, b"three")
    assert decoder.feed(data) == [(1, b"one"), (9, b"p"), (1, b"two"), (1, b"three")]
    assert decoder.feed(client_frame(2, b"next")) == [(2, b"next")]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (client_frame(2, b"x", first=0x40), 1002), (client_frame(3, b"x"), 1002), (b"\x82\x01x", 1002),
        (client_frame(9, b"x", final=False), 1002), (client_frame(8, b"x" * 126), 1002), (client_frame(0, b"x"), 1002),
        (client_frame(1, b"x", final=False) + client_frame(1, b"y"), 1002),
        (struct.pack(">BBQ", 0x82, 0xFF, 1 << 62) + b"mask", 1009), (struct.pack(">BBQ", 0x82, 0xFF, (1 << 20) + 1) + b"mask", 1009),
    ],
)  # fmt: skip
def test_what_is_no_frame(data: bytes, code: int) -> None:
    with pytest.raises(websocket.ProtocolError) as error:
        websocket.Decoder().feed(data)
    assert error.value.code == code
