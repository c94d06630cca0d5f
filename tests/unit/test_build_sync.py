"""Mirrors of contexts: what is asked for, what comes to be, and what a client that means harm gets."""

import io
import os
import subprocess

import pytest

from berth import errors
from berth.api.buildsession import ranges
from berth.build import listing, wire
from berth.cli.buildfiles import Context, Unreadable
from berth.engine.builds import mirrors as mirrors_module
from berth.engine.builds.mirrors import Mirrors, key_of

REGULAR, DIRECTORY, LINK = 0o100644, 0o040755, 0o120777


@pytest.fixture
def source(tmp_path):
    top = tmp_path / "source"
    (top / "src" / "deep").mkdir(parents=True)
    (top / "src" / "a.c").write_text("int a;\n")
    (top / "src" / "deep" / "b.c").write_text("int b;\n" * 100_000)
    (top / "tool").write_text("#!/bin/sh\n")
    (top / "tool").chmod(0o755)
    (top / "link").symlink_to("src/a.c")
    (top / "ümläut \"quoted\"\n").write_text("x")
    settle(top)
    return top


def settle(top):
    """Makes the times of all files so old that they count."""
    now = 1_700_000_000_000_000_000
    for directory, _, files in os.walk(top):
        for name in files:
            os.utime(f"{directory}/{name}", ns=(now, now), follow_symlinks=False)


def frames(data):
    return [wire.decode_data(payload)[1] for kind, payload in wire.Decoder().feed(data) if kind == wire.DATA]


def sync(mirrors, context, key="k", patterns=None):
    """What was sent, in bytes of listing and files, and the identity."""
    mirror = mirrors.take(key)
    try:
        told = context.listing(patterns)
        numbers = mirror.compare(told)
        sent = b"".join(frames(b"".join(context.sending(1, ranges(numbers))))) if numbers else b""
        if numbers:
            mirror.receive(io.BytesIO(sent))
        mirror.finish()
        return numbers, len(sent), mirror.identity, mirror.files
    finally:
        mirrors.give_back(mirror)


def aged(context, monkeypatch):
    """As if some seconds had gone by since the files were changed."""
    import berth.cli.buildfiles as module

    monkeypatch.setattr(module, "time_ns", lambda: os.times().elapsed and __import__("time").time_ns() + 10_000_000_000)
    return context


def tree(top):
    """What GNU find says of it."""
    done = subprocess.run(
        ["find", str(top), "-mindepth", "1", "-printf", r"%P %y %m %l %T@ \n"], capture_output=True, text=True, check=True
    )
    return sorted(done.stdout.split("\n"))


def same(one, other):
    subprocess.run(["diff", "-r", "--no-dereference", str(one), str(other)], check=True)
    assert tree(one) == tree(other)


def test_a_mirror_is_what_the_client_has(source, tmp_path, monkeypatch):
    mirrors, context = Mirrors(str(tmp_path / "m")), aged(Context(str(source)), monkeypatch)
    numbers, _, identity, files = sync(mirrors, context)
    assert len(numbers) == 4
    assert identity
    same(source, files)
    assert sync(mirrors, context)[:3] == ([], 0, identity)


def test_only_what_has_changed_is_sent(source, tmp_path, monkeypatch):
    mirrors, context = Mirrors(str(tmp_path / "m")), aged(Context(str(source)), monkeypatch)
    _, _, before, files = sync(mirrors, context)
    inode = os.stat(f"{files}/src/deep/b.c").st_ino
    (source / "src" / "a.c").write_text("int c;\n")
    os.utime(source / "src" / "a.c", ns=(1_700_000_000_000_000_000,) * 2)  # even where size and time are what they were
    numbers, size, identity, _ = sync(mirrors, context)
    assert (len(numbers), size) == (1, wire.FILE_HEAD.size + 7)
    assert identity != before
    assert os.stat(f"{files}/src/deep/b.c").st_ino == inode
    same(source, files)


def test_what_is_gone_goes_and_kinds_change(source, tmp_path, monkeypatch):
    mirrors, context = Mirrors(str(tmp_path / "m")), aged(Context(str(source)), monkeypatch)
    files = sync(mirrors, context)[3]
    subprocess.run("rm -r src/deep link && mkdir link && echo x >link/in && rm tool && ln -s nowhere tool && chmod 700 src && mv src/a.c src/z.c", shell=True, cwd=source, check=True)
    sync(mirrors, context)
    same(source, files)
    subprocess.run("rm -r link tool && echo y >link && mkdir -p src/deep/er && echo new >src/deep/er/file", shell=True, cwd=source, check=True)
    sync(mirrors, context)
    same(source, files)


def test_a_file_changed_just_now_is_sent_again(source, tmp_path):
    mirrors, context = Mirrors(str(tmp_path / "m")), Context(str(source))
    context.listing(None)
    (source / "tool").write_text("now")
    mirror = mirrors.take("k")
    told = context.listing(None)
    assert listing.UNSURE in told
    mirrors.give_back(mirror)
    _, _, identity, files = sync(mirrors, context)
    numbers, *_ = sync(mirrors, context)
    assert identity == ""
    assert numbers
    same(source, files)


def test_two_builds_have_two_mirrors(source, tmp_path):
    mirrors = Mirrors(str(tmp_path / "m"))
    first, second = mirrors.take("k"), mirrors.take("k")
    assert first.path != second.path
    mirrors.give_back(first)
    assert mirrors.take("k").path == first.path


def test_a_mirror_that_was_left_in_the_middle_is_emptied(source, tmp_path, monkeypatch):
    mirrors, context = Mirrors(str(tmp_path / "m")), aged(Context(str(source)), monkeypatch)
    files = sync(mirrors, context)[3]
    (source / "tool").write_text("longer than before")
    mirror = mirrors.take("k")
    numbers = mirror.compare(context.listing(None))
    sent = b"".join(frames(b"".join(context.sending(1, ranges(numbers)))))
    with pytest.raises(errors.DataLoss, match="before the end of tool"):
        mirror.receive(io.BytesIO(sent[:-1]))
    mirrors.give_back(mirror)
    assert len(sync(mirrors, context)[0]) == 4
    same(source, files)


def test_an_index_of_another_boot_says_nothing(source, tmp_path, monkeypatch):
    mirrors, context = Mirrors(str(tmp_path / "m")), aged(Context(str(source)), monkeypatch)
    sync(mirrors, context)
    monkeypatch.setattr(mirrors_module, "boot_id", lambda: "another")
    assert len(sync(mirrors, context)[0]) == 4


def test_mirrors_are_trimmed_by_least_use(source, tmp_path, monkeypatch):
    mirrors, context = Mirrors(str(tmp_path / "m")), aged(Context(str(source)), monkeypatch)
    for number in range(4):
        sync(mirrors, context, key_of(str(number)))
        os.utime(tmp_path / "m" / f"{key_of(str(number))}.0" / "index", (number, number))
    held = mirrors.take(key_of("0"))
    mirrors.trim(most=2)
    assert {name for name, _, _ in mirrors.all()} == {f"{key_of(name)}.0" for name in "023"}
    mirrors.give_back(held)
    mirrors.trim(most_bytes=mirrors.all()[0][1] + 10)
    assert [name for name, _, _ in mirrors.all()] == [f"{key_of('3')}.0"]
    assert sorted(os.listdir(tmp_path / "m")) == [f"{key_of('3')}.0"]


def entry(path, mode=REGULAR, size=1, link=""):
    return listing.line(path, mode, size, 1, link, 1)


@pytest.mark.parametrize(
    "lines",
    [
        [entry("/etc/passwd")], [entry("../x")], [entry("a/../../x")], [entry("a//b")], [entry("")], [entry("./a")], [entry("a/")],
        [entry("a\0b")], [entry("a", 0o020666)], [entry("a", 0o060666)], [entry("a", 0o010666)], [entry("a", 0o140666)], [entry("a", LINK)],
        [entry("a"), entry("a", size=2)], [entry("a/b")], [entry("link", LINK, 0, "/etc"), entry("link/passwd")],
        [entry("link", LINK, 0, "/etc"), entry("link", DIRECTORY, 0)], [entry("a"), entry("a/b")], ["[1,2,3]"], ["{}"], ["x"], ['["a",33188,1,1,""]'],
        ['["a",33188,1.5,1,"",1]'], ['["a",33188,true,1,"",1]'], ['["a",-1,1,1,"",1]'], ['["a",33188,-1,1,"",1]'], [entry("n" * 300)], [entry("\ud800")],
    ],
)  # fmt: skip
def test_a_listing_leads_nowhere_else(tmp_path, lines):
    mirrors = Mirrors(str(tmp_path / "m"))
    mirror = mirrors.take("k")
    with pytest.raises((errors.InvalidParameter, errors.DataLoss)):
        mirror.receive(io.BytesIO(b"".join(wire.FILE_HEAD.pack(number, REGULAR, 1, 1) + b"x" for number in mirror.compare("\n".join([*lines, ""]).encode()))))
    mirrors.give_back(mirror)
    assert sorted(os.listdir(tmp_path)) == ["m"]
    assert mirrors.all() == []


def test_files_that_nobody_asked_for(tmp_path):
    mirrors = Mirrors(str(tmp_path / "m"))
    for sent in (
        wire.FILE_HEAD.pack(1, REGULAR, 1, 1) + b"x", wire.FILE_HEAD.pack(0, 0o020666, 1, 1) + b"x",
        wire.FILE_HEAD.pack(0, REGULAR, 1, 1) + b"xy", wire.FILE_HEAD.pack(0, REGULAR, 1 << 63, 1), b"short",
    ):  # fmt: skip
        mirror = mirrors.take("k")
        assert mirror.compare(f"{entry('a')}\n".encode()) == [0]
        with pytest.raises(errors.DataLoss):
            mirror.receive(io.BytesIO(sent))
        mirrors.give_back(mirror)
    assert mirrors.all() == []


# -- the client's side -------------------------------------------------------------------------------------------------


def listed(context, patterns):
    return [listing.parse(each).path for each in context.listing(patterns).splitlines()]


def test_only_what_patterns_name_is_listed(source):
    context = Context(str(source))
    assert listed(context, ["src/deep"]) == ["src", "src/deep", "src/deep/b.c"]
    assert listed(context, ["src/*.c", "tool"]) == ["src", "src/a.c", "tool"]
    assert listed(context, ["src/**/b.c"]) == ["src", "src/a.c", "src/deep", "src/deep/b.c"]
    assert listed(context, ["missing", "src/missing/x", "*.none"]) == []
    assert listed(context, ["src", "src/a.c"]) == ["src", "src/a.c", "src/deep", "src/deep/b.c"]
    assert listed(context, ["link"]) == listed(context, None), "where a link leads is the engine's to say"
    assert listed(context, ["l*"]) == listed(context, None)
    assert listed(context, []) == []


def test_what_is_ignored_is_not_listed(source):
    from berth.build.files.ignore import Ignore

    context = Context(str(source), Ignore.parse(b"src\n!src/deep/b.c\ntool\n"))
    assert [path for path in listed(context, None) if path.isascii()] == ["link", "src", "src/deep", "src/deep/b.c"]
    assert listed(context, ["src/a.c", "tool", "src/deep"]) == ["src", "src/deep", "src/deep/b.c"]
    assert context.hides("tool")
    assert not context.hides("none")


def test_special_files_are_left_out(source):
    os.mkfifo(source / "pipe")
    assert "pipe" not in listed(Context(str(source)), None)
    assert listed(Context(str(source)), ["pipe"]) == []


def test_no_more_is_given_out_than_was_listed(source):
    context = Context(str(source))
    context.listing(["tool"])
    for numbers in ([[0, 1]], [[5, 5]], [[-1, 0]], [[1, 0]]):
        with pytest.raises(Unreadable):
            list(context.sending(1, numbers))
    (source / "tool").unlink()
    (source / "tool").symlink_to("/etc/passwd")
    with pytest.raises(Unreadable, match="tool in the build context cannot be read"):
        list(context.sending(1, [[0, 0]]))


def test_ranges_of_numbers():
    assert ranges([]) == []
    assert ranges([0, 1, 2, 5, 7, 8]) == [[0, 2], [5, 5], [7, 8]]


def test_lines_of_listings_are_read_as_they_were_written():
    for path in ("a", 'a"b', "a\\b", "ü", "a\nb", "\udcff"):
        found = listing.parse(listing.line(path, REGULAR, 1, 2, "", 3).encode())
        assert (found.path, found.mode, found.size, found.mtime_ns, found.link, found.stamp) == (path, REGULAR, 1, 2, "", 3)
    assert listing.parse(listing.line("l", LINK, 0, 2, "x,0]\n", 1).encode()).link == "x,0]\n"
    assert listing.UNSURE not in (listing.line("l", LINK, 0, 2, "x,0]\n", 1) + "\n").encode()
