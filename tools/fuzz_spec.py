"""Fuzzes the parser of config.json: whatever the bytes, it accepts, or refuses with an error of its own.

    python tools/fuzz_spec.py [SECONDS] [SEED]      own mutations, nothing to install
    python tools/fuzz_spec.py --atheris [OPTION...] coverage-guided, with `atheris` and libFuzzer's options

What it accepts is planned too, as a start would: a plan may refuse with an error of berth's, no more.
The unit tests run two seconds of it with a fixed seed.
"""

import copy
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(_ROOT / "src"), str(_ROOT / "tests/unit")]

from berth.errors import BerthError, InvalidSpec, NotImplementedHere  # noqa: E402
from berth.runtime import spec  # noqa: E402
from berth.runtime.plan import Plan  # noqa: E402
from spec_example import FULL, VALUES  # noqa: E402

_SEEDS = [json.dumps(FULL).encode(), b'{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"args":["a"],"cwd":"/"}}']
_TOKENS = [
    b"null", b"true", b"[]", b"{}", b'""', b"-1", b"0", b"1e400", b"-0", b"1.5", b"18446744073709551616", b"9" * 4400, b"NaN", b'"\\u0000"',
    b'"\\ud800"', b'"\xff"', b"\xef\xbb\xbf", b"[" * 70, b'{"a":' * 70, b'"linux":', b'"type":', b",", b":", b'"',
]  # fmt: skip
_VALUES: list = [value for right, wrong in VALUES.values() for value in (*right, *wrong)]
_VALUES += [None, 10**40, -(10**40), 1e300, float("inf"), "x" * 5000, {"": None}, [[[]]], [None], {"type": []}]


def try_one(data: bytes) -> str:
    """What became of one input: 'unread', 'refused', 'lacking', 'unplanned' or 'planned'. Any other exception is a find."""
    try:
        document = spec.parse(data, "fuzz")
    except InvalidSpec:
        return "unread"
    return try_document(document)


def try_document(document: object) -> str:
    """As try_one, for what is parsed already. The document must come out as it went in."""
    before = copy.deepcopy(document)
    try:
        spec.check(document)
    except InvalidSpec as error:
        _look_at(str(error))
        return "refused"
    except NotImplementedHere:
        return "lacking"
    finally:
        assert repr(document) == repr(before), "check changed the document"
    assert isinstance(document, dict)
    for part in ("process", "linux"):
        assert isinstance(document.get(part) or {}, dict)
    try:
        Plan(document, "/bundle").describe()
    except BerthError:
        return "unplanned"
    return "planned"


def _look_at(message: str) -> None:
    lines = message.split("\n")
    assert lines == message.splitlines(), "a value breaks the message into lines"
    assert message.isprintable() or message.replace("\n", "").isprintable(), "a value brings control characters"
    assert len(lines) <= 21, "too many lines"
    assert all(line.find(": ") > 0 or line.startswith("and ") for line in lines), message


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Some bytes flipped, cut out, doubled, or replaced by a token that parsers stumble over."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at, length = rng.randrange(len(out) + 1), rng.choice((0, 1, 1, 3, 20, 200))
        what = rng.randrange(4)
        if what == 0 and out:
            out[at % len(out)] = rng.randrange(256)
        elif what == 1:
            del out[at : at + length]
        elif what == 2:
            out[at:at] = out[at : at + length]
        else:
            out[at : at + length] = rng.choice(_TOKENS)
    return bytes(out)


def _places(value: object) -> Iterator[tuple[dict | list, str | int]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key  # type: ignore[misc]
        yield from _places(item)


def mutate_tree(rng: random.Random, document: dict) -> dict:
    """A copy with some values replaced, removed, doubled or moved to where another stood."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(document))
        if not places:
            break
        holder, key = rng.choice(places)
        what = rng.randrange(5)
        if what == 0:
            del holder[key]  # type: ignore[arg-type]
        elif what == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))  # type: ignore[index]
        elif what == 2:
            other, name = rng.choice(places)
            holder[key] = copy.deepcopy(other[name])  # type: ignore[index]
        elif what == 3 and isinstance(holder, dict):
            holder[str(rng.choice(_VALUES))[:40]] = holder.pop(key)  # type: ignore[arg-type]
        else:
            holder[key] = copy.deepcopy(rng.choice(_VALUES))  # type: ignore[index]
    return document


def run(seconds: float, seed: int, most: int = 1 << 62) -> dict[str, int]:
    """Own mutations for a time or a number of inputs; returns how often each outcome was. Raises what it finds."""
    rng = random.Random(seed)
    without = copy.deepcopy(FULL)  # what berth lacks would hide all that comes after
    del without["linux"]["intelRdt"], without["linux"]["personality"]["flags"]
    del without["mounts"][0]["uidMappings"], without["mounts"][0]["gidMappings"]
    without["mounts"][0]["options"] = ["rbind"]
    trees = [FULL, without, without]
    outcomes: dict[str, int] = {}
    end = time.monotonic() + seconds
    for number in range(most):
        if time.monotonic() > end:
            break
        given: object = mutate_bytes(rng, rng.choice(_SEEDS)) if number % 2 else mutate_tree(rng, rng.choice(trees))
        try:
            outcome = try_one(given) if isinstance(given, bytes) else try_document(given)
        except Exception as error:
            error.add_note(f"seed {seed}, input {number}: {given!r}")
            raise
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def _run_atheris(arguments: list[str]) -> None:
    import atheris  # type: ignore[import-not-found]  # from PyPI; no dependency of berth

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], *arguments], try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--atheris"]:
        _run_atheris(sys.argv[2:])
    else:
        numbers = [*sys.argv[1:], "60", "1"] if len(sys.argv) == 1 else [*sys.argv[1:], "1"]
        print(run(float(numbers[0]), int(numbers[1])))
