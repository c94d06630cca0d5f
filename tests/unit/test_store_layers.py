"""Layers on disk: written again byte for byte, equal files stored once, and nothing left when they go. GNU tar and lstat tell."""

import contextlib
import hashlib
import io
import os
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.errors import DataLoss, InvalidParameter
from berth.store.unpacking import Limits
from layerstore import Store
from tarmembers import archive, member


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "data")
    yield made
    made.layers.close()


# -- written again ------------------------------------------------------------------------------------------------

names = st.lists(st.sampled_from(["a", "b", "ü", "c" * 90, "d.e", "\udcff"]), min_size=1, max_size=4).map("/".join)
members = st.tuples(
    names, st.sampled_from([tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]), st.binary(max_size=1500),
    names, st.integers(0, 0o7777), st.integers(0, 2**33),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(items=st.lists(members, max_size=12), format_=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), tail=st.binary(max_size=40))
def test_any_archive_comes_back_byte_for_byte(items: list, format_: int, tail: bytes) -> None:
    data = archive(
        *((member(name, kind, linkname=link, mode=mode, mtime=time), body if kind == tarfile.REGTYPE else b"")
          for name, kind, body, link, mode, time in items), format_=format_,
    ) + tail  # fmt: skip
    with tempfile.TemporaryDirectory(dir="/dev/shm") as top, contextlib.closing(Store(Path(top))) as store:  # no disk to sync
        try:
            loose = store.layers.unpack(io.BytesIO(data))
        except (InvalidParameter, DataLoss):
            assert store.files() == [], "a refused archive leaves nothing"
            return
        store.layers.name(loose, chain := f"sha256:{1:064x}")
        assert store.again(chain, data) == data
        store.layers.remove(chain)
        assert store.files() == []


def test_an_archive_of_gnu_tar_with_sparse_files_and_long_names(store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / ("long" * 40)).mkdir(parents=True)
    (tree / ("long" * 40) / ("name" * 40)).write_bytes(b"x" * 100_000)
    with open(tree / "sparse", "wb") as file:
        file.write(b"start")
        file.seek(5 << 20)
        file.write(b"middle")
        file.truncate(9 << 20)
    os.link(tree / "sparse", tree / "second-name")
    os.symlink("sparse", tree / "link")
    for form in ("gnu", "posix", "pax"):
        for version in ([] if form == "gnu" else ["--sparse-version=0.0"], ["--sparse-version=1.0"]):
            data = subprocess.run(
                ["tar", "-C", str(tree), "--sparse", f"--format={'posix' if form == 'pax' else form}", *version, "-cf", "-", "."],
                check=True, capture_output=True,
            ).stdout  # fmt: skip
            chain = store.add(data)
            assert store.again(chain, data) == data
            assert store.file(chain, "sparse").stat().st_blocks * 512 < 1 << 20, "holes stay holes"
            assert store.layers.tar_size_bytes(chain) == len(data)


def test_an_archive_that_says_a_thing_twice(store: Store) -> None:
    """What gave way to a later entry is kept for the archive, and only there."""
    twice = archive((member("f"), b"first"), (member("g"), b"g"), (member("f"), b"second"), (member("f"), b"third"))
    hidden = archive((member("d/f"), b"first"), (member("f"), b"f"), member(".wh.f"), member("d", tarfile.SYMTYPE, linkname="e"))
    again = archive(
        (member("d/e/f"), b"1"), member("d/e", tarfile.SYMTYPE, linkname="x"), member("d/e", tarfile.DIRTYPE), (member("d/e/f"), b"2")
    )
    for number, data in enumerate((twice, hidden, again)):
        other, chain = store.add(data, 2 * number), store.add(data, 2 * number + 1)
        assert store.again(chain, data) == data
        store.layers.remove(other)
        assert store.again(chain, data) == data
    assert store.file(f"sha256:{1:064x}", "f").read_bytes() == b"third"
    assert os.readlink(store.file(f"sha256:{3:064x}", "d")) == "e"
    for number in (1, 3, 5):
        store.layers.remove(f"sha256:{number:064x}")
    assert store.files() == []


def test_a_changed_file_is_noticed(store: Store) -> None:
    data = archive((member("etc/passwd"), b"root:x:0:0\n"))
    chain = store.add(data)
    file = store.file(chain, "etc/passwd")
    file.write_bytes(b"evil:x:0:0\n")
    with pytest.raises(DataLoss, match="has changed on disk"):
        store.again(chain, data)
    file.write_bytes(b"short")
    with pytest.raises(DataLoss, match="shorter than it was"):
        store.again(chain, data)
    file.unlink()
    file.symlink_to("/etc/hostname")
    with pytest.raises(DataLoss, match="cannot be written again"):
        store.again(chain, data)
    recipe = Path(store.layout.recipe(chain)) / "recipe"
    recipe.write_bytes(recipe.read_bytes()[:-30])
    with pytest.raises(DataLoss, match="again"):
        store.again(chain, data)
    recipe.write_bytes(b"nonsense")
    with pytest.raises(DataLoss, match="not a recipe"):
        store.again(chain, data)


# -- stored once --------------------------------------------------------------------------------------------------


def inode(path: Path) -> int:
    return path.stat(follow_symlinks=False).st_ino


def test_equal_files_of_two_layers_are_one_inode(store: Store) -> None:
    first = store.add(archive((member("usr/bin/tool"), b"program" * 1000), (member("first"), b"1")), 1)
    second = store.add(archive((member("usr/bin/tool"), b"program" * 1000), (member("second"), b"2")), 2)
    assert inode(store.file(first, "usr/bin/tool")) == inode(store.file(second, "usr/bin/tool"))
    assert store.file(second, "usr/bin/tool").read_bytes() == b"program" * 1000
    assert store.file(second, "second").stat().st_nlink == 2


@pytest.mark.parametrize(
    "other",
    [
        (member("f", mode=0o600), b"same"), (member("f", mtime=1_000_000_001), b"same"), (member("f"), b"diff"), (member("g"), b"same"),
        (member("f", pax_headers={"SCHILY.xattr.user.a": "b"}), b"same"),
    ],
    ids=["mode", "time", "content", "path", "xattr"],
)  # fmt: skip
def test_what_differs_in_anything_is_not_shared(store: Store, other: tuple[tarfile.TarInfo, bytes]) -> None:
    first = store.add(archive((member("f"), b"same")), 1)
    data = archive(other)
    second = store.add(data, 2)
    assert inode(store.file(first, "f")) != inode(store.file(second, other[0].name))
    assert store.file(second, other[0].name).read_bytes() == other[1]
    assert stat.S_IMODE(store.file(second, other[0].name).stat().st_mode) == other[0].mode
    assert store.again(second, data) == data


def test_a_file_that_differs_late_is_whole(store: Store) -> None:
    """The comparison has gone through two megabytes when the first different byte comes."""
    body = bytearray(os.urandom(3 << 20))
    store.add(archive((member("f"), bytes(body))), 1)
    for place in (0, (1 << 20) - 1, 1 << 20, (2 << 20) + 7, (3 << 20) - 1):
        changed = bytes(body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :])
        chain = store.add(archive((member("f"), changed)), 2)
        assert store.file(chain, "f").read_bytes() == changed
        assert store.file(chain, "f").stat().st_mtime == 1_000_000_000


def test_names_of_one_layer_share_only_what_their_archive_says(store: Store) -> None:
    plain = archive((member("a"), b"same"), (member("b"), b"same"))
    linked = archive((member("a"), b"same"), member("b", tarfile.LNKTYPE, linkname="a"), member("c", tarfile.LNKTYPE, linkname="b"))
    first, second, third = store.add(plain, 1), store.add(linked, 2), store.add(linked, 3)
    assert inode(store.file(first, "a")) != inode(store.file(first, "b"))
    assert len({inode(store.file(second, name)) for name in "abc"}) == 1
    assert inode(store.file(second, "a")) != inode(store.file(first, "a")), "a file with several names is not shared"
    assert store.file(second, "a").stat().st_nlink == 3
    assert store.file(third, "b").stat().st_mtime == 1_000_000_000
    assert store.again(third, linked) == linked


def test_what_links_lead_to_is_not_forgotten_in_the_pool(store: Store) -> None:
    """A file replaced, or given a second name, by a path that leads through a link: the pool knows it by another one."""
    for last in ((member("link/f"), b"two"), member("g", tarfile.LNKTYPE, linkname="link/f"), member("link/.wh.f")):
        items = [member("d", tarfile.DIRTYPE), (member("d/f"), b"one"), member("link", tarfile.SYMTYPE, linkname="d"), last]
        chain = store.add(archive(*items))
        store.layers.remove(chain)
        assert store.files() == []


def test_removal_frees_what_nobody_else_has(store: Store) -> None:
    body = os.urandom(1 << 20)
    chains = [store.add(archive((member("shared"), body), (member(f"own-{n}"), os.urandom(1 << 20))), n) for n in range(3)]
    assert 4 << 20 <= store.layers.file_bytes() < 5 << 20, "one shared file and three of their own"
    store.layers.remove(chains[1])
    assert 3 << 20 <= store.layers.file_bytes() < 4 << 20
    assert store.file(chains[0], "shared").read_bytes() == body
    for chain in chains:
        store.layers.remove(chain)
    assert store.files() == []


def test_a_kill_in_the_middle_leaves_what_the_next_start_removes(store: Store) -> None:
    """A loose layer whose files are in the pool, and one that has lost its name: nothing of them stays."""
    chain = store.add(archive((member("kept"), b"kept")), 1)
    store.layers.unpack(io.BytesIO(archive((member("loose"), b"loose"), (member("kept"), b"kept"))))
    doomed = store.add(archive((member("gone"), b"gone")), 2)
    os.rename(store.layout.layer(doomed), f"{store.layout.tmp}/doomed")
    os.rename(store.layout.recipe(doomed), f"{store.layout.tmp}/doomed.recipe")
    os.unlink(store.layout.unwritten_marker(doomed))
    store.layers.empty_tmp()
    pool = [name for name in store.files() if name.startswith("pool/")]
    assert len(pool) == 1
    assert store.file(chain, "kept").stat().st_nlink == 2
    store.layers.remove(chain)
    assert store.files() == []


def test_a_loss_of_power_takes_what_was_not_synced(store: Store) -> None:
    """The marker of another boot stands for the loss; a file that came back empty, as ext4 leaves it, for what it took."""
    whole, broken, synced = (archive((member(f"f{n}"), b"content")) for n in range(3))
    diffs = {store.add(data, n): f"sha256:{hashlib.sha256(data).hexdigest()}" for n, data in enumerate((whole, broken, synced))}
    store.layers.sync()
    assert os.listdir(store.layout.unwritten) == []
    first, second, third = diffs
    for chain, data in ((first, whole), (second, broken)):
        store.layers.remove(chain)
        store.add(data, int(chain.removeprefix("sha256:"), 16))
    store.file(second, "f1").write_bytes(b"")
    store.file(third, "f2").write_bytes(b"")
    assert store.layers.mend(diffs) == [], "the same boot: no power was lost"
    for chain in (first, second):
        Path(store.layout.unwritten_marker(chain)).write_text("another boot")
    assert store.layers.mend(diffs) == [second]
    assert not os.path.exists(store.layout.layer(second))
    assert store.file(first, "f0").read_bytes() == b"content"


# -- what would break it --------------------------------------------------------------------------------------------


def test_limits(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", Limits(entries=100, directories=50, raw_bytes=1 << 20))
    for data, said in [
        (archive(*(member(f"f{n}") for n in range(101))), "more than 100 entries"),
        (archive(*(member(f"d{n}", tarfile.DIRTYPE) for n in range(51))), "more than 50 directories"),
        (archive(*((member(f"{n}/" + "d/" * 9 + "f"), b"") for n in range(6))), "more than 50 directories"),  # that no entry names
        (archive(*(member(f"p{n}", pax_headers={"comment": "x" * 20_000}) for n in range(60))), "belong to no file"),
        (archive((member("f"), b"x")) + bytes(3 << 20), "belong to no file"),
        (archive((member(".wh.f"), bytes(3 << 20))), "belong to no file"),
    ]:
        with pytest.raises(InvalidParameter, match=said):
            store.layers.unpack(io.BytesIO(data))
        assert store.files() == []
    store.layers.close()


def test_room_for_others_stays_on_the_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", Limits(reserve_bytes=1 << 60))  # more than any disk has
    with pytest.raises(OSError, match="would stay free"):
        store.layers.unpack(io.BytesIO(archive((member("f"), os.urandom(40 << 20)))))
    assert store.files() == []
    store.layers.close()
