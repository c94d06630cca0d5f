"""Contents stored once although owner, mode or time differ: read by mount(8)'s overlay, found whole by digest, and nothing left when they go."""

import errno
import hashlib
import itertools
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from berth.errors import InvalidParameter
from berth.linux import overlay
from berth.store import contents
from layerstore import Store
from tarmembers import archive, member

pytestmark = pytest.mark.root

BODY = os.urandom(200_000)
STUBS = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 8)
needs_stubs = pytest.mark.skipif(not STUBS, reason="data-only layers through the new mount API: Linux 6.8")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "data")
    yield made
    made.close()


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Store]:
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run(["mkfs.xfs", "-q", str(tmp_path / "disk")], check=True)
    (tmp_path / "mounted").mkdir()
    subprocess.run(["mount", "-o", "loop", str(tmp_path / "disk"), str(tmp_path / "mounted")], check=True)
    try:
        made = Store(tmp_path / "mounted/data")
        yield made
        made.close()
    finally:
        subprocess.run(["umount", str(tmp_path / "mounted")], check=True)


def is_stub(path: Path) -> bool:
    return path.stat(follow_symlinks=False).st_blocks == 0 and path.stat(follow_symlinks=False).st_size > 0


def merged(store: Store, *chains: str, script: str) -> str:
    """What a shell sees in an overlay of these layers, topmost first, that mount(8) makes: it is there as `$at`."""
    layers = ":".join([*(store.layout.layer(chain) for chain in chains), f"{store.path}/below"])
    (store.path / "below").mkdir(exist_ok=True)
    (store.path / "at").mkdir(exist_ok=True)
    mount = f'mount -t overlay overlay -o "metacopy=on,lowerdir={layers}::{store.layout.contents}" "$at"'
    return subprocess.run(
        ["unshare", "-m", "sh", "-euc", f'{mount} && cd "$at" && {script}'], env={**os.environ, "at": f"{store.path}/at"}, check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip


def variants() -> list[tarfile.TarInfo]:
    """The same file as four layers have it."""
    changes: list[dict[str, int]] = [{}, {"mtime": 1_100_000_000}, {"mode": 0o4750}, {"uid": 7, "gid": 8, "mtime": 12}]
    return [member("usr/lib/f", **change) for change in changes]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- stubs ----------------------------------------------------------------------------------------------------------


@needs_stubs
def test_a_content_is_stored_once_whoever_owns_it_and_whenever_it_was_written(store: Store) -> None:
    archives = [archive((info, BODY), (member("own"), b"%d" % number)) for number, info in enumerate(variants())]
    chains = [store.add(data, number) for number, data in enumerate(archives)]
    assert [is_stub(store.file(chain, "usr/lib/f")) for chain in chains] == [False, True, True, True]
    for chain, data, info in zip(chains, archives, variants(), strict=True):
        assert store.again(chain, data) == data
        seen = merged(store, chain, script="sha256sum <usr/lib/f; stat -c '%u %g %a %Y %s %b' usr/lib/f; ls -A").split()
        assert seen == [digest(BODY), "-", *f"{info.uid} {info.gid} {info.mode:o} {info.mtime} 200000 392 own usr".split()]
    assert store.layers.file_bytes() == len(BODY) + 4
    again = store.add(archives[0], 9)
    assert store.file(again, "usr/lib/f").stat().st_ino == store.file(chains[0], "usr/lib/f").stat().st_ino, "all is equal: one inode, as ever"


@needs_stubs
def test_layers_above_and_below_one_another(store: Store) -> None:
    first, second = (archive((info, BODY), (member(f"d/{number}"), BODY)) for number, info in enumerate(variants()[:2]))
    below, middle = store.add(first, 0), store.add(second, 1)
    top = store.add(archive((member("d/0", mtime=5), BODY), member("usr/lib/.wh.f")), 2)
    assert merged(store, middle, below, script="stat -c %Y usr/lib/f; sha256sum <usr/lib/f") == f"1100000000\n{digest(BODY)}  -\n"
    assert merged(store, top, middle, below, script="ls usr/lib d | tr '\n' ' '; stat -c %Y d/0; sha256sum <d/0") == (
        f"d: 0 1  usr/lib: 5\n{digest(BODY)}  -\n"
    )


@needs_stubs
def test_removal_in_any_order(store: Store) -> None:
    archives = [archive((info, BODY)) for info in variants()[:3]] + [archive((variants()[0], BODY))]
    for order in itertools.permutations(range(4)):
        chains = [store.add(data, number) for number, data in enumerate(archives)]
        for count, number in enumerate(order):
            store.layers.remove(chains[number])
            store.layers.wait_until_removed()
            for left in order[count + 1 :]:
                assert store.again(chains[left], archives[left]) == archives[left]
        assert store.files() == []


@needs_stubs
def test_only_what_saves_something_is_a_stub(store: Store) -> None:
    for size, expected in ((1, False), (4096, False), (4097, True)):
        for number in range(2):
            chain = store.add(archive((member(f"f{size}", mtime=number), BODY[:size])), size + number)
        assert is_stub(store.file(chain, f"f{size}")) is expected, size
    changed = store.add(archive((member("f4097", mtime=9), BODY[1:4098])), 1)
    assert store.file(changed, "f4097").read_bytes() == BODY[1:4098], "another content of the same path and size"
    elsewhere = store.add(archive((member("g", mtime=9), BODY[:4097])), 2)
    assert not is_stub(store.file(elsewhere, "g"))


@needs_stubs
def test_a_stub_with_two_names_and_one_that_gives_way(store: Store) -> None:
    store.add(archive((member("d/f"), BODY)), 0)
    linked = archive((member("d/f", mtime=5), BODY), member("g", tarfile.LNKTYPE, linkname="d/f", mtime=5))
    chain = store.add(linked, 1)
    assert is_stub(store.file(chain, "g"))
    assert store.again(chain, linked) == linked
    assert merged(store, chain, script="sha256sum <g; stat -c '%h %i' g d/f | uniq -c | wc -l").split() == [digest(BODY), "-", "1"]
    lasts: list = [member(".wh.d"), member("d", tarfile.SYMTYPE, linkname="x"), (member("d/f", mtime=7), BODY), member("d/.wh.f")]
    for number, last in enumerate(lasts):
        replaced = archive((member("d/f", mtime=5), BODY), last)
        chain = store.add(replaced, 2 + number)
        assert store.again(chain, replaced) == replaced
    for number in range(6):
        store.layers.remove(f"sha256:{number:064x}")
    assert store.files() == []


@needs_stubs
@pytest.mark.parametrize("count", [2, 3])
def test_a_file_that_an_archive_has_several_times(store: Store, count: int) -> None:
    """All are links of one inode: of another layer's, which goes first or last."""
    repeated = archive(*[(member("f"), BODY)] * count, (member("f", mtime=3), BODY))
    for first in (0, 1):
        chains = [store.add(archive((member("f"), BODY)), 0), store.add(repeated, 1)]
        store.layers.remove(chains[first])
        store.layers.wait_until_removed()
        store.layers.remove(chains[1 - first])
        assert store.files() == []


@needs_stubs
def test_what_an_archive_must_not_say(store: Store) -> None:
    """A layer below has a file where the stub of a layer above sends overlayfs: the content comes from the store all the same."""
    key = contents.Contents.key("f", len(BODY))
    records = {"SCHILY.xattr.trusted.overlay.metacopy": "y", "SCHILY.xattr.user.overlay.redirect": "/etc", "SCHILY.xattr.user.kept": "yes"}
    evil: list = [
        (member(key), b"evil"), (member(f"{key}/x"), b"evil"), member("l", tarfile.SYMTYPE, linkname="."), (member(f"l/{key}"), b"evil"),
        member(key, tarfile.DIRTYPE), member(key, tarfile.SYMTYPE, linkname="l"), (member("marked", pax_headers=records), b"m"),
    ]  # fmt: skip
    data = archive(*evil)
    below = store.add(data, 0)
    store.add(archive((member("f"), BODY)), 1)
    top = store.add(archive((member("f", mtime=5), BODY)), 2)
    assert is_stub(store.file(top, "f"))
    assert sorted(os.listdir(store.layout.layer(below))) == ["l", "marked"]
    assert os.listxattr(store.file(below, "marked")) == ["user.kept"]
    assert merged(store, top, below, script="sha256sum <f") == f"{digest(BODY)}  -\n"
    assert store.again(below, data) == data


# -- what may come between -------------------------------------------------------------------------------------------


@needs_stubs
def test_a_kernel_that_shows_no_stubs_gets_the_contents(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.add(archive((member("f"), BODY)), 0)
    data = archive(
        (member("f", mtime=5, mode=0o4755), BODY), (member("g"), b"x"), member("h", tarfile.LNKTYPE, linkname="f", mtime=5, mode=0o4755),
        (member("f", mtime=6, mode=0o4755), BODY),
    )  # fmt: skip
    chain = store.add(data, 1)
    store.layers.remove(first)
    store.layers.wait_until_removed()
    assert store.layers.fill_stubs() == 0
    assert is_stub(store.file(chain, "f"))
    monkeypatch.setattr(contents, "_try", lambda _: (False, False))
    later = store.opened_again()
    real, calls = os.removexattr, itertools.count()

    def killed(path: str, name: str, **keywords: bool) -> None:
        if next(calls) == 1:
            raise KeyboardInterrupt
        real(path, name, **keywords)

    with monkeypatch.context() as once:
        once.setattr(os, "removexattr", killed)
        with pytest.raises(KeyboardInterrupt):
            later.layers.fill_stubs()
    assert later.again(chain, data) == data
    assert later.layers.fill_stubs() == 1
    for name, mtime in (("f", 6), ("h", 5)):
        status = later.file(chain, name).stat()
        assert (status.st_mode & 0o7777, status.st_mtime, status.st_blocks * 512 >= len(BODY)) == (0o4755, mtime, True)
        assert later.file(chain, name).read_bytes() == BODY
    assert later.again(chain, data) == data
    assert os.listdir(later.layout.contents) == []
    assert later.layers.has_stubs(chain), "a container may have made stubs of its own, of files whose mode it changed"
    assert later.layers.data_layer() == ""
    other = later.add(archive((member("f", mtime=9), BODY)), 2)
    assert not is_stub(later.file(other, "f"))
    for number in range(3):
        later.layers.remove(f"sha256:{number:064x}")
    assert later.files() == []
    later.close()


@needs_stubs
def test_a_loss_of_power_that_takes_the_offer_but_not_the_layer(store: Store) -> None:
    first, data = store.add(archive((member("f"), BODY)), 0), archive((member("f", mtime=5), BODY))
    second = store.add(data, 1)
    diffs = {second: f"sha256:{digest(data)}"}
    offered = Path(store.layout.contents) / contents.Contents.key("f", len(BODY))
    Path(store.layout.unwritten_marker(second)).write_text("another boot")
    offered.unlink()
    assert store.layers.mend(diffs) == []
    assert merged(store, second, script="sha256sum <f") == f"{digest(BODY)}  -\n"
    offered.unlink()
    offered.write_bytes(b"something else")
    assert store.layers.mend(diffs) == [second]
    offered.unlink()
    store.layers.remove(first)
    assert store.files() == []


@needs_stubs
def test_many_at_once(store: Store) -> None:
    """Threads unpack and remove layers that have the same contents; in the end nothing is left."""
    archives = [archive(*((member(f"f{n}", mtime=thread), BODY[n : n + 5000]) for n in range(20))) for thread in range(6)]
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                chain = store.add(archives[number], 10 * number + turn)
                assert store.again(chain, archives[number]) == archives[number]
                store.layers.remove(chain)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(archives))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert store.files() == []


def killed_at(number: int, work: Callable[[], None]) -> bool:
    """Whether a process that does this came to its `number`-th change of a file; there it ends, as if killed."""
    pid = os.fork()
    if pid == 0:
        count = itertools.count()

        def hook(event: str, values: tuple) -> None:
            changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.setxattr", "os.truncate", "os.chmod", "os.utime")
            if (changes or (event == "open" and values[2] & (os.O_WRONLY | os.O_RDWR))) and next(count) == number:
                os._exit(1)

        try:
            sys.addaudithook(hook)
            work()
            os._exit(0)
        finally:
            os._exit(2)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 1)
    return code == 1


@needs_stubs
def test_killed_anywhere(store: Store) -> None:
    """While a layer with stubs is unpacked and named, and while the one that has the contents goes."""
    first = archive((member("f"), BODY), (member("d/g"), BODY), (member("small"), b"s"))
    second = archive((member("f", mtime=5), BODY), (member("d/g"), BODY), (member("small"), b"s"), (member("f", mtime=6), BODY))
    chains = [f"sha256:{number:064x}" for number in range(2)]

    def work() -> None:
        inner = Store(store.path)
        inner.add(second, 1)
        inner.layers.remove(chains[0])
        inner.layers.wait_until_removed()

    for number in itertools.count():
        store.add(first, 0)
        killed = killed_at(number, work)
        later = store.opened_again()
        later.layers.empty_tmp()
        later.layers.wait_until_removed()
        if os.path.isdir(later.layout.layer(chains[1])):
            assert later.again(chains[1], second) == second, number
            assert merged(later, chains[1], script="sha256sum <f") == f"{digest(BODY)}  -\n"
        for chain in chains:  # also what has lost one of its two names, as `reconcile` does
            later.layers.remove(chain)
        assert later.files() == [], number
        later.close()
        if not killed:
            break
    assert number > 30


def test_an_engine_that_ends_leaves_the_removal_to_the_next(store: Store) -> None:
    chain = store.add(archive(*((member(f"d{n % 50}/f{n}"), b"%d" % n) for n in range(5000))), 0)
    store.layers.remove(chain)
    store.layers.close()
    left = sum(len(files) for _, _, files in os.walk(store.layout.tmp))
    store.layers = store.opened_again().layers  # closed by the fixture
    assert store.layers.empty_tmp() > 0 or left == 0
    assert store.files() == []


@needs_stubs
def test_a_store_of_an_older_kernel(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or of an older berth: its large files are in the pool."""
    datas = [archive((member("f", mtime=number), BODY)) for number in range(3)]
    with monkeypatch.context() as before:
        before.setattr(contents, "_try", lambda _: (False, False))
        for number in range(2):
            store.add(datas[number], number)
    assert not os.listdir(store.layout.contents)
    later = store.opened_again()
    for number in (2, 3):
        chain = later.add(datas[number - 1], number)
    assert is_stub(later.file(chain, "f"))
    assert [later.again(f"sha256:{number:064x}", datas[n]) for number, n in enumerate((0, 1, 1, 2))] == [datas[n] for n in (0, 1, 1, 2)]
    for number in range(4):
        later.layers.remove(f"sha256:{number:064x}")
    assert later.files() == []
    later.close()


def test_no_stubs_in_a_user_namespace(tmp_path: Path) -> None:
    """There nobody may set their marks; files are copies, or links where all is equal."""
    code = (
        "import sys, pathlib, layerstore, tarmembers\n"
        "store = layerstore.Store(pathlib.Path(sys.argv[1]))\n"
        "body = b'x' * 9000\n"
        "datas = [tarmembers.archive((tarmembers.member('f', uid=0, gid=0, mtime=n), body)) for n in (1, 2, 2)]\n"
        "files = [store.file(store.add(data, number), 'f').stat() for number, data in enumerate(datas)]\n"
        "print(store.layers.data_layer() == '', [status.st_blocks for status in files], files[1].st_ino == files[2].st_ino)\n"
    )
    path = os.pathsep.join([str(Path(overlay.__file__).parents[2]), str(Path(__file__).parent)])
    command = ["unshare", "-Urm", sys.executable, "-c", code, str(tmp_path / "data")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True [24, 24, 24] True\n", "")


# -- clones ----------------------------------------------------------------------------------------------------------


def test_on_a_file_system_with_reflinks_contents_are_cloned(xfs: Store) -> None:
    archives = [archive((info, BODY * 50)) for info in variants()]
    chains = [xfs.add(archives[0], 0)]
    os.sync()
    before = os.statvfs(xfs.path).f_bfree
    chains += [xfs.add(data, number) for number, data in enumerate(archives) if number]
    os.sync()
    assert (before - os.statvfs(xfs.path).f_bfree) * os.statvfs(xfs.path).f_frsize < 1 << 20, "30 MB more in 1 MB"
    for chain, data, info in zip(chains, archives, variants(), strict=True):
        status = xfs.file(chain, "usr/lib/f").stat()
        assert (status.st_uid, status.st_mode & 0o7777, status.st_mtime) == (info.uid, info.mode, info.mtime)
        assert not xfs.layers.has_stubs(chain)
        assert xfs.again(chain, data) == data
    for chain in chains:
        xfs.layers.remove(chain)
    assert xfs.files() == []


def test_what_is_no_stub_of_ours(tmp_path: Path) -> None:
    """A mark that leads elsewhere, whoever has made it, is not followed."""
    (tmp_path / "data").mkdir()
    data = os.open(tmp_path / "data", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for redirect in ("/etc/passwd", "/.wh..wh.x/../../etc/passwd", "/.wh..wh.012/../etc/a.b", "relative"):
            with (tmp_path / "stub").open("wb") as file:
                overlay.make_stub(file.fileno(), 5, redirect)
            with pytest.raises(OSError, match="leads to"):
                contents.open_content(os.open(tmp_path / "stub", os.O_RDONLY), data)
            (tmp_path / "stub").unlink()
    finally:
        os.close(data)


def test_what_cannot_be_cloned_is_copied(xfs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """xfs says ENOSPC of one full group where there is room in others, btrfs EINVAL of a file that is not copied on write."""
    assert xfs.layers._sharing.contents.can_clone
    xfs.add(archive((member("f"), BODY)), 0)
    for number, error in enumerate((errno.ENOSPC, errno.EINVAL, errno.EOPNOTSUPP), 1):

        def refuse(source: int, target: int, error: int = error) -> None:
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(contents, "clone", refuse)
        data = archive((member("f", mtime=number, mode=0o4755), BODY))
        chain = xfs.add(data, number)
        assert xfs.file(chain, "f").read_bytes() == BODY
        assert (xfs.file(chain, "f").stat().st_mode & 0o7777, xfs.file(chain, "f").stat().st_mtime) == (0o4755, number)
        assert xfs.again(chain, data) == data


@needs_stubs
def test_paths_as_long_as_they_may_be(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together with the store's own directory longer than the kernel takes; and no entry names their directories."""
    path = "d/" * 2047 + "f"
    datas = [archive((member(path, mtime=number), BODY)) for number in range(2)]
    chains = [store.add(data, number) for number, data in enumerate(datas)]
    assert store.layers.file_bytes() == len(BODY)
    assert store.layers.has_stubs(chains[1])
    assert store.again(chains[1], datas[1]) == datas[1]
    monkeypatch.setattr(contents, "_try", lambda _: (False, False))
    later = store.opened_again()
    assert later.layers.fill_stubs() == 1
    assert later.again(chains[1], datas[1]) == datas[1]
    assert later.layers.file_bytes() == 2 * len(BODY)
    later.close()
    with pytest.raises(InvalidParameter, match="File name too long"):
        store.add(archive((member("d/" * 2047 + "ff"), BODY)), 2)
    for chain in chains:
        store.layers.remove(chain)
    assert store.files() == []
