"""Messages of the resolver: what is read from containers and servers, and what is made for them. dnspython reads the results."""

import itertools
import struct

import pytest

pytest.importorskip("dns", reason="needs dnspython")
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from berth.network.dns import answers, names, questions, replies
from berth.network.dns.cache import Cache

try:
    from hypothesis import example, given
    from hypothesis import strategies as st
except ImportError:
    pytest.skip("needs hypothesis", allow_module_level=True)


def table() -> names.Names:
    found = names.Names()
    for network in ("front", "back"):
        found.set_network(network[0], network)
    found.set_endpoint("f", "1", ["Web", "0123456789ab", "www", "all"], ["10.0.0.2", "fd00::2"])
    found.set_endpoint("f", "2", ["db_1", "all"], ["10.0.0.3"])
    found.set_endpoint("b", "3", ["web", "a.b"], ["10.1.0.2"])
    found.set_endpoint("b", "4", ["six"], ["fd01::4"])
    return found


def asked(query: dns.message.Message, view: names.View, *, tcp: bool = False) -> dns.message.Message | None:
    data = query.to_wire()
    question = questions.parse(data)
    assert question
    answer = answers.of_names(view, question, data, tcp=tcp)
    return None if answer is None else dns.message.from_wire(data[:2] + answer)


def addresses(view: names.View, name: str, kind: str = "A") -> list[str] | None:
    """Texts of the records of an answer; None where the question is about no container."""
    found = asked(dns.message.make_query(name, kind), view)
    return None if found is None else [record.to_text() for rrset in found.answer for record in rrset]


FRONT, BACK = ["f"], ["b"]


@pytest.mark.parametrize(
    ("networks", "name", "kind", "expected"),
    [
        (FRONT, "web", "A", ["10.0.0.2"]), (FRONT, "WEB", "A", ["10.0.0.2"]), (FRONT, "web.", "A", ["10.0.0.2"]),
        (FRONT, "web", "AAAA", ["fd00::2"]), (FRONT, "0123456789ab", "A", ["10.0.0.2"]), (FRONT, "www", "A", ["10.0.0.2"]),
        (FRONT, "db_1", "A", ["10.0.0.3"]), (FRONT, "db_1", "AAAA", []), (BACK, "six", "A", []), (BACK, "six", "AAAA", ["fd01::4"]),
        (FRONT, "db_1", "MX", []), (FRONT, "db_1", "TXT", []), (FRONT, "db_1", "HTTPS", []), (FRONT, "web", "ANY", ["10.0.0.2", "fd00::2"]),
        (FRONT, "web.front", "A", ["10.0.0.2"]), (FRONT, "web.Front", "A", ["10.0.0.2"]), (FRONT, "web.back", "A", None),
        (FRONT, "six", "A", None), (FRONT, "web.front.back", "A", None), (FRONT, "front", "A", None), (FRONT, "example.org", "A", None),
        (FRONT, ".", "A", None), (BACK, "a.b", "A", ["10.1.0.2"]), (BACK, "a.b.back", "A", ["10.1.0.2"]), (BACK, "b.back", "A", None),
        (["f", "b"], "web", "A", ["10.0.0.2"]), (["b", "f"], "web", "A", ["10.1.0.2"]), (["b", "f"], "web.front", "A", ["10.0.0.2"]),
        (["b", "f"], "web", "AAAA", ["fd00::2"]),  # the first network has none of that family
        ([], "web", "A", None), (["nowhere"], "web", "A", None),
        (FRONT, "2.0.0.10.in-addr.arpa", "PTR", ["Web.front."]), (FRONT, "2.0.1.10.in-addr.arpa", "PTR", None),
        (BACK, "4.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.d.f.ip6.arpa", "PTR", ["six.back."]),
        (FRONT, "2.0.0.10.in-addr.arpa", "A", None), (FRONT, "web", "PTR", []),
    ],
)  # fmt: skip
def test_names_are_seen_as_docker_has_it(networks: list[str], name: str, kind: str, expected: list[str] | None) -> None:
    found = addresses(table().take_view(networks, {}), name, kind)
    assert found == expected


def test_links_are_seen_by_one_container_and_come_before_names() -> None:
    all_names = table()
    mine = all_names.take_view(["f", "b"], {"f": {"database": "db_1", "web": "DB_1"}})
    other = all_names.take_view(["f", "b"], {})
    assert addresses(mine, "database") == addresses(mine, "database.front") == ["10.0.0.3"]
    assert addresses(mine, "web") == ["10.0.0.3"]  # in that network it is the link's name now
    assert addresses(mine, "web.back") == ["10.1.0.2"]
    assert addresses(mine, "database.back") is None
    assert addresses(other, "database") is None


def test_several_addresses_take_turns() -> None:
    view = table().take_view(FRONT, {})
    data = dns.message.make_query("all", "A").to_wire()
    question = questions.parse(data)
    assert question
    first = answers.of_names(view, question, data)
    assert first
    turn = view.kept[answers.kept_key(data, False)]
    firsts = [dns.message.from_wire(data[:2] + answer).answer[0][0].to_text() for answer in (first, turn(), turn(), turn())]
    assert firsts in (["10.0.0.2", "10.0.0.3"] * 2, ["10.0.0.3", "10.0.0.2"] * 2)
    asked_anew = [addresses(view, name) for name in ("ALL", "aLL")]  # as different questions
    assert asked_anew[0] != asked_anew[1]


def test_what_is_kept_goes_with_every_change_of_a_name() -> None:
    all_names = table()
    view = all_names.take_view(["f", "b"], {})
    changes = (
        lambda: all_names.set_endpoint("f", "9", ["new"], ["10.0.0.9"]), lambda: all_names.remove_endpoint("f", "9"),
        lambda: all_names.set_network("b", "rear"), lambda: all_names.remove_network("b"),
    )  # fmt: skip
    for change in changes:
        addresses(view, "web")
        assert view.kept
        assert all_names.kept_bytes > 0
        change()
        assert not view.kept
        assert all_names.kept_bytes == 0


def test_what_is_kept_is_bounded() -> None:
    all_names = names.Names()
    all_names.set_network("n", "n")
    all_names.set_endpoint("n", "1", ["abcdefghijklmnop"], ["10.0.0.1"])
    view = all_names.take_view(["n"], {})
    for number in range(1 << 14):
        name = "".join(c.upper() if number >> at & 1 else c for at, c in enumerate("abcdefghijklmnop"))
        asked(dns.message.make_query(name, "A"), view)
        assert sum(len(key) + len(turn()) for key, turn in itertools.islice(view.kept.items(), 1)) < 1000
    assert all_names.kept_bytes <= 4 << 20
    assert len(view.kept) < 1 << 14


def test_tables_are_empty_once_everything_is_gone() -> None:
    all_names = table()
    views = [all_names.take_view(networks, {}) for networks in (["f", "b"], ["b"], ["b"])]
    for network, endpoint in (("f", "1"), ("f", "2"), ("b", "3"), ("b", "4")):
        all_names.remove_endpoint(network, endpoint)
    assert not all_names.networks["f"].by_name
    assert not all_names.networks["f"].by_address
    for network in ("f", "b"):
        all_names.remove_network(network)
    for view in views:
        all_names.give_back(view)
    assert not all_names.views
    assert not all_names.networks


def test_a_new_round_drops_what_is_not_named_in_it() -> None:
    all_names = table()
    view = all_names.take_view(["f", "b"], {})
    all_names.round += 1
    all_names.set_network("f", "front")
    all_names.set_endpoint("f", "2", ["db_1"], ["10.0.0.33"])
    assert addresses(view, "six", "AAAA") == ["fd01::4"]  # until all is said
    all_names.drop_unnamed()
    assert addresses(view, "db_1") == ["10.0.0.33"]
    assert addresses(view, "web") is None
    assert addresses(view, "six", "AAAA") is None


def test_an_address_that_went_to_another_container_has_its_name() -> None:
    all_names = table()
    view = all_names.take_view(FRONT, {})
    all_names.set_endpoint("f", "later", ["later"], ["10.0.0.2"])
    assert addresses(view, "2.0.0.10.in-addr.arpa", "PTR") == ["later.front."]
    all_names.remove_endpoint("f", "1")
    assert addresses(view, "2.0.0.10.in-addr.arpa", "PTR") == ["later.front."]


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64, ".".join(["abcdefgh"] * 32)])
def test_names_that_dns_cannot_carry_are_left_out(name: str) -> None:
    assert names.to_wire(name) == b""
    all_names = names.Names()
    all_names.set_endpoint("n", "1", [name, "good"], ["10.0.0.1"])
    assert addresses(all_names.take_view(["n"], {}), "good") == ["10.0.0.1"]


def test_case_flags_and_edns_are_the_questions() -> None:
    view = table().take_view(FRONT, {})
    query = dns.message.make_query("wEb", "A", use_edns=0, payload=4096, want_dnssec=True)
    query.flags |= dns.flags.CD
    found = asked(query, view)
    assert found
    assert str(found.question[0].name) == str(found.answer[0].name) == "wEb."
    assert dns.flags.to_text(found.flags) == "QR RD RA CD"
    assert (found.edns, found.payload, found.ednsflags) == (0, 1232, 0x8000)
    query = dns.message.make_query("web", "A")
    query.flags &= ~dns.flags.RD
    plain = asked(query, view)
    assert plain
    assert (plain.edns, dns.flags.to_text(plain.flags)) == (-1, "QR RA")


@pytest.mark.parametrize(("payload", "tcp", "count"), [(0, False, 30), (512, False, 30), (1232, False, 75), (4096, False, 75), (0, True, 500)])
def test_an_answer_that_is_too_long_says_so(payload: int, tcp: bool, count: int) -> None:
    all_names = names.Names()
    for number in range(500):
        all_names.set_endpoint("n", str(number), ["all"], [f"10.0.{number >> 8}.{number & 255}"])
    view = all_names.take_view(["n"], {})
    query = dns.message.make_query("all", "A", use_edns=0 if payload else False, payload=payload or 1232)
    found = asked(query, view, tcp=tcp)
    assert found
    assert len(found.answer[0]) == count
    assert bool(found.flags & dns.flags.TC) == (count < 500)
    assert len(found.to_wire()) <= (65535 if tcp else min(max(payload, 512), 1232))
    if not tcp:
        turn = view.kept[answers.kept_key(query.to_wire(), False)]
        assert len({dns.message.from_wire(b"00" + turn()).answer[0][0].to_text() for _ in range(16)}) == 16


# -- what is wrong ----------------------------------------------------------------------------------

HEAD = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
WEB = b"\x03web\x00\x00\x01\x00\x01"


def head(flags: int = 0x0100, *counts: int) -> bytes:
    return struct.pack("!6H", 0x1234, flags, *(counts or (1, 0, 0, 0)))


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (head(0x0100, 0, 0, 0, 0), "FORMERR"), (head(0x0100, 2, 0, 0, 0) + WEB + WEB, "FORMERR"), (head(0x0100, 1, 1, 0, 0) + WEB, "FORMERR"),
        (head(0x0100, 1, 0, 1, 0) + WEB, "FORMERR"), (head() + WEB[:-1], "FORMERR"), (head() + WEB + b"\0", "FORMERR"), (head(), "FORMERR"),
        (head() + b"\xc0\x0c\x00\x01\x00\x01", "FORMERR"), (head() + b"\x01a\xc0\x0c\x00\x01\x00\x01", "FORMERR"),
        (head() + b"\xc0\x02\x00\x01\x00\x01", "FORMERR"), (head() + b"\x40a\x00\x00\x01\x00\x01", "FORMERR"),
        (head() + b"\x3f" * 200, "FORMERR"), (head() + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1", "FORMERR"),
        (head() + b"\x03web\x00\x00\x29\x00\x01", "FORMERR"),
        (head(0x0100, 1, 0, 0, 1) + WEB, "FORMERR"), (head(0x0100, 1, 0, 0, 1) + WEB + b"\0\0\x29\x04\xd0\0\0\0\0\0\x09", "FORMERR"),
        (head(0x0100, 1, 0, 0, 2) + WEB + b"\0\0\x29\x04\xd0\0\0\0\0\0\0" * 2, "FORMERR"),
        (head(0x0100, 1, 0, 0, 1) + WEB + b"\x01a\0\0\x29\x04\xd0\0\0\0\0\0\0", "FORMERR"),
        (head(0x0100, 1, 0, 0, 1) + WEB + b"\0\0\x29\x04\xd0\0\1\0\0\0\0", "BADVERS"),
        (head(0x1000) + WEB, "NOTIMP"), (head(0x2000) + WEB, "NOTIMP"), (head(0x2800) + WEB, "NOTIMP"), (head(0x7800), "NOTIMP"),
        (head() + b"\x03web\x00\x00\x01\x00\x03", "REFUSED"), (head() + b"\x03web\x00\x00\x01\x00\xff", "REFUSED"),
        (head() + b"\x03web\x00\x00\xfc\x00\x01", "REFUSED"), (head() + b"\x03web\x00\x00\xfb\x00\x01", "REFUSED"),
        (head() + b"\x07version\x04bind\x00\x00\x10\x00\x03", "REFUSED"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_answered_with_its_code(data: bytes, rcode: str) -> None:
    with pytest.raises(questions.Wrong) as caught:
        questions.parse(data)
    answer = data[:2] + caught.value.answer
    found = dns.message.from_wire(answer)
    assert dns.rcode.to_text(found.rcode()) == rcode
    assert found.id == 0x1234
    assert found.flags & dns.flags.QR
    assert len(answer) <= len(data) + 11


@pytest.mark.parametrize("data", [b"", b"\0" * 11, head(0x8180) + WEB, head(0x8100, 0, 0, 0, 0), HEAD[:11]])
def test_what_is_no_question_is_not_answered(data: bytes) -> None:
    assert questions.parse(data) is None


@given(st.binary(max_size=600))
@example(HEAD + b"\xc0" * 500)
def test_any_bytes_are_answered_or_passed_over(data: bytes) -> None:
    check_any(data)


@given(st.binary(max_size=40), st.integers(0, 3), st.integers(0, 3), st.binary(max_size=60))
def test_any_bytes_behind_a_header(name: bytes, counted: int, additional: int, rest: bytes) -> None:
    check_any(head(0x0100, counted, 0, 0, additional) + name + b"\0\0\1\0\1" + rest)


def check_any(data: bytes) -> None:
    try:
        question = questions.parse(data)
    except questions.Wrong as wrong:
        found = dns.message.from_wire(data[:2] + wrong.answer)
        assert found.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.REFUSED, dns.rcode.BADVERS)
        return
    if question:
        assert data[12:].startswith(question.section)
        view = table().take_view(FRONT, {})
        if answer := answers.of_names(view, question, data):
            assert dns.message.from_wire(data[:2] + answer).rcode() == dns.rcode.NOERROR
        for truncated in (False, True):
            dns.message.from_wire(data[:2] + questions.without_records(question, dns.rcode.SERVFAIL, truncated=truncated))
        dns.message.from_wire(replies.query(question, b"id", 0x0100))


# -- answers of servers -----------------------------------------------------------------------------


def question_of(name: str = "Example.org", kind: str = "A", **edns: object) -> questions.Question:
    question = questions.parse(dns.message.make_query(name, kind, **edns).to_wire())  # type: ignore[arg-type]
    assert question
    return question


def reply_to(question: questions.Question, *records: str, authority: tuple[str, ...] = (), rcode: int = 0, flags: int = 0x8180) -> bytes:
    """What a server says, with records as "owner ttl type data"."""
    message = dns.message.make_response(dns.message.from_wire(replies.query(question, b"id", 0x0100)))
    message.flags = flags
    message.set_rcode(dns.rcode.Rcode(rcode))
    for section, lines in ((message.answer, records), (message.authority, authority)):
        for line in lines:
            owner, ttl, kind, data = line.split(None, 3)
            section.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
    return message.to_wire()


SOA = "org. 900 SOA ns.org. root.org. 1 2 3 4 300"


@pytest.mark.parametrize(
    ("records", "authority", "rcode", "keep_s"),
    [
        (["example.org. 60 A 192.0.2.1"], (), 0, 60), (["example.org. 60 A 192.0.2.1", "example.org. 9 A 192.0.2.2"], (), 0, 9),
        (["example.org. 60 CNAME a.org.", "a.org. 30 A 192.0.2.1"], ("org. 5 NS ns.org.",), 0, 5),
        (["example.org. 0 A 192.0.2.1"], (), 0, 0), (["example.org. 9999999 A 192.0.2.1"], (), 0, 86400),
        ([], (SOA,), 3, 300), ([], (SOA,), 0, 300), ([], ("org. 20 SOA ns.org. root.org. 1 2 3 4 300",), 3, 20),
        ([], ("org. 99999 SOA ns.org. root.org. 1 2 3 4 99999",), 3, 10800), ([], (), 3, 0), ([], (), 0, 0),
        (["example.org. 60 CNAME a.org."], (), 0, 0), (["example.org. 60 CNAME a.org."], (SOA,), 0, 60),
        ([], (), 2, 0), ([], (SOA,), 5, 0),
    ],
)  # fmt: skip
def test_how_long_an_answer_is_kept(records: list[str], authority: tuple[str, ...], rcode: int, keep_s: int) -> None:
    question = question_of()
    reply = replies.parse(reply_to(question, *records, authority=authority, rcode=rcode), question, b"id")
    assert (reply.rcode, reply.keep_s) == (rcode, keep_s)
    assert reply.is_final == (rcode in (0, 3))
    aged = dns.message.from_wire(b"id" + reply.aged(7))
    assert {rrset.ttl for rrset in (*aged.answer, *aged.authority)} <= {7}


def test_records_of_unknown_types_are_passed_on_and_age() -> None:
    question = question_of(kind="TYPE65300")
    reply = replies.parse(reply_to(question, "example.org. 60 TYPE65300 \\# 4 c00cc00c"), question, b"id")
    assert reply.keep_s == 60
    assert "TYPE65300 \\# 4 c00cc00c" in dns.message.from_wire(b"id" + reply.aged(5)).to_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"xx" + data[2:], lambda data: data[:11], lambda data: data[:2] + b"\x01" + data[3:], lambda data: data[:13] + b"y" + data[14:],
        lambda data: data[:25] + b"\x1c" + data[26:], lambda data: data[:27] + b"\x03" + data[28:], lambda data: data[:5] + b"\2" + data[6:],
    ],
)  # fmt: skip
def test_an_answer_to_something_else_is_not_ours(change: object) -> None:
    question = question_of()
    data = change(reply_to(question, "example.org. 60 A 192.0.2.1"))  # type: ignore[operator]
    with pytest.raises(replies.NotOurs):
        replies.parse(data, question, b"id")


def test_a_type_is_not_folded_as_a_letter_would_be() -> None:
    question = question_of(kind="TYPE65")
    data = reply_to(question)
    assert replies.parse(data, question, b"id").rcode == 0
    with pytest.raises(replies.NotOurs):
        replies.parse(data[:26] + b"a" + data[27:], question, b"id")  # 97, which is 65 in lower case


def test_a_refusal_without_the_question_is_one() -> None:
    question = question_of()
    reply = replies.parse(b"id" + struct.pack("!5H", 0x8185, 0, 0, 0, 0), question, b"id")
    assert not reply.is_final
    assert dns.message.from_wire(b"id" + reply.wire).rcode() == dns.rcode.REFUSED


@given(st.binary(max_size=300), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_any_bytes_of_a_server_are_an_answer_or_an_error(rest: bytes, answered: int, authority: int, additional: int) -> None:
    question = question_of()
    data = b"id" + struct.pack("!5H", 0x8180, 1, answered, authority, additional) + question.section.lower() + rest
    try:
        reply = replies.parse(data, question, b"id")
    except dns.exception.DNSException:
        return
    assert len(reply.aged(1)) == len(data) - 2


def test_a_client_gets_its_own_case_and_no_more_than_it_takes() -> None:
    question = question_of("eXample.Org", use_edns=0, payload=512)
    data = reply_to(question, *(f"example.org. 60 A 192.0.2.{number}" for number in range(60)))
    reply = replies.parse(data, question, b"id")
    whole = dns.message.from_wire(b"id" + replies.passed_on(reply.wire, question, 4096))
    assert str(whole.question[0].name) == "eXample.Org."
    assert len(whole.answer[0]) == 60
    cut = dns.message.from_wire(b"id" + replies.passed_on(reply.wire, question, question.limit_bytes))
    assert cut.flags & dns.flags.TC
    assert not cut.answer
    assert cut.edns == 0


# -- the cache --------------------------------------------------------------------------------------


def ttl_of(wire: bytes | None) -> int | None:
    return None if wire is None else dns.message.from_wire(b"id" + wire).answer[0].ttl


def test_times_to_live_count_down_to_nothing() -> None:
    now = [100.0]
    cache = Cache(clock=lambda: now[0])
    question = question_of("a.org")
    cache.put("a", replies.parse(reply_to(question, "a.org. 10 A 192.0.2.1"), question, b"id"))
    assert ttl_of(cache.get("a")) == 10
    now[0] = 107.5
    assert ttl_of(cache.get("a")) == 2
    now[0] = 109.5
    assert ttl_of(cache.get("a")) == 0
    now[0] = 110
    assert cache.get("a") is None
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_the_cache_is_bounded_and_drops_what_is_unused() -> None:
    question = question_of("a.org")
    reply = replies.parse(reply_to(question, "a.org. 10 A 192.0.2.1"), question, b"id")
    cache = Cache(most_entries=3)
    for key in "abc":
        cache.put(key, reply)
    cache.get("a")
    cache.put("d", reply)
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]
    small = Cache(most_bytes=5000)
    for number in range(100):
        small.put(number, reply)
        small.put(number, reply)
    assert small.size_bytes <= 5000
    assert 5 < len(small) < 10
