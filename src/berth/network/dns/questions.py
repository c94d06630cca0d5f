"""A question as it comes from a container: checked, and small errors answered. Pure.

Nothing of it is trusted. dnspython reads and writes the messages; what has no record in it needs no more than a header.
Source: RFC 1035, RFC 6891 (EDNS), RFC 8906 (what servers should answer to the odd).
"""

import struct
from dataclasses import dataclass

import dns.exception
import dns.name
import dns.rcode
import dns.rdatatype
import dns.wire

HEADER_BYTES = 12
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
_OPCODE = 0x7800
IN = 1
A, SOA, PTR, AAAA, OPT, ANY = 1, 6, 12, 28, 41, 255
_LEAST_BYTES = 512  # of what every client must take over UDP
MOST_BYTES = 1232  # of what we send and take over UDP: no fragments, https://dnsflagday.net/2020
TCP_BYTES = 65535
# Zone transfers, and types that only mean something between servers.
_NOT_FOR_US = frozenset((249, 250, 251, 252, 253, 254))


@dataclass(slots=True)
class Question:
    """name: on the wire, in lower case; section: the question as it was put, for the answer; payload_bytes: 0 without EDNS."""

    flags: int
    name: bytes
    kind: int
    section: bytes
    payload_bytes: int = 0
    dnssec_ok: bool = False

    @property
    def limit_bytes(self) -> int:
        """The longest answer over UDP."""
        return min(max(self.payload_bytes, _LEAST_BYTES), MOST_BYTES)


class Wrong(Exception):
    """A message that gets an answer without looking anything up; `answer`: to be sent, but for its first two bytes, the id."""

    def __init__(self, flags: int, rcode: int, question: Question | None = None) -> None:
        super().__init__(dns.rcode.to_text(dns.rcode.Rcode(rcode)))
        self.answer = without_records(question, rcode) if question else header(flags & ~TC, rcode, 0)


def parse(data: bytes) -> Question | None:
    """None for what must not be answered at all: an answer, or less than a header. Raises Wrong."""
    if len(data) < HEADER_BYTES:
        return None
    flags, questions, answers, authorities, additional = struct.unpack_from("!5H", data, 2)
    if flags & QR:
        return None
    if flags & _OPCODE:
        raise Wrong(flags, dns.rcode.NOTIMP)
    if questions != 1 or answers or authorities:
        raise Wrong(flags, dns.rcode.FORMERR)
    parser = dns.wire.Parser(data, HEADER_BYTES)
    try:
        name = dns.name.from_wire_parser(parser).to_wire() or b""
        kind, kind_class = parser.get_struct("!HH")
        section = data[HEADER_BYTES : parser.current]
        if len(section) != len(name) + 4 or kind == OPT:  # compressed: there is nothing before it that it could point to
            raise dns.exception.FormError
        question = Question(flags, name.lower(), kind, section)
        version = _read_additional(parser, additional, question)
    except (dns.exception.DNSException, struct.error):
        raise Wrong(flags, dns.rcode.FORMERR) from None
    if version:
        raise Wrong(flags, dns.rcode.BADVERS, question)
    if kind_class != IN or kind in _NOT_FOR_US:
        raise Wrong(flags, dns.rcode.REFUSED, question)
    return question


def _read_additional(parser: dns.wire.Parser, count: int, question: Question) -> int:
    """Fills in what the OPT record says, if there is one; returns its version."""
    version, seen = 0, False
    for _ in range(count):
        is_root = skip_name(parser)
        kind, payload_bytes, ttl, length = parser.get_struct("!HHIH")
        parser.get_bytes(length)
        if kind == OPT:
            if seen or not is_root:
                raise dns.exception.FormError
            seen = True
            question.payload_bytes, question.dnssec_ok, version = max(payload_bytes, _LEAST_BYTES), bool(ttl & 0x8000), ttl >> 16 & 0xFF
    if parser.remaining():
        raise dns.exception.FormError
    return version


def skip_name(parser: dns.wire.Parser) -> bool:
    """Passes over a name without following its pointers; whether it is the root."""
    start = parser.current
    while length := parser.get_uint8():
        if length >= 0xC0:
            parser.get_uint8()
            return False
        if length > 63:
            raise dns.exception.FormError
        parser.get_bytes(length)
    return parser.current == start + 1


def header(flags: int, rcode: int, questions: int, additional: int = 0) -> bytes:
    """Of an answer without records, but for the id. flags: the question's, and what else is to be set."""
    return struct.pack("!5H", QR | RA | flags & (_OPCODE | TC | RD | CD) | rcode & 0xF, questions, 0, 0, additional)


def without_records(question: Question, rcode: int, *, truncated: bool = False) -> bytes:
    """An answer, but for the id, that says no more than a code."""
    flags = question.flags & ~TC | (TC if truncated else 0)
    if not question.payload_bytes:
        return header(flags, rcode, 1) + question.section
    return header(flags, rcode, 1, 1) + question.section + edns(rcode)


def edns(rcode: int = 0, *, dnssec_ok: bool = False) -> bytes:
    """An OPT record."""
    return struct.pack("!BHHIH", 0, OPT, MOST_BYTES, (rcode >> 4) << 24 | (0x8000 if dnssec_ok else 0), 0)
