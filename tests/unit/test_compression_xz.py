"""xz archives: in one stream or several, cut off, and asking for more memory than they get."""

import io
import lzma
import os

import pytest

from berth.errors import DataLoss
from berth.store.compression import ExactReader, open_stream

DATA = os.urandom(1000) * 3000


def read(blob: bytes) -> bytes:
    reader = ExactReader(open_stream(io.BytesIO(blob)))
    return b"".join(iter(lambda: reader.read_some(70_000), b""))


@pytest.mark.parametrize("padding", [0, 4, 4096, 3 << 20])
def test_streams_follow_each_other(padding: int) -> None:
    one, two = lzma.compress(DATA), lzma.compress(b"two")
    assert read(one + bytes(padding) + two + bytes(padding)) == DATA + b"two"


def test_what_is_cut_off_is_noticed() -> None:
    blob = lzma.compress(DATA)
    for length in (len(blob) - 1, len(blob) // 2, 13):
        with pytest.raises(DataLoss, match="cut off or damaged"):
            read(blob[:length])
    with pytest.raises(DataLoss, match="cut off or damaged"):
        read(blob + b"no xz")


def test_memory_is_bounded() -> None:
    assert read(lzma.compress(DATA, preset=9)) == DATA
    greedy = lzma.compress(DATA, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 512 << 20}])
    with pytest.raises(DataLoss, match="emory"):
        read(greedy)
