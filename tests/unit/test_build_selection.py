"""Sources of COPY: names, wildcards, links, --parents, --exclude; nothing outside the root, whoever moves what."""

import fnmatch
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from berth.build.files.ignore import Ignore
from berth.build.files.places import cleaned, open_in_root, resolve
from berth.build.files.selection import DIRECTORY, FILE, OTHER, SYMLINK, Selected, has_wildcards, select
from berth.build.files.sources import Sources
from berth.errors import Conflict, InvalidParameter

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A context in which links lead in and out."""
    top = tmp_path / "root"
    for name in ("a.txt", "b.txt", "c.md", "d/one.txt", "d/two.md", "d/e/deep.txt", "d/e/f/deeper.txt", "x/y/z.txt", "x/w/z.txt", "[odd]/file", "sp ace"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    (top / "empty").mkdir()
    os.symlink("d", top / "to-d")
    os.symlink("a.txt", top / "to-a")
    os.symlink("/d/e", top / "to-e")
    os.symlink("../../../../outside", top / "out")
    os.symlink(str(tmp_path / "outside"), top / "out-absolute")
    os.symlink("nowhere", top / "d/broken")
    os.symlink("loop", top / "loop")
    return top


@pytest.fixture
def chosen(root: Path) -> Iterator[Callable[..., list[Selected]]]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    yield lambda *patterns, **how: select(fd, patterns, **how)
    os.close(fd)


def pairs(found: Sequence[Selected]) -> list[tuple[str, str]]:
    return [(item.path, item.target) for item in found]


Chosen = Callable[..., list[Selected]]


def test_names(chosen: Chosen) -> None:
    assert chosen("a.txt") == [Selected("a.txt", "a.txt", FILE, named=True)]
    assert chosen("/d/./one.txt", "sp ace") == [Selected("d/one.txt", "one.txt", FILE, named=True), Selected("sp ace", "sp ace", FILE, named=True)]
    assert pairs(chosen("d")) == [
        ("d", ""), ("d/broken", "broken"), ("d/e", "e"), ("d/one.txt", "one.txt"), ("d/two.md", "two.md"), ("d/e/deep.txt", "e/deep.txt"),
        ("d/e/f", "e/f"), ("d/e/f/deeper.txt", "e/f/deeper.txt"),
    ]  # fmt: skip
    assert pairs(chosen("d")) == pairs(chosen("d/")) == pairs(chosen("./d/.")) == pairs(chosen("../../d"))
    assert {item.path: item.kind for item in chosen("d")}["d/broken"] == SYMLINK
    assert chosen("empty") == [Selected("empty", "", DIRECTORY, named=True)]
    assert chosen(".")[0] == chosen("/")[0] == chosen("")[0] == Selected("", "", DIRECTORY, named=True)


def test_every_name_of_the_root(chosen: Chosen, root: Path) -> None:
    """os.walk is the second opinion."""
    expected = {""}
    for directory, directories, files in os.walk(root):
        expected |= {os.path.relpath(os.path.join(directory, name), root) for name in directories + files}
    found = [item.path for item in chosen(".")]
    assert set(found) == expected
    assert len(found) == len(expected)


def test_links_that_are_named_are_followed_inside(chosen: Chosen) -> None:
    assert chosen("to-a") == [Selected("a.txt", "to-a", FILE, named=True)]
    assert pairs(chosen("to-d")) == pairs(chosen("d"))
    assert pairs(chosen("to-e/deep.txt")) == [("d/e/deep.txt", "deep.txt")]
    assert pairs(chosen("to-d/e/f")) == [("d/e/f", ""), ("d/e/f/deeper.txt", "deeper.txt")]
    assert {item.path: item.kind for item in chosen(".")}["to-d"] == SYMLINK


@pytest.mark.parametrize("name", ["out/secret", "out-absolute/secret", "out", "../outside/secret", "d/../../outside/secret", "loop/x", "loop", "d/broken"])
def test_nothing_outside(chosen: Chosen, name: str) -> None:
    with pytest.raises(InvalidParameter):
        chosen(name)


def test_a_link_out_leads_to_the_same_name_inside(chosen: Chosen, root: Path) -> None:
    (root / "outside").mkdir()
    (root / "outside/secret").write_text("mine")
    assert pairs(chosen("out/secret")) == [("outside/secret", "secret")]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["a.txt", "b.txt"]), ("?.txt", ["a.txt", "b.txt"]), ("[b-z].*", ["b.txt", "c.md"]), ("*/one.txt", ["d/one.txt"]), ("x/*/z.txt", ["x/w/z.txt", "x/y/z.txt"]),
        ("to-d/*.txt", ["d/one.txt"]), ("\\[odd\\]/*", ["[odd]/file"]), ("nothing*", []), ("nothing/*", []), ("a.tx[t]", ["a.txt"]), ("[^a].txt", ["b.txt"]),
        ("to-?", None), ("*/*/f/*", ["d/e/f/deeper.txt"]),
    ],
)  # fmt: skip
def test_wildcards(chosen: Chosen, pattern: str, expected: list[str] | None) -> None:
    found = chosen(pattern)
    if expected is None:  # links that fit are followed
        assert ("a.txt", "to-a") in pairs(found)
        assert ("d/one.txt", "one.txt") in pairs(found)
    else:
        assert [item.path for item in found] == expected


def test_what_wildcards_are() -> None:
    assert [text for text in ("a*", "a?", "[a]", "a", "\\*", "\\\\*", "a]") if has_wildcards(text)] == ["a*", "a?", "[a]", "\\\\*"]


def test_wildcards_are_not_wanted(chosen: Chosen, root: Path) -> None:
    (root / "st*r").write_text("star")
    (root / "star").write_text("star")
    assert pairs(chosen("st*r", wildcards=False)) == [("st*r", "st*r")]
    with pytest.raises(InvalidParameter):
        chosen("*.txt", wildcards=False)


def test_a_pattern_that_is_none(chosen: Chosen) -> None:
    with pytest.raises(InvalidParameter, match="syntax error in pattern"):
        chosen("[a")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("d/one.txt", ["d", "d/one.txt"]), ("./d/e/deep.txt", ["d", "d/e", "d/e/deep.txt"]), ("x/./y/z.txt", ["y", "y/z.txt"]), ("**/z.txt", ["x", "x/w", "x/w/z.txt", "x/y", "x/y/z.txt"]),
        ("d/**/*.txt", ["d", "d/one.txt", "d/e", "d/e/deep.txt", "d/e/f", "d/e/f/deeper.txt"]), ("x/*/z.txt", ["x", "x/w", "x/w/z.txt", "x/y", "x/y/z.txt"]),
        ("d/e", ["d", "d/e", "d/e/deep.txt", "d/e/f", "d/e/f/deeper.txt"]), ("./x/./**/z.txt", ["w", "w/z.txt", "y", "y/z.txt"]), ("*/nothing", []),
        ("../x/y/z.txt", ["x", "x/y", "x/y/z.txt"]),
    ],
)  # fmt: skip
def test_parents(chosen: Chosen, pattern: str, expected: list[str]) -> None:
    assert [item.target for item in chosen(pattern, parents=True)] == expected


def test_parents_that_are_not_there(chosen: Chosen) -> None:
    for name in ("d/nothing", "nothing/./x", "nothing"):
        with pytest.raises(InvalidParameter, match="not found"):
            chosen(name, parents=True)


def test_exclude(chosen: Chosen) -> None:
    assert [item.target for item in chosen("d", exclude=["*.md", "e/f", "broken"])] == ["", "e", "one.txt", "e/deep.txt"]
    assert [item.target for item in chosen("*.*", exclude=["*.md"])] == ["a.txt", "b.txt"]
    assert [item.target for item in chosen("d", exclude=["*", "!e/f"])] == ["", "e", "e/f", "e/f/deeper.txt"]
    assert [item.target for item in chosen("**/*.txt", parents=True, exclude=["x/y", "d/**", "*"])] == []
    assert [item.target for item in chosen("x/**", parents=True, exclude=["x/y"])] == ["x", "x/w", "x/w/z.txt"]


def test_ignored(chosen: Chosen) -> None:
    ignore = Ignore.parse(b"*.txt\nd\n!d/e/f\n")
    assert [item.target for item in chosen("d", ignore=ignore)] == ["", "e", "e/f", "e/f/deeper.txt"]
    assert [item.path for item in chosen("*.*", ignore=ignore)] == ["c.md"]
    for name in ("a.txt", "d/one.txt", "to-a", "to-d/one.txt"):
        with pytest.raises(InvalidParameter, match=r"not found; it is there, but \.dockerignore excludes it"):
            chosen(name, ignore=ignore)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("A.TXT", "did you mean '/a.txt'?"), ("d/one.tx", "did you mean '/d/one.txt'?"), ("a.txt/", "a.txt is not a directory"), ("zzzz", '"/zzzz": not found'), ("D/one.txt", "did you mean '/d'?")],
)
def test_words(chosen: Chosen, name: str, hint: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        chosen(name)
    assert str(caught.value).startswith("failed to compute cache key: ")
    assert hint in str(caught.value)


def test_other_kinds(chosen: Chosen, root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert chosen("pipe")[0].kind == OTHER
    assert next(item for item in chosen(".") if item.path == "pipe").kind == OTHER


def test_latin_1(chosen: Chosen, root: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (root / name).write_text("x")
    assert pairs(chosen("caf*")) == pairs(chosen("caf?")) == pairs(chosen(name)) == [(name, name)]


def test_too_long_and_nul(chosen: Chosen) -> None:
    for name in ("a" * 300, "a/" * 3000, "a\0b", "a/" * 2000):
        with pytest.raises((InvalidParameter, OSError)):
            chosen(name)


def test_deep_trees(chosen: Chosen, root: Path) -> None:
    fd = os.open(root / "empty", os.O_RDONLY)
    for _ in range(900):
        os.mkdir("n", dir_fd=fd)
        below = os.open("n", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    assert len(chosen("empty")) == 901
    assert len(chosen("empty/**/n", parents=True)) == 901


# -- beside others ----------------------------------------------------------------------------------

NAME = st.text("ab.", min_size=1, max_size=3).filter(lambda text: text not in (".", ".."))
GLOB = st.text("ab.*?", min_size=1, max_size=4).filter(lambda text: "**" not in text and text not in (".", ".."))


@hypothesis.given(st.sets(st.lists(NAME, min_size=1, max_size=3).map("/".join), max_size=8), st.lists(GLOB, min_size=1, max_size=3))
@hypothesis.settings(max_examples=150, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_globs_as_fnmatch_by_parts(tmp_path_factory: pytest.TempPathFactory, names: set[str], parts: list[str]) -> None:
    top = tmp_path_factory.mktemp("globs")
    for name in sorted(names):
        if not any((top / other).is_file() for other in [name.rsplit("/", n)[0] for n in range(name.count("/") + 1)]) and not (top / name).exists():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text("x")
    files = {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}

    def fits(path: str) -> bool:
        pieces = path.split("/")
        return len(pieces) == len(parts) and all(fnmatch.fnmatchcase(piece, part) for piece, part in zip(pieces, parts, strict=True))

    fd = os.open(top, os.O_RDONLY)
    try:
        found = {item.path for item in select(fd, ["/".join(parts)]) if item.named and item.kind == FILE} if has_wildcards("/".join(parts)) else None
    finally:
        os.close(fd)
    if found is not None:
        assert found == {path for path in files if fits(path)}


@hypothesis.given(st.lists(st.sampled_from(["a", "..", ".", "", "b"]), max_size=8).map("/".join))
def test_cleaning(path: str) -> None:
    done: list[str] = []
    for part in path.split("/"):
        if part == "..":
            done = done[:-1]
        elif part not in ("", "."):
            done.append(part)
    assert cleaned(path) == "/".join(done)


@hypothesis.given(st.lists(st.tuples(NAME, st.lists(st.sampled_from(["..", ".", "a", "b", "/"]), min_size=1, max_size=4).map("/".join)), max_size=5),
                  st.lists(st.sampled_from(["a", "b", "..", "a.", "b."]), min_size=1, max_size=4).map("/".join))  # fmt: skip
@hypothesis.settings(max_examples=150)
def test_resolving_as_the_kernel_in_a_root(tmp_path_factory: pytest.TempPathFactory, links: list[tuple[str, str]], path: str) -> None:
    """openat2(RESOLVE_IN_ROOT) is the second opinion, for all that is there."""
    top = tmp_path_factory.mktemp("links")
    (top / "a/b").mkdir(parents=True)
    (top / "b").mkdir()
    for name, target in links:
        if not (top / name).exists() and not (top / name).is_symlink():
            os.symlink(target, top / name)
    root = os.open(top, os.O_RDONLY)
    try:
        try:
            fd = open_in_root(root, path, os.O_PATH)
        except OSError:
            return
        try:
            expected = os.fstat(fd)
        finally:
            os.close(fd)
        place = resolve(root, path)
        assert place.status is not None
        assert place.status.st_ino == expected.st_ino
        assert os.stat(top / place.path).st_ino == expected.st_ino
    finally:
        os.close(root)


def test_a_directory_that_becomes_a_link_meanwhile(root: Path, tmp_path: Path) -> None:
    """Swapped as fast as can be: what is outside never shows."""
    os.mkdir(root / "swap")
    (root / "swap/secret").write_text("inside")
    os.symlink(str(tmp_path / "outside"), root / "link")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(root / "swap", root / "aside")
            os.rename(root / "link", root / "swap")
            os.rename(root / "swap", root / "link")
            os.rename(root / "aside", root / "swap")

    thread = threading.Thread(target=swap)
    thread.start()
    fd = os.open(root, os.O_RDONLY)
    try:
        seen = set()
        for _ in range(400):
            try:
                found = select(fd, ["swap/secret"])
                with Sources(fd) as sources:
                    file = sources.open_file(found[0].path)
            except (InvalidParameter, Conflict, OSError):
                continue
            with os.fdopen(file, "rb") as opened:
                seen.add(opened.read())
        assert seen <= {b"inside"}
    finally:
        stop.set()
        thread.join()
        os.close(fd)
