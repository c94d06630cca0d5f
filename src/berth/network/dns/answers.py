"""Answers about containers, made once and kept as bytes. Pure.

A kept answer is found by all of the question but its id: that covers its case, its flags and its EDNS. Of several addresses
there are several answers, each beginning with another address, which take turns.
"""

import itertools
import struct

import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from berth.network.dns import names
from berth.network.dns.questions import AAAA, ANY, CD, HEADER_BYTES, IN, MOST_BYTES, PTR, QR, RA, RD, TC, TCP_BYTES, A, Question

TTL_S = 5  # Docker says 600; a client that believes it goes on asking for an address that a restart gave to somebody else
_TURNS = 16  # at most
_OWNER = b"\xc0\x0c"  # a pointer to the question's name
_KEPT_QUESTION_BYTES, _KEPT_ANSWER_BYTES = 512, 4096

_Record = tuple[int, bytes]  # type, data


def of_names(view: names.View, question: Question, data: bytes, *, tcp: bool = False) -> bytes | None:
    """The answer, but for the id, to a question about a container; None where it is about none.

    data: the whole message. The answer is kept: view.kept[kept_key(data, tcp)]() is the next one.
    """
    records = _records(view, question)
    if records is None:
        return None
    turns = _turns(question, records, TCP_BYTES if tcp else question.limit_bytes)
    view.count += 1
    at = view.count % len(turns)
    if len(data) <= _KEPT_QUESTION_BYTES and len(turns[0]) <= _KEPT_ANSWER_BYTES:
        view.keep(kept_key(data, tcp), itertools.cycle(turns[at + 1 :] + turns[: at + 1]).__next__, sum(map(len, turns)))
    return turns[at]


def kept_key(data: bytes, tcp: bool) -> bytes:
    return data[2:] + b"t" if tcp else data[2:]


def _records(view: names.View, question: Question) -> list[_Record] | None:
    if question.kind == PTR and (host := names.host_of(view, question.name)):
        return [(PTR, wire + b"\0")] if (wire := names.as_written(host)) else []
    found = names.find(view, question.name)
    if found is None:
        return None
    every = [(A, data) for data in found.ipv4] + [(AAAA, data) for data in found.ipv6]
    return [(kind, data) for kind, data in every if question.kind in (kind, ANY)]


def _turns(question: Question, records: list[_Record], limit_bytes: int) -> list[bytes]:
    """The answers that take turns; each has as many records as fit, and says so where that is not all."""
    frame = _without_answers(question)
    end = HEADER_BYTES - 2 + len(question.section)
    wires = [_OWNER + struct.pack("!HHIH", kind, IN, TTL_S, len(data)) + data for kind, data in records]
    room_bytes, fit = limit_bytes - 2 - len(frame), 0
    while fit < len(wires) and len(wires[fit]) <= room_bytes:
        room_bytes -= len(wires[fit])
        fit += 1
    (flags,) = struct.unpack_from("!H", frame)
    head = struct.pack("!H2sH", flags | (TC if fit < len(wires) else 0), frame[2:4], fit) + frame[6:end]
    if question.kind not in (A, AAAA):  # of records of several lengths, fewer may fit in another order
        return [head + b"".join(wires[:fit]) + frame[end:]]
    starts = range(0, len(wires), -(-len(wires) // _TURNS)) if wires else range(1)
    return [head + b"".join((wires[start:] + wires[:start])[:fit]) + frame[end:] for start in starts]


def _without_answers(question: Question) -> bytes:
    message = dns.message.QueryMessage(0)
    message.flags = QR | RA | question.flags & (RD | CD)
    owner = dns.name.from_wire(question.section, 0)[0]
    message.question = [dns.rrset.RRset(owner, dns.rdataclass.IN, dns.rdatatype.RdataType.make(question.kind))]
    if question.payload_bytes:
        message.use_edns(0, 0x8000 if question.dnssec_ok else 0, MOST_BYTES)
    return message.to_wire()[2:]
