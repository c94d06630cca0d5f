"""An answer of an upstream server: whether it is one to our question, what it says of its age, how it is passed on. Pure.

Its bytes are kept as they are but for the id, the question's case and the times to live: nothing of a record needs to be
understood, known type or not. Source: RFC 1035, RFC 2181 (section 8), RFC 2308 (negative answers).
"""

import struct
from dataclasses import dataclass

import dns.exception
import dns.rcode
import dns.wire

from berth.network.dns.questions import ANY, HEADER_BYTES, OPT, QR, RA, RD, SOA, TC, Question, edns, skip_name, without_records

_OPCODE_AND_QR = 0xF800
_MOST_TTL_S, _MOST_NEGATIVE_TTL_S = 86400, 10800


class NotOurs(Exception):
    """A datagram that answers something else: whoever sent it, the answer may still come."""


@dataclass(slots=True)
class Reply:
    """wire: without the id; ttls: where in it the times to live are; keep_s: how long it is good for, 0 for not at all."""

    wire: bytes
    rcode: int
    is_truncated: bool
    ttls: tuple[int, ...] = ()
    keep_s: int = 0

    @property
    def is_final(self) -> bool:
        """Whether no other server need be asked."""
        return self.rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)

    def aged(self, left_s: int) -> bytes:
        """The same with `left_s` for every time to live."""
        wire, ttl = bytearray(self.wire), struct.pack("!I", left_s)
        for at in self.ttls:
            wire[at : at + 4] = ttl
        return bytes(wire)


def query(question: Question, identity: bytes, flags: int) -> bytes:
    """The question as it is sent on; flags: those of the client's that count."""
    section = question.name + question.section[len(question.name) :]
    opt = edns(dnssec_ok=question.dnssec_ok) if question.payload_bytes else b""
    return identity + struct.pack("!5H", flags, 1, 0, 0, 1 if opt else 0) + section + opt


def parse(data: bytes, question: Question, identity: bytes) -> Reply:
    """Raises NotOurs; DNSException for an answer to the question that is broken."""
    if len(data) < HEADER_BYTES or data[:2] != identity:
        raise NotOurs
    flags, questions, answers, authorities, additional = struct.unpack_from("!5H", data, 2)
    if flags & _OPCODE_AND_QR != QR:
        raise NotOurs
    rcode = flags & 0xF
    if questions == 0 and rcode and not answers:  # some servers leave the question out where they refuse it
        return Reply(without_records(question, rcode), rcode, False)
    end = HEADER_BYTES + len(question.section)
    asked, name_bytes = data[HEADER_BYTES:end], len(question.name)
    if questions != 1 or asked[:name_bytes].lower() != question.name or asked[name_bytes:] != question.section[name_bytes:]:
        raise NotOurs
    reply = Reply(data[2:], rcode, bool(flags & TC))
    if not reply.is_truncated:
        _read_records(dns.wire.Parser(data, end), (answers, authorities, additional), question, reply)
    return reply


def _read_records(parser: dns.wire.Parser, counts: tuple[int, int, int], question: Question, reply: Reply) -> None:
    ttls: list[int] = []
    least_s, has_answer, negative_s = _MOST_TTL_S, False, 0
    for section, count in enumerate(counts):
        for _ in range(count):
            skip_name(parser)
            kind, _, ttl, length = parser.get_struct("!HHIH")
            data_at = parser.current
            parser.get_bytes(length)
            if kind == OPT:
                reply.rcode |= (ttl >> 24) << 4
                continue
            ttl_s = ttl if ttl < 1 << 31 else 0
            ttls.append(data_at - 6 - 2)  # less the id
            least_s = min(least_s, ttl_s)
            has_answer |= section == 0 and question.kind in (kind, ANY)
            if section == 1 and kind == SOA and length >= 4:
                negative_s = min(ttl_s, *struct.unpack_from("!I", parser.wire, data_at + length - 4), _MOST_NEGATIVE_TTL_S)
    if reply.is_final:
        is_positive = has_answer and reply.rcode == dns.rcode.NOERROR
        reply.keep_s = least_s if is_positive else min(least_s, negative_s)
    reply.ttls = tuple(ttls)


def passed_on(wire: bytes, question: Question, limit_bytes: int) -> bytes:
    """To a client: the question in its own case; cut to nothing but a flag where it is longer than may be. Without ids."""
    if len(wire) + 2 > limit_bytes:
        return without_records(question, wire[1] & 0xF, truncated=True)
    begin = HEADER_BYTES - 2
    flags = struct.unpack_from("!H", wire)[0] & ~RD | RA | question.flags & RD
    return struct.pack("!H", flags) + wire[2:begin] + question.section + wire[begin + len(question.section) :]
