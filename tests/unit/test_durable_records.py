"""A database that is cut off or damaged anywhere loses nothing; read back with SQLite, not with berth."""

import asyncio
import io
import json
import os
import random
import shutil
import sqlite3
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from berth.errors import DataLoss
from berth.oci import platforms
from berth.store import database as database_module
from berth.store import images, journal
from berth.store.database import Database
from berth.store.images import ImageStore
from berth.store.layout import Layout

_PAGE_BYTES, _FRAME_BYTES, _WAL_HEAD_BYTES = 4096, 4096 + 24, 32
Rows = dict[str, set[tuple]]


def rows_of(path: str) -> Rows:
    """All records that a database file has."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'changes'")]
        return {name: set(connection.execute(f"SELECT * FROM {name}")) for name in names}
    finally:
        connection.close()


def _record(number: int, text: str) -> str:
    return json.dumps({"id": f"{number:064x}", "name": f"c{number}", "note": f"{text} é ☃ ", "padding": "x" * (number * 97 % 1500)})


def _load(database: Database) -> None:
    """What an engine does to its records."""
    for number in range(6):
        raw = bytes(range(256)) + bytes([number])
        database.write_now(
            ("INSERT OR REPLACE INTO chains VALUES (?, ?, ?, ?)", (f"chain{number}", f"diff{number}", "", number)),
            ("INSERT OR REPLACE INTO images VALUES (?, ?, ?)", (f"image{number}", raw, f"chain{number}")),
        )
        database.write_now(("INSERT OR REPLACE INTO tags VALUES (?, ?)", (f"name{number % 5}:latest", f"image{number}")))
    for number in range(24):
        database.write_now(("INSERT INTO containers VALUES (?, ?, ?)", (f"{number:064x}", f"c{number}", _record(number, "created"))))
    for number in range(0, 24, 2):
        record = (f"renamed{number}", _record(number, "exited"), f"{number:064x}")
        database.write_now(("UPDATE containers SET name = ?, record = ? WHERE id = ?", record))
    for number in range(0, 24, 5):
        database.write_now(("DELETE FROM containers WHERE id = ?", (f"{number:064x}",)))


@pytest.fixture(scope="module")
def memory() -> Iterator[str]:
    """A directory in memory: hundreds of databases are opened, and a disk takes its time to sync them."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as top:
        yield top


@pytest.fixture(scope="module")
def killed(memory: str) -> tuple[str, Rows]:
    """The files of an engine killed under load: part of the changes are in the database, part in its write-ahead log."""
    top = f"{memory}/killed"
    os.mkdir(top)
    database = Database(f"{top}/berth.db")
    _load(database)
    database._thread.submit(lambda: database._connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()).result()
    for number in range(1, 24, 3):
        database.write_now(("UPDATE containers SET record = ? WHERE id = ?", (_record(number, "late"), f"{number:064x}")))
    database.write_now(("DELETE FROM containers WHERE id = ?", (f"{1:064x}",)))
    shutil.copytree(top, f"{top}-copy")
    database.close()
    return f"{top}-copy", rows_of(f"{top}/berth.db")


def _after(killed: tuple[str, Rows], damage: Callable[[str], None]) -> tuple[Rows, Database]:
    """The rows that an engine has which starts over the damaged files."""
    top = f"{killed[0]}-root"
    shutil.rmtree(top, ignore_errors=True)
    shutil.copytree(killed[0], top)
    damage(f"{top}/berth.db")
    database = Database(f"{top}/berth.db")
    database.close()
    return rows_of(f"{top}/berth.db"), database


def _cut(suffix: str, size: int) -> Callable[[str], None]:
    return lambda path: os.truncate(path + suffix, size)


def _overwrite(suffix: str, at: int, data: bytes) -> Callable[[str], None]:
    def damage(path: str) -> None:
        with open(path + suffix, "r+b") as file:
            file.seek(at)
            file.write(data)

    return damage


def test_killed_alone_needs_no_mending(killed: tuple[str, Rows]) -> None:
    rows, database = _after(killed, lambda path: None)
    assert rows == killed[1]
    assert len(rows["containers"]) == 18
    assert not database.mended
    assert not [name for name in os.listdir(f"{killed[0]}-root") if "damaged" in name]


def test_cut_off_at_every_page_and_in_many_others(killed: tuple[str, Rows]) -> None:
    chance = random.Random(5)
    cuts = []
    for suffix, head, step in (("", 0, _PAGE_BYTES), ("-wal", _WAL_HEAD_BYTES, _FRAME_BYTES)):
        size = os.path.getsize(f"{killed[0]}/berth.db{suffix}")
        assert size > 10 * step
        edges = {at + by for at in range(head, size + 1, step) for by in (-1, 0, 1)} | {chance.randrange(size) for _ in range(40)}
        cuts += [(suffix, at) for at in sorted(edges | {0, 1, 16, 100}) if 0 <= at < size]
    for suffix, at in cuts:
        rows, database = _after(killed, _cut(suffix, at))
        assert rows == killed[1], f"berth.db{suffix} cut off at {at}"
        assert not database.incomplete


def test_any_byte_changed(killed: tuple[str, Rows]) -> None:
    chance = random.Random(6)
    for number in range(120):
        suffix = ("", "", "-wal")[number % 3]
        at = chance.randrange(os.path.getsize(f"{killed[0]}/berth.db{suffix}"))
        data = chance.choice([bytes([chance.randrange(256)]), chance.randbytes(_PAGE_BYTES), bytes(_PAGE_BYTES), b"{" * 40])
        if len(data) == _PAGE_BYTES and not suffix:
            at -= at % _PAGE_BYTES
        rows, database = _after(killed, _overwrite(suffix, at, data))
        assert rows == killed[1], f"berth.db{suffix}: {len(data)} bytes written over at {at}"
        assert not database.incomplete


def test_a_change_that_sqlites_check_does_not_see(memory: str) -> None:
    path = f"{memory}/berth.db"
    database = Database(path)
    database.write_now(("INSERT INTO containers VALUES ('id', 'name', ?)", (_record(1, "exit code 7"),)))
    database.close()
    expected = rows_of(path)
    with open(path, "rb") as file:
        at = file.read().index(b"exit code 7")
    _overwrite("", at, b"exit code 9")(path)
    assert rows_of(path) != expected  # which has asserted that the check is content
    database = Database(path)
    database.close()
    assert rows_of(path) == expected
    assert "has other rows in containers than its second copy" in database.mended[0]


@pytest.mark.parametrize("names", [("",), ("-wal",), ("", "-wal", "-shm")])
def test_a_missing_file(killed: tuple[str, Rows], names: tuple[str, ...]) -> None:
    rows, database = _after(killed, lambda path: [os.unlink(path + name) for name in names] and None)
    assert rows == killed[1]
    assert "second copy" in database.mended[0]


def test_a_damaged_database_is_kept_and_said(killed: tuple[str, Rows]) -> None:
    _, database = _after(killed, _overwrite("", 0, b"garbage" * 100))
    assert "berth.db cannot be opened (file is not a database): made anew" in database.mended[0]
    kept = database.mended[1].rpartition(" ")[2]
    with open(kept, "rb") as file:
        assert file.read(7) == b"garbage"


@pytest.mark.parametrize("name", ["snapshot", "journal"])
def test_a_damaged_second_copy_is_written_anew(killed: tuple[str, Rows], name: str) -> None:
    size = os.path.getsize(f"{killed[0]}/records/{name}")
    for at in (0, size // 2, size - 1):
        for damage in (_cut(f"/records/{name}", at), _overwrite(f"/records/{name}", at, b"?")):
            rows, database = _after(killed, lambda path, damage=damage: damage(os.path.dirname(path)))
            assert rows == killed[1]
            copy = journal.read_second_copy(f"{killed[0]}-root/records", "", 2)
            copy.connection.close()
            assert copy.sequence == database._sequence


def test_what_neither_copy_has_is_said(killed: tuple[str, Rows]) -> None:
    """One line of the second copy and the database's head: the rest is there, and that some may be missing is known."""

    def damage(path: str) -> None:
        _overwrite("", 0, b"garbage" * 20)(path)
        with open(f"{os.path.dirname(path)}/records/journal", "rb") as file:
            lines = file.read().splitlines(keepends=True)
        victim = next(i for i, line in enumerate(lines) if b"INSERT INTO containers" in line and f"{3:064x}".encode() in line)
        lines[victim] = lines[victim].replace(b"c3", b"c4", 1)
        with open(f"{os.path.dirname(path)}/records/journal", "wb") as file:
            file.writelines(lines)

    rows, database = _after(killed, damage)
    assert {row[0] for row in killed[1]["containers"]} - {row[0] for row in rows["containers"]} == {f"{3:064x}"}
    assert database.incomplete
    assert "damage of its own" in database.mended[-1]


def test_a_full_disk_keeps_the_change_and_the_copy_catches_up(tmp_path: Path) -> None:
    database = Database(f"{tmp_path}/berth.db")
    insert = "INSERT INTO containers VALUES (?, ?, '{}')"
    database.write_now((insert, ("a", "a")))
    whole = database._journal._fd
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        database._journal._fd = full
        database.write_now((insert, ("b", "b")))
        assert database._journal.stale
    finally:
        database._journal._fd = whole
        os.close(full)
    database.write_now((insert, ("c", "c")))
    database.close()
    os.unlink(f"{tmp_path}/berth.db")
    Database(f"{tmp_path}/berth.db").close()
    assert {row[0] for row in rows_of(f"{tmp_path}/berth.db")["containers"]} == {"a", "b", "c"}


def test_a_long_journal_becomes_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_MIN_COMPACT_BYTES", 20_000)
    database = Database(f"{tmp_path}/berth.db")

    async def write() -> None:
        await asyncio.gather(*(database.write(("INSERT INTO tags VALUES (?, ?)", (f"t{n}", "x" * 300))) for n in range(300)))

    asyncio.run(write())
    database.close()
    assert os.path.getsize(f"{tmp_path}/records/journal") < 300 * 300
    expected = rows_of(f"{tmp_path}/berth.db")
    os.truncate(f"{tmp_path}/berth.db", 5000)
    Database(f"{tmp_path}/berth.db").close()
    assert rows_of(f"{tmp_path}/berth.db") == expected
    assert len(expected["tags"]) == 300


@pytest.mark.parametrize("loses_power", [False, True])
@pytest.mark.parametrize("synced", [False, True])
def test_what_need_not_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loses_power: bool, synced: bool) -> None:
    """The record of a container of --rm outlives a kill; a loss of power may take it, and the copy is never ahead of the database."""
    monkeypatch.setattr(database_module, "_SYNCED_AFTER_S", 0.0 if synced else 3600.0)
    top, wal = f"{tmp_path}/root", "berth.db-wal"
    os.mkdir(top)
    database = Database(f"{top}/berth.db")
    insert = "INSERT INTO containers VALUES (?, ?, '{}')"
    database.write_now((insert, ("lasting", "a")))
    on_disk = os.path.getsize(f"{top}/{wal}")

    async def write() -> None:
        for name in ("b", "c"):
            await database.write((insert, (name, name)), lasting=False)
        await asyncio.sleep(0)

    asyncio.run(write())
    database._thread.submit(lambda: None).result()  # what was asked for before it is done
    shutil.copytree(top, f"{tmp_path}/copy")
    database.close()
    if loses_power and not synced:
        os.truncate(f"{tmp_path}/copy/{wal}", on_disk)
    after = Database(f"{tmp_path}/copy/berth.db")
    after.close()
    expected = {"lasting"} if loses_power and not synced else {"lasting", "b", "c"}
    assert {row[0] for row in rows_of(f"{tmp_path}/copy/berth.db")["containers"]} == expected
    assert not after.mended
    for root in (top, f"{tmp_path}/copy"):  # and the second copy has caught up
        before = rows_of(f"{root}/berth.db")
        os.unlink(f"{root}/berth.db")
        Database(f"{root}/berth.db").close()
        assert rows_of(f"{root}/berth.db") == before


def test_a_lasting_change_brings_those_before_it_along(tmp_path: Path) -> None:
    database = Database(f"{tmp_path}/berth.db")
    insert = "INSERT INTO containers VALUES (?, ?, '{}')"

    async def write() -> None:
        await database.write((insert, ("b", "b")), lasting=False)
        await database.write((insert, ("c", "c")))

    asyncio.run(write())
    lines = Path(f"{tmp_path}/records/journal").read_text().splitlines()
    assert [json.loads(line[9:])[1][0][1][0] for line in lines] == ["b", "c"]
    database.close()


def test_a_database_of_the_version_before(tmp_path: Path) -> None:
    connection = sqlite3.connect(f"{tmp_path}/berth.db")
    connection.executescript(
        "CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL) STRICT;"
        "INSERT INTO containers VALUES ('i', 'n', '{}'); PRAGMA user_version=1"
    )
    connection.close()
    database = Database(f"{tmp_path}/berth.db")
    database.close()
    assert not database.mended
    assert not database.incomplete
    os.unlink(f"{tmp_path}/berth.db")
    Database(f"{tmp_path}/berth.db").close()
    assert rows_of(f"{tmp_path}/berth.db")["containers"] == {("i", "n", "{}")}


def test_one_of_a_newer_berth_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(f"{tmp_path}/berth.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(DataLoss, match="newer berth"):
        Database(f"{tmp_path}/berth.db")


def _imported(root: str) -> tuple[Database, ImageStore, str]:
    """A store with one image of one layer, and the layer's directory."""
    database = Database(f"{root}/berth.db")
    store = ImageStore(Layout(root), database)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"whole"))
    archive.seek(0)
    image = store.import_filesystem(archive, "name:tag", "", {}, platforms.host())
    return database, store, store.lower(image).directories[0]


def _start_again(root: str) -> list[str]:
    """What the next engine's store has mended."""
    database = Database(f"{root}/berth.db")
    store = ImageStore(Layout(root), database)
    mended = store.reconcile()
    store.layers.wait_until_removed()  # at its end an engine leaves the rest of that to the next
    store.close()
    database.close()
    return mended


def test_a_layer_that_a_loss_of_power_took_goes_with_its_image(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waited for its files to be on the disk; the marker of that boot is still there, and a file came back empty."""
    monkeypatch.setattr(images, "_SYNC_AFTER_S", 3600.0)
    os.mkdir(root := f"{memory}/short")
    database, store, layer = _imported(root)
    store.layers.close()  # as a kill leaves it, without a sync
    database.close()
    os.truncate(f"{layer}/file", 0)
    (marker,) = os.listdir(f"{root}/unwritten")
    with open(f"{root}/unwritten/{marker}", "w") as file:
        file.write(str(uuid.uuid4()))
    (message,) = _start_again(root)
    assert "is dropped: layer" in message
    assert rows_of(f"{root}/berth.db")["images"] == rows_of(f"{root}/berth.db")["tags"] == set()
    assert [os.listdir(f"{root}/{name}") for name in ("layers", "recipes", "unwritten", "tmp")] == [[]] * 4
    assert _start_again(root) == []


def test_what_is_on_the_disk_is_not_looked_at_again(memory: str) -> None:
    os.mkdir(root := f"{memory}/synced")
    database, store, layer = _imported(root)
    store.close()
    database.close()
    assert os.listdir(f"{root}/unwritten") == []
    os.truncate(f"{layer}/file", 0)
    assert _start_again(root) == []


def test_a_layer_without_its_directory_is_said(memory: str) -> None:
    os.mkdir(root := f"{memory}/without")
    database, store, layer = _imported(root)
    store.close()
    database.close()
    shutil.rmtree(layer)
    (message,) = _start_again(root)
    assert "is dropped: layer" in message
    assert rows_of(f"{root}/berth.db")["images"] == rows_of(f"{root}/berth.db")["tags"] == set()
    assert os.listdir(f"{root}/recipes") == []
