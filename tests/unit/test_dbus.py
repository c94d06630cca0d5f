"""The D-Bus client: its codec alone, against hostile peers, and against a real bus with dbus-send beside it."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.errors import BerthError, DataLoss, Forbidden, InvalidParameter, Unavailable
from berth.linux import dbus

BUS = "org.freedesktop.DBus"

# -- codec ------------------------------------------------------------------------------------------

_RANGES = {
    "y": (0, 255), "n": (-(1 << 15), (1 << 15) - 1), "q": (0, (1 << 16) - 1), "i": (-(1 << 31), (1 << 31) - 1),
    "u": (0, (1 << 32) - 1), "x": (-(1 << 63), (1 << 63) - 1), "t": (0, (1 << 64) - 1),
}  # fmt: skip
_BASIC: dict[str, st.SearchStrategy[Any]] = {
    **{code: st.integers(*limits) for code, limits in _RANGES.items()},
    "b": st.booleans(), "d": st.floats(allow_nan=False), "o": st.sampled_from(["/", "/a", "/a_b/C9"]),
    "s": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    "g": st.sampled_from(["", "s", "a{sv}", "(iai)"]),
}  # fmt: skip


def _typed() -> st.SearchStrategy[tuple[str, Any]]:
    """(signature, value) of one complete type."""
    signatures = st.recursive(
        st.sampled_from(sorted(_BASIC)),
        lambda inner: st.one_of(
            inner.map("a{}".format), st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({''.join(parts)})"),
            st.builds("a{{{}{}}}".format, st.sampled_from("sqy"), inner), st.just("v"),
        ),
        max_leaves=5,
    )  # fmt: skip
    return signatures.map(lambda text: text.replace("a{}", "a")).flatmap(lambda text: st.tuples(st.just(text), _value(text)))


def _value(signature: str) -> st.SearchStrategy[Any]:
    if signature in _BASIC:
        return _BASIC[signature]
    if signature == "v":
        return st.sampled_from(sorted(_BASIC)).flatmap(lambda code: st.tuples(st.just(code), _BASIC[code]))
    if signature == "ay":
        return st.binary(max_size=9)
    if signature.startswith("a{"):
        return st.dictionaries(_BASIC[signature[2]], _value(signature[3:-1]), max_size=3)
    if signature.startswith("a"):
        return st.lists(_value(signature[1:]), max_size=3)
    return st.tuples(*(_value(part) for part in dbus.split(signature[1:-1])))


@given(st.lists(_typed(), max_size=3), st.sampled_from("<>"))
@settings(deadline=None)
def test_round_trip(typed: list[tuple[str, Any]], order: str) -> None:
    signature, values = "".join(code for code, _ in typed), tuple(value for _, value in typed)
    assert dbus.unpack(signature, dbus.pack(signature, values, order), order) == values


def test_bytes_of_the_specification() -> None:
    """The example in "Marshaling containers": an array of one UINT64 5, after a byte to show padding."""
    assert dbus.pack("at", ([5],), ">") == bytes.fromhex("00000008 00000000 0000000000000005")
    assert dbus.pack("sg", ("foo", "a(ii)")) == b"\x03\0\0\0foo\0\x05a(ii)\0"


@pytest.mark.parametrize(
    "signature",
    ["a", "(", "()", "(i", ")", "{sv}", "a{vs}", "a{s}", "a{ss", "z", "a" * 33 + "i", "(" * 33 + "i" + ")" * 33, "i" * 256],
)
def test_signatures_that_are_none(signature: str) -> None:
    with pytest.raises(DataLoss, match="signature"):
        dbus.split(signature)


@pytest.mark.parametrize(
    ("signature", "value"),
    [("y", 256), ("u", -1), ("i", "1"), ("s", 5), ("s", "a\0b"), ("s", "\udc80"), ("o", "a"), ("o", "/a/"), ("as", 5), ("(ii)", (1,)),
     ("v", ("ii", 1)), ("a{ss}", [1]), ("ay", [256])],
)  # fmt: skip
def test_values_that_do_not_fit(signature: str, value: object) -> None:
    with pytest.raises(InvalidParameter):
        dbus.pack(signature, (value,))


@pytest.mark.parametrize(
    ("signature", "data"),
    [("u", b"\0\0\0"), ("s", b"\xff\xff\xff\x7fa\0"), ("s", b"\x01\0\0\0ab"), ("s", b"\x01\0\0\0\xff\0"), ("s", b"\x02\0\0\0a\0\0"),
     ("b", b"\2\0\0\0"), ("yu", b"\1\1\1\1\0\0\0\0"), ("ai", b"\xff\xff\xff\xff"), ("ai", b"\5\0\0\0" + bytes(8)), ("i", bytes(8)),
     ("v", b"\2ii\0" + bytes(8)), ("v", b"\0\0"), ("o", b"\1\0\0\0a\0"), ("v", b"\1v\0" * 70 + b"\1y\0\0")],
)  # fmt: skip
def test_bytes_that_lie(signature: str, data: bytes) -> None:
    with pytest.raises(DataLoss):
        dbus.unpack(signature, data)


_ANSWER = dbus.message(
    dbus.ERROR, 7, [(dbus.REPLY_SERIAL, 1), (dbus.ERROR_NAME, "a.B"), (dbus.SENDER, ":1.0")], "sv", ("no", ("u", 1))
)


@given(st.binary(max_size=200) | st.tuples(st.integers(0, len(_ANSWER) - 1), st.binary(min_size=1, max_size=4)).map(
    lambda change: _ANSWER[: change[0]] + change[1] + _ANSWER[change[0] + len(change[1]) :]
))  # fmt: skip
@settings(deadline=None, max_examples=300)
def test_no_bytes_but_an_error_of_ours(data: bytes) -> None:
    try:
        dbus.Message(data).values()
    except DataLoss:
        pass


def test_a_message_too_large_is_refused_by_its_head() -> None:
    head = _ANSWER[:4] + (1 << 28).to_bytes(4, "little") + _ANSWER[8:16]
    with pytest.raises(DataLoss, match="are not taken"):
        dbus.message_length(head)


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    text = "tcp:host=x;unix:path=/run/a%20b,guid=5;unix:abstract=/tmp/x;unix:runtime=yes;unix:tmpdir=/tmp"
    assert dbus.socket_names(text) == ["/run/a b", "\0/tmp/x", "/run/user/7/bus"]
    assert dbus.socket_names("") == []
    with pytest.raises(InvalidParameter):
        dbus.socket_names("unix:path=/a%zz")


# -- peers that are broken or hostile ----------------------------------------------------------------


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """A socket whose one client is answered with fixed bytes: (handshake, then what follows the first call)."""
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = []

    def listen(handshake: bytes, answer: bytes = b"", *, hang: bool = False) -> str:
        path = str(tmp_path / f"peer{len(sockets)}")
        listener = socket.socket(socket.AF_UNIX)
        sockets.append(listener)
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.recv(4096)
                    connection.sendall(handshake)
                    if handshake.endswith(b"OK 1\r\n"):
                        connection.recv(4096)
                        connection.sendall(answer)
                    if hang:
                        connection.recv(4096)  # until the client has had enough
                except OSError:
                    pass

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return path

    yield listen
    for thread in threads:
        thread.join(10)
    for listener in sockets:
        listener.close()


def _ask(path: str, patience_s: float = 5.0) -> tuple[Any, ...]:
    with dbus.Connection(path, bus=False, patience_s=patience_s) as connection:
        return connection.reply(connection.send("/", "a.B", "Do"))


_OK = b"DATA\r\nOK 1\r\n"


def test_an_error_is_a_method_error(peer: Callable[..., str]) -> None:
    with pytest.raises(dbus.MethodError, match=r"no \(a\.B\)") as caught:
        _ask(peer(_OK, _ANSWER))
    assert caught.value.name == "a.B"


@pytest.mark.parametrize("order", ["<", ">"])
def test_either_byte_order(peer: Callable[..., str], order: str) -> None:
    answer = dbus.message(dbus.RETURN, 9, [(dbus.REPLY_SERIAL, 1)], "su", ("yes", 5), order)
    other = dbus.message(dbus.RETURN, 8, [(dbus.REPLY_SERIAL, 77)], "s", ("not for us",), order)
    assert _ask(peer(_OK, other + answer)) == ("yes", 5)


@pytest.mark.parametrize(
    ("handshake", "answer", "kind"),
    [
        (b"REJECTED EXTERNAL\r\n", b"", Forbidden),
        (b"220 mail.example ESMTP\r\n", b"", DataLoss),
        (b"x" * 5000, b"", DataLoss),
        (b"", b"", Unavailable),
        (_OK, b"", Unavailable),
        (_OK, _ANSWER[:40], Unavailable),
        (_OK, b"x" + _ANSWER[1:], DataLoss),
        (_OK, b"B" + _ANSWER[1:], DataLoss),
        (_OK, _ANSWER[:4] + b"\0\0\0\x7f" + _ANSWER[8:], DataLoss),
        (_OK, _ANSWER[:12] + b"\1\0\0\0" + _ANSWER[16:], DataLoss),
    ],
)
def test_broken_peers(peer: Callable[..., str], handshake: bytes, answer: bytes, kind: type[BerthError]) -> None:
    with pytest.raises(kind):
        _ask(peer(handshake, answer))


@pytest.mark.parametrize(("handshake", "answer"), [(b"", b""), (b"DATA\r\n", b""), (_OK, b""), (_OK, _ANSWER[:20])])
def test_silent_peers_are_given_up(peer: Callable[..., str], handshake: bytes, answer: bytes) -> None:
    with pytest.raises(Unavailable, match=r"does not answer within 0\.1 s"):
        _ask(peer(handshake, answer, hang=True), patience_s=0.1)


def test_signals_without_end(peer: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbus, "LARGEST_MESSAGE", 10_000)
    signal = dbus.message(dbus.SIGNAL, 1, [(dbus.PATH, "/"), (dbus.INTERFACE, "a.B"), (dbus.MEMBER, "C")], "s", ("x" * 500,))
    with pytest.raises(DataLoss, match="signals and no reply"):
        _ask(peer(_OK, signal * 30))


def test_a_signal_before_the_reply_is_kept(peer: Callable[..., str]) -> None:
    signal = dbus.message(dbus.SIGNAL, 1, [(dbus.PATH, "/"), (dbus.INTERFACE, "a.B"), (dbus.MEMBER, "C")], "u", (5,))
    answer = dbus.message(dbus.RETURN, 2, [(dbus.REPLY_SERIAL, 1)])
    with dbus.Connection(peer(_OK, signal + answer), bus=False, patience_s=5) as connection:
        assert connection.reply(connection.send("/", "a.B", "Do")) == ()
        assert connection.signal("a.B", "C", lambda values: values == (5,)) == (5,)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot connect to D-Bus at"):
        dbus.connect([(str(tmp_path / "none"), True)])


# -- a real bus --------------------------------------------------------------------------------------


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[str]:
    if not shutil.which("dbus-daemon") or not shutil.which("dbus-send"):
        pytest.skip("needs dbus-daemon and dbus-send")
    address = f"unix:path={tmp_path}/bus"
    command = ["dbus-daemon", "--session", "--nofork", "--print-address", f"--address={address}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline().startswith(b"unix:path=")
        yield address
        daemon.terminate()


def test_a_real_bus(bus: str) -> None:
    names = [(name, True) for name in dbus.socket_names(bus)]
    with dbus.connect(names, 10) as connection:
        at = ("/org/freedesktop/DBus", BUS)
        watched = connection.send(*at, "AddMatch", "s", ("type='signal',interface='a.B',member='C'",), destination=BUS)
        uid = connection.send(*at, "GetConnectionUnixUser", "s", (BUS,), destination=BUS)
        wrong = connection.send(*at, "Nonsense", destination=BUS)
        assert connection.reply(watched) == ()
        assert connection.reply(uid) == (os.geteuid(),)
        with pytest.raises(dbus.MethodError) as caught:
            connection.reply(wrong)
        assert caught.value.name == "org.freedesktop.DBus.Error.UnknownMethod"
        sent = [
            "dbus-send",
            f"--bus={bus}",
            "--type=signal",
            "/x",
            "a.B.C",
            "string:hé",
            "array:int32:1,2",
            "dict:string:uint32:k,7",
        ]
        sent += ["variant:boolean:true", "double:0.5", "objpath:/a", "byte:9", "int64:-5"]
        subprocess.run(sent, check=True)
        found = connection.signal("a.B", "C", lambda values: values[0] == "hé")
    assert found == ("hé", [1, 2], {"k": 7}, ("b", True), 0.5, "/a", 9, -5)
