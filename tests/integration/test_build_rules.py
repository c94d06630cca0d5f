"""Odd corners of Dockerfiles: what comes of them, as BuildKit's reference says it (heredocs, ADD from the web, flags of COPY and ADD)."""

import io
import tarfile
from pathlib import Path

import pytest
from buildcli import Berth, dockerfile, run_berth, write
from harness import Engine
from served import serving

pytestmark = pytest.mark.root


@pytest.fixture
def berth(engine: Engine, tmp_path: Path) -> Berth:
    """Runs `berth WORDS` in the directory of the build."""
    return lambda *words, **keywords: run_berth(engine, *words, cwd=tmp_path, **keywords)


def built(engine: Engine, berth: Berth, tmp_path: Path, text: str, script: str, *options: str) -> str:
    """What a program says in the image of a Dockerfile."""
    dockerfile(tmp_path, text)
    berth("build", "--no-cache", "-t", "rules:one", *options, ".")
    return engine.docker("run", "--rm", "--network", "none", "rules:one", "sh", "-c", script).stdout


HEREDOCS = {
    "script": ("RUN <<EOF\na=1\necho $a >/f\nif true; then\n  echo $((1<<3)) >>/f\nfi\nEOF\n", "1\n8\n"),
    "fails in the middle": ("RUN <<EOF\nfalse\necho on >/f\nEOF\n", "on\n"),
    "shebang": ("RUN <<EOF\n#!/bin/awk -f\nBEGIN { print $0 \"x\" >\"/f\" }\nEOF\n", "x\n"),
    "shebang with tabs": ("RUN <<-EOF\n\t#!/bin/sh\n\techo \"$0\" >/f\n\t\techo tab >>/f\n\tEOF\n", "/dev/pipes/EOF\ntab\n"),
    "shebang and mounts": ("RUN --mount=type=tmpfs,target=/t <<'E'\n#!/bin/sh -e\necho $HOME >/t/x\ncp /t/x /f\nE\n", "/root\n"),
    "into a program": ("RUN cat >/f <<EOF\n$HOME `echo b` \\$c\nEOF\n", "/root b $c\n"),
    "into a program, quoted": ("RUN cat >/f <<'EOF'\n$HOME `echo b` \\$c\nEOF\n", "$HOME `echo b` \\$c\n"),
    "two": ("RUN cat <<A >/f && cat <<B >>/f\n1\nA\n2\nB\n", "1\n2\n"),
    "by descriptor": ("RUN cat 3<<EOF <&3 >/f\nthree\nEOF\n", "three\n"),
    "other shell": ("SHELL [\"/bin/sh\", \"-ec\"]\nRUN <<EOF || true\nEOF\nRUN <<EOF\necho $- | grep -o e >/f\nEOF\n", "e\n"),
    "copy": ("ARG A=a\nENV B=b\nCOPY <<EOF /f\n$A ${B} ${C:-c} \\$A \"q\" 'q'\nEOF\n", "a b c $A \"q\" 'q'\n"),
    "copy, quoted": ("ARG A=a\nCOPY <<\"EOF\" /f\n$A \\$A ${\nEOF\n", "$A \\$A ${\n"),
    "copy with tabs": ("COPY <<-EOF /f\n\tone\n\t\ttwo\n  three\n\tEOF\n", "one\ntwo\n  three\n"),
    "copy into a directory": ("COPY <<f <<g /\n1\nf\n2\ng\n", "1\n"),
    "copy nothing": ("COPY <<EOF /f\nEOF\n", ""),
    "add": ("ADD <<f /\nadded\nf\n", "added\n"),
    "crlf": ("COPY <<EOF /f\r\none\r\nEOF\r\n", None),
    "continued": ("RUN cat \\\n  <<EOF \\\n  >/f\nx\nEOF\n", "x\n"),
    "a comment in it": ("COPY <<EOF /f\n# none\n\nx\nEOF\n", "# none\n\nx\n"),
    "instructions in it": ("COPY <<EOF /f\nFROM nothing\nRUN false\nEOF\n", "FROM nothing\nRUN false\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEREDOCS)
def test_heredocs(engine: Engine, berth: Berth, tmp_path: Path, name: str) -> None:
    text, found = HEREDOCS[name]
    shown = built(engine, berth, tmp_path, f"FROM bb\n{text}", "cat /f")
    if found is not None:
        assert shown == found


def test_modes_and_owners_of_heredocs(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    text = "FROM bb\nCOPY <<a /\nx\na\nCOPY --chmod=0750 --chown=12:34 <<b /\nx\nb\nCOPY --chmod=u=rwx,go=r --link <<c /\nx\nc\n"
    assert built(engine, berth, tmp_path, text, "stat -c '%n %a %u:%g' /a /b /c").splitlines() == ["/a 644 0:0", "/b 750 12:34", "/c 744 0:0"]


def archive(**files: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, mode in files.items():
            info = tarfile.TarInfo(name)
            info.mode, info.size = mode, 2
            tar.addfile(info, io.BytesIO(b"x\n"))
    return out.getvalue()


def test_archives(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    for place in (tmp_path, tmp_path / "web"):
        (place / "a.tgz").write_bytes(archive(one=0o755, two=0o640))
    write(tmp_path, plain="x\n")
    with serving(tmp_path / "web") as address:
        text = (
            f"FROM bb\nADD a.tgz /local/\nADD --unpack=false a.tgz /kept/\nADD {address}/a.tgz /web/\nADD --unpack {address}/a.tgz /unpacked/\n"
            f"ADD --unpack=true --chown=5:6 a.tgz plain /both/\nADD --unpack=true --chmod=600 --chown=5:6 {address}/a.tgz /owned/\n"
        )
        shown = built(engine, berth, tmp_path, text, "cd / && find local kept web unpacked both owned -type f | sort | xargs stat -c '%n %a %u:%g'")
    assert shown.splitlines() == [
        "both/one 755 5:6", "both/plain 644 5:6", "both/two 640 5:6", "kept/a.tgz 644 0:0", "local/one 755 0:0", "local/two 640 0:0",
        "owned/one 755 5:6", "owned/two 640 5:6", "unpacked/one 755 0:0", "unpacked/two 640 0:0", "web/a.tgz 600 0:0",
    ]  # fmt: skip


def test_addresses(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    write(tmp_path, web__f="of-the-web\n", **{"web__index.html": "index\n"})
    with serving(tmp_path / "web") as address:
        text = f"FROM bb\nARG S=sha256:8\nADD {address}/f?x=1#frag /a/\nADD {address}/ /named\nADD --chmod=644 {address}/f /b\n"
        assert built(engine, berth, tmp_path, text, "cat /a/f /named /b && stat -c %a /b") == "of-the-web\nindex\nof-the-web\n644\n"
        dockerfile(tmp_path, f"FROM bb\nADD {address}/ /directory/\n")
        assert "cannot determine a file name" in berth("build", ".", code=1).stderr
        dockerfile(tmp_path, f"FROM bb\nADD --checksum=sha256:{'0' * 64} {address}/f /a/\n")
        assert "digest mismatch" in berth("build", ".", code=1).stderr


def test_parents_and_exclude(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    """The examples of the reference."""
    write(tmp_path, x__a__b__f="1\n", x__a__c__g="2\n", x__d="3\n", **{"x__a__b__f.log": "4\n", "top.txt": "5\n", "top.md": "6\n", "x__keep.md": "7\n"})
    text = (
        "FROM bb\nCOPY --parents ./x/a/b/f ./top.txt /one/\nCOPY --parents ./x/a/*/f /two/\nCOPY --parents ./x/./*/*/ /three/\n"
        "COPY --parents x/./a/**/*.log /four/\nCOPY --exclude=*.md --exclude=a *.* x /five/\nCOPY --exclude=**/*.md --exclude=!**/keep.md x /six/\n"
        "COPY --exclude=*.md --parents . /seven/\n"
    )
    shown = built(engine, berth, tmp_path, text, "cd / && find one two three four five six seven -type f | sort").split()
    assert shown == [
        "five/d", "five/top.txt", "four/a/b/f.log", "one/top.txt", "one/x/a/b/f", "seven/Dockerfile", "seven/top.txt", "seven/x/a/b/f", "seven/x/a/b/f.log",
        "seven/x/a/c/g", "seven/x/d", "seven/x/keep.md", "six/a/b/f", "six/a/b/f.log", "six/a/c/g", "six/d", "six/keep.md", "three/a/b/f", "three/a/b/f.log",
        "three/a/c/g", "two/x/a/b/f",
    ]  # fmt: skip
    dockerfile(tmp_path, "FROM bb\nCOPY --parents x/nothing /one/\n")
    assert "not found" in berth("build", ".", code=1).stderr


NAMES = ("x/a.txt", "y/a.txt", "src/a.txt", "src/x/b.txt", "src/x/y/c.txt", "home.md", "hom.txt", "home.go", "arr[0].txt", "sub/f")
FILES = {name.replace("/", "__"): name for name in NAMES}
PATTERNS = {
    "parents": ("COPY --parents ./x/a.txt ./y/a.txt /o/\n", "/o/x/a.txt /o/y/a.txt"),
    "parents from a point": ("COPY --parents ./src/./x/*.txt /o/\n", "/o/x/b.txt"),
    "parents at any depth": ("COPY --parents ./src/**/*.txt /o/\n", "/o/src/a.txt /o/src/x/b.txt /o/src/x/y/c.txt"),
    "parents of a directory": ("COPY --parents src/x /o\n", "/o/src/x/b.txt /o/src/x/y/c.txt"),
    "parents of a stage": ("COPY sub /deep/er/\nFROM bb\nCOPY --from=0 --parents /deep/./er/f /o/\n", "/o/er/f"),
    "parents, nothing fits": ("RUN mkdir /o\nCOPY --parents ./src/**/*.none /o/\n", ""),
    "exclude": ("COPY --exclude=*.txt --exclude=*.md hom* /o/\n", "/o/home.go"),
    "exclude below": ("COPY --exclude=x src /o/\n", "/o/a.txt"),
    "exclude at any depth": ("COPY --exclude=**/*.txt src sub /o/\n", "/o/f"),
    "exclude of ADD": ("ADD --exclude=x/y src /o/\n", "/o/a.txt /o/x/b.txt"),
    "exclude and parents": ("COPY --exclude=src/x/y --parents src /o/\n", "/o/src/a.txt /o/src/x/b.txt"),
    "off": ("COPY --parents=false --link=false x/a.txt /o/\n", "/o/a.txt"),
    "above the context": ("COPY ../../sub/f /o/\n", "/o/f"),
    "slashes at the end": ("COPY sub/ /o\n", "/o/f"),
    "a leading slash": ("COPY /sub/f /o/g\n", "/o/g"),
    "brackets": ("COPY arr[[]0].txt /o/\n", "/o/arr[0].txt"),
    "JSON": ('COPY ["arr[[]0].txt", "/o/with space/"]\n', "/o/with space/arr[0].txt"),
    "a relative destination": ("WORKDIR /o\nCOPY sub/f rel/\nCOPY sub/f .\nCOPY sub/f ./g\n", "/o/f /o/g /o/rel/f"),
    "a directory over a directory": ("COPY sub /o/\nCOPY src/x/y /o/\n", "/o/c.txt /o/f"),
    "over a link": ("RUN mkdir /real && ln -s real /o\nCOPY sub/f /o/\nRUN test -e /real/f\n", ""),
    "linked over a link": ("RUN mkdir /real && ln -s real /o\nCOPY --link sub/f /o/\nRUN test ! -e /real/f\n", "/o/f"),
}  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
def test_copies(engine: Engine, berth: Berth, tmp_path: Path, name: str) -> None:
    write(tmp_path, **FILES)
    text, found = PATTERNS[name]
    shown = built(engine, berth, tmp_path, f"FROM bb\n{text}", "test -e /o && find /o -type f | sort")
    assert shown.splitlines() == found.replace(" /o", "\n/o").splitlines()


@pytest.mark.parametrize("text", [
    "RUN mkdir -p /o/f\nCOPY sub/f /o/\n", "RUN touch /o\nCOPY sub /o/\n", "COPY none* /o/\nCOPY nothing /o/\n", "COPY --parents src/none /o/\n", "COPY --chown=nobody-here sub /o/\n",
    "COPY sub/f hom.txt /o\n",
])  # fmt: skip
def test_copies_that_cannot_be(berth: Berth, tmp_path: Path, text: str) -> None:
    write(tmp_path, **FILES)
    dockerfile(tmp_path, f"FROM bb\n{text}")
    said = berth("build", ".", code=1).stderr
    assert ">>> COPY" in said
    assert "ERROR: failed to build" in said
