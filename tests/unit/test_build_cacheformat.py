"""Caches of builds as they are written elsewhere: read again the same, and nothing of what is wrong is believed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from berth.build import cacheformat
from berth.build.cache import Record
from berth.build.cacheformat import CachedMount, CacheLayer
from berth.errors import DataLoss, InvalidParameter
from berth.store.naming import chain_id

DIFFS = [f"sha256:{number:064x}" for number in range(1, 4)]
CHAINS = [""]
for _diff in DIFFS:
    CHAINS.append(chain_id(CHAINS[-1], _diff))
LAYERS = [CacheLayer(chain, diff, parent, number) for number, (chain, diff, parent) in enumerate(zip(CHAINS[1:], DIFFS, CHAINS, strict=False))]


def record(number: int, chain: int, parent: int) -> Record:
    return Record(f"{number:064x}", CHAINS[chain], CHAINS[parent], f"RUN {number}", "exec", 1_000 + number, 0, 0)


RECORDS = [record(1, 1, 0), record(2, 2, 1), record(3, 3, 2), record(4, 3, 2)]


def test_what_is_written_is_read_again() -> None:
    mount = CachedMount("a" * 32, "downloads", 3)
    found = cacheformat.read(cacheformat.config(RECORDS, LAYERS, [mount], None), 4)
    assert found.records == {each.key: each for each in RECORDS}
    assert list(found.layers.values()) == LAYERS
    assert found.mounts == (mount,)
    assert [layer.chain for layer in cacheformat.chains_below(found.layers, CHAINS[3])] == CHAINS[:0:-1]


def test_an_epoch_makes_it_the_same_each_time() -> None:
    later = [Record(each.key, each.chain, each.parent, each.description, each.kind, each.created_ns + 7, 0, 0) for each in reversed(RECORDS)]
    assert cacheformat.config(RECORDS, LAYERS, [], 5) == cacheformat.config(later, LAYERS, [], 5)


def test_inline() -> None:
    elsewhere = Record("f" * 64, "sha256:" + "9" * 64, "", "RUN", "exec", 1, 0, 0)
    told = cacheformat.inline([*RECORDS, elsewhere], CHAINS[1:], None)
    document = {"rootfs": {"diff_ids": DIFFS}, cacheformat.INLINE: json.loads(json.dumps(told))}
    found = cacheformat.read_inline(document)
    assert found.records == {each.key: each for each in RECORDS}
    assert cacheformat.read_inline({"rootfs": {"diff_ids": DIFFS}}).records == {}


@pytest.mark.parametrize("rootfs", [[], {"diff_ids": "x"}, {"diff_ids": [1]}, {"diff_ids": [[]]}, 7, None])
def test_inline_of_what_is_no_image(rootfs: object) -> None:
    document = {"rootfs": rootfs, cacheformat.INLINE: [{"key": "0" * 64, "chain": 1, "parent": 0}]}
    with pytest.raises(DataLoss):
        cacheformat.read_inline(document)


def changed(*path: Any, value: Any) -> bytes:
    document = json.loads(cacheformat.config(RECORDS, LAYERS, [CachedMount("a" * 32, "x", 0)], None))
    at = document
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"[]", b"[" * 10_000, changed("layers", value={"a": 1}), changed("layers", 0, "chain", value=CHAINS[2]), changed("layers", 1, "parent", value=""),
        changed("layers", 0, "diff", value="sha256:x"), changed("layers", 0, "blob", value=9), changed("layers", 0, "blob", value=-1),
        changed("layers", 0, "blob", value=True), changed("layers", 1, "parent", value="../.."), changed("mounts", 0, "name", value="../../etc"),
        changed("mounts", 0, "blob", value="0"), changed("records", value="x"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused(raw: bytes) -> None:
    with pytest.raises(DataLoss):
        cacheformat.read(raw, 4)


@pytest.mark.parametrize(("field", "value"), [("key", "short"), ("chain", "up"), ("parent", "/etc"), ("created", "now"), ("description", None)])
def test_records_of_another_kind_are_passed_over(field: str, value: object) -> None:
    found = cacheformat.read(changed("records", 0, field, value=value), 4)
    assert len(found.records) == len(RECORDS) - 1


@given(some.recursive(some.none() | some.booleans() | some.integers() | some.text(), lambda inner: some.lists(inner) | some.dictionaries(some.sampled_from(["layers", "records", "mounts", "chain", "diff", "parent", "blob", "key", "name"]), inner)))
def test_any_json_is_read_or_refused(value: object) -> None:
    try:
        cacheformat.read(json.dumps(value).encode(), 2)
    except DataLoss:
        pass


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (cacheformat.source, {"type": "registry"}), (cacheformat.source, {"type": "local"}), (cacheformat.source, {"ref": "UPPER"}),
        (cacheformat.source, {"ref": "x", "mode": "max"}), (cacheformat.target, {"type": "gha"}), (cacheformat.target, {"ref": "x", "mode": "all"}),
        (cacheformat.target, {"ref": "x", "compression": "lz4"}), (cacheformat.target, {"type": "inline", "mode": "max"}),
    ],
)  # fmt: skip
def test_places_that_are_none(function: Any, given: dict) -> None:
    with pytest.raises(InvalidParameter):
        function(0, given)
