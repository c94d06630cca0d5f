"""`berth build` of contexts that are no directory here: repositories, archives and files from the web, standard input, other names."""

import hashlib
import io
import json
import socket
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
from buildcli import Berth, dockerfile, run_berth, write
from harness import Engine
from served import serving, serving_git

pytestmark = pytest.mark.root


@pytest.fixture
def berth(engine: Engine, tmp_path: Path) -> Berth:
    """Runs `berth WORDS` in the directory of the build."""
    return lambda *words, **keywords: run_berth(engine, *words, cwd=tmp_path, **keywords)


def git(directory: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main", *words]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """A directory with app.git: branch main, and branch other with a directory deep; a tag v1."""
    work = tmp_path / "work"
    write(work, Dockerfile="FROM bb\nCOPY f /f\n", f="of-main\n")
    git(work, "init", "-q")
    git(work, "add", "-A")
    git(work, "commit", "-qm", "one")
    git(work, "tag", "v1")
    git(work, "checkout", "-qb", "other")
    write(work, deep__Dockerfile="FROM bb\nCOPY . /all\n", deep__g="of-other\n", deep__secret="hidden\n", **{"deep__.dockerignore": "secret\n"})
    write(work, deep__D2="FROM bb\nRUN echo by-the-second >/f\n")
    git(work, "add", "-A")
    git(work, "commit", "-qm", "two")
    git(work, "checkout", "-q", "main")
    write(work, f="of-main-later\n")
    git(work, "commit", "-qam", "three")
    (tmp_path / "public").mkdir()
    git(tmp_path, "clone", "-q", "--bare", str(work), str(tmp_path / "public" / "app.git"))
    return tmp_path / "public"


def shown(engine: Engine, image: str, *paths: str) -> str:
    return engine.run(image, "cat", *paths).stdout


def archive(files: dict[str, str], compression: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{compression}") as tar:  # type: ignore[call-overload]
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def image_of(text: str) -> str:
    """A Dockerfile whose image has the file /f with this."""
    return f"FROM bb\nRUN echo {text} >/f\n"


def test_a_repository(engine: Engine, berth: Berth, repositories: Path) -> None:
    seen: list[str] = []
    with serving_git(repositories, seen) as address:
        url = f"{address}/app.git"
        berth("build", "-t", "ctx:git", url)
        assert shown(engine, "ctx:git", "/f") == "of-main-later\n"
        assert any(line.startswith("POST /app.git/git-upload-pack") for line in seen)
        berth("build", "-t", "ctx:git", f"{url}#v1")
        assert shown(engine, "ctx:git", "/f") == "of-main\n"
        berth("build", "-t", "ctx:git", f"{url}#other:deep")
        assert sorted(engine.run("ctx:git", "ls", "-A", "/all").stdout.split()) == [".dockerignore", "D2", "Dockerfile", "g"]
        berth("build", "-t", "ctx:git", "-f", "D2", f"{url}#other:deep")
        assert shown(engine, "ctx:git", "/f") == "by-the-second\n"
        berth("build", "-t", "ctx:git", "-f", "-", url, input="FROM bb\nCOPY Dockerfile f /g/\n")
        assert shown(engine, "ctx:git", "/g/f") == "of-main-later\n"
        commit = git(repositories / "app.git", "rev-parse", "main")
        berth("build", "-t", "ctx:git", f"{url}?branch=other&subdir=deep")
        assert shown(engine, "ctx:git", "/all/g") == "of-other\n"
        berth("build", "-q", f"{url}?ref=main&checksum={commit}")
        assert "does not contain ref 'nowhere'" in berth("build", f"{url}#nowhere", code=1).stderr
        assert "has no directory 'shallow'" in berth("build", f"{url}#other:shallow", code=1).stderr
        assert "expected checksum to match" in berth("build", f"{url}?ref=main&checksum={commit[::-1]}", code=1).stderr
        assert "the build context has no Nowhere" in berth("build", "-f", "Nowhere", url, code=1).stderr
    assert "failed" in berth("build", url, code=1).stderr


def test_a_repository_under_a_name(engine: Engine, berth: Berth, repositories: Path, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb\nCOPY --from=code g /g\n")
    with serving_git(repositories, []) as address:
        given = f"code={address}/app.git#other:deep"
        berth("build", "-t", "ctx:named-git", "--build-context", given, ".")
        assert shown(engine, "ctx:named-git", "/g") == "of-other\n"
        assert "CACHED" in berth("build", "--build-context", given, ".").stderr


def test_a_repository_that_wants_a_token(engine: Engine, berth: Berth, repositories: Path, tmp_path: Path) -> None:
    """--secret id=GIT_AUTH_TOKEN, as BuildKit has it."""
    seen: list[str] = []
    with serving_git(repositories, seen) as address:
        berth("build", "-q", "--secret", "id=GIT_AUTH_TOKEN", f"{address}/app.git", env={"GIT_AUTH_TOKEN": "hush"})
        assert all("basic eC1hY2Nlc3MtdG9rZW46aHVzaA==" in line for line in seen)
        seen.clear()
        dockerfile(tmp_path, "FROM bb\nADD ADDRESS/app.git /code\nCOPY --from=other f /f\n".replace("ADDRESS", address))
        berth("build", "-q", "--secret", "id=GIT_AUTH_TOKEN", "--build-context", f"other={address}/app.git", ".", env={"GIT_AUTH_TOKEN": "hush"})
        assert seen
        assert all("basic eC1hY2Nlc3MtdG9rZW46aHVzaA==" in line for line in seen)


def test_from_the_web(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    web = tmp_path / "web"
    web.mkdir()
    files = {"Dockerfile": "FROM bb\nCOPY . /all\n", "sub/D": image_of("by-sub-d"), "kept": "k", "left": "l", ".dockerignore": "left\n"}
    for compression in ("", "gz", "xz"):
        (web / f"c.{compression}").write_bytes(archive(files, compression))
    (web / "some-file").write_text(image_of("alone"))
    with serving(web) as address:
        for compression in ("", "gz", "xz"):
            berth("build", "-t", "ctx:web", f"{address}/c.{compression}")
            assert sorted(engine.run("ctx:web", "ls", "-A", "/all").stdout.split()) == [".dockerignore", "Dockerfile", "kept", "sub"]
        berth("build", "-t", "ctx:web", "-f", "sub/D", f"{address}/c.gz")
        assert shown(engine, "ctx:web", "/f") == "by-sub-d\n"
        berth("build", "-t", "ctx:web", f"{address}/some-file")
        assert shown(engine, "ctx:web", "/f") == "alone\n"
        assert "404" in berth("build", f"{address}/nothing", code=1).stderr
        (web / "empty").write_bytes(b"")
        assert "ERROR: failed to build" in berth("build", f"{address}/empty", code=1).stderr
    assert "ERROR: failed to build" in berth("build", f"{address}/c.gz", code=1).stderr


def test_a_dockerfile_from_the_web_for_a_directory(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    write(tmp_path, web__D="FROM bb\nCOPY mine /f\nRUN false\n", web__good="FROM bb\nCOPY mine /f\n", mine="of-this-directory\n")
    (tmp_path / "web" / "c.tar").write_bytes(archive({"Dockerfile": "FROM bb\n"}))
    with serving(tmp_path / "web") as address:
        berth("build", "-t", "ctx:file", "-f", f"{address}/good", ".")
        assert shown(engine, "ctx:file", "/f") == "of-this-directory\n"
        said = berth("build", "-f", f"{address}/D", ".", code=1).stderr
        assert "   3 | >>> RUN false" in said
        assert "no Dockerfile" in berth("build", "-f", f"{address}/c.tar", ".", code=1).stderr
        assert "404" in berth("build", "-f", f"{address}/nothing", ".", code=1).stderr
        assert "Check complete" in berth("build", "--check", "-f", f"{address}/good", ".").stdout
        said = berth("build", "-f", f"{address}/D?token=abc", ".", code=1).stderr
        assert said.count("D:3") == 1
        assert "abc" not in said  # whatever is in an address is shown as nobody's Dockerfile


def test_a_dockerfile_from_the_web_that_is_too_large(berth: Berth, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1 << 16)
                client.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 20971520\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        said = berth("build", "-f", f"http://127.0.0.1:{server.getsockname()[1]}/D", ".", code=1).stderr
        thread.join()
    assert "/D has 20971520 bytes; more than 16777216 are not taken" in said


@pytest.mark.parametrize("text", ["FROM bb AS one\nFROM {} AS two\nRUN true\n", "FROM bb AS one\nCOPY --from={} x y\n", "FROM bb\nRUN --mount=from={},target=/x true\n"])
def test_a_name_with_a_slip_in_it(berth: Berth, tmp_path: Path, text: str) -> None:
    """Nobody listens at port 1: it is looked for as an image and not found."""
    dockerfile(tmp_path, text.format("localhost:1/bsae"))
    said = berth("build", "--build-context", "localhost:1/base=.", ".", code=1).stderr
    assert said.rstrip().endswith("(did you mean localhost:1/base?)")
    number = next(number for number, line in enumerate(text.splitlines(), 1) if "{}" in line)
    assert f"Dockerfile:{number}\n" in said
    assert f"   {number} | >>> {text.splitlines()[number - 1].format('localhost:1/bsae')}\n" in said


def test_other_words_with_slips_in_them(berth: Berth, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM bb AS build\nARG VERSION\n")
    assert "platform linux/amd46 is none (did you mean linux/amd64?)" in berth("build", "--platform", "linux/amd46", ".", code=1).stderr
    assert "(did you mean build?)" in berth("build", "--target", "biuld", ".", code=1).stderr
    assert "[VERSOIN] were not consumed (did you mean VERSION?)" in berth("build", "--build-arg", "VERSOIN=1", ".").stderr
    for flag, value, meant in (("--progress", "plian", "plain"), ("--output", "type=locla,dest=x", "local"), ("--secret", "idd=x", "id"), ("--allow", "devce", "device")):
        assert f"(did you mean {meant}?)" in berth("build", flag, value, ".", code=125).stderr


def test_a_file_from_the_web_under_a_name(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    """It is a file of its own name, and no archive is unpacked: as BuildKit has it."""
    data = archive({"inside": "x\n"}, "gz")
    write(tmp_path, **{"web__f.txt": "of-the-web\n"})
    (tmp_path / "web" / "c.tgz").write_bytes(data)
    dockerfile(tmp_path, "FROM bb\nCOPY --from=text f.txt /f\nRUN --mount=from=packed,target=/m cp /m/c.tgz /c && sha256sum /c >/sum\n")
    with serving(tmp_path / "web") as address:
        berth("build", "-t", "ctx:named-web", "--build-context", f"text={address}/f.txt", "--build-context", f"packed={address}/c.tgz", ".")
    assert shown(engine, "ctx:named-web", "/f", "/sum") == f"of-the-web\n{hashlib.sha256(data).hexdigest()}  /c\n"


def test_an_archive_on_standard_input(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    files = {"Dockerfile": "FROM bb\nCOPY . /all\n", "big": "x" * 3_000_000, "sub/D": image_of("by-sub-d"), "left": "l", ".dockerignore": "left\n"}
    for compression in ("", "gz", "bz2", "xz"):
        berth("build", "-t", "ctx:stdin", "-", input=archive(files, compression))
        assert sorted(engine.run("ctx:stdin", "ls", "-A", "/all").stdout.split()) == [".dockerignore", "Dockerfile", "big", "sub"]
    dockerfile(tmp_path, "FROM bb\nCOPY g /f\n")
    write(tmp_path, g="by-tar\n")
    made = subprocess.run(["tar", "-c", "--zstd", "Dockerfile", "g"], cwd=tmp_path, capture_output=True, check=True).stdout
    berth("build", "-t", "ctx:stdin", "-", input=made)
    assert shown(engine, "ctx:stdin", "/f") == "by-tar\n"
    cut = archive(files, "gz")[:-2000]
    assert "ERROR: failed to build" in berth("build", "-", input=cut, code=1).stderr
    assert "the build context has no" in berth("build", "-f", "Nowhere", "-", input=archive(files), code=1).stderr


def test_a_dockerfile_outside(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    write(tmp_path, context__a="A\n", context__b="B\n", other__D="FROM bb\nCOPY . /all\n", **{"other__D.dockerignore": "b\n", "context__.dockerignore": "a\n"})
    berth("build", "-t", "ctx:outside", "-f", "other/D", "context")
    assert sorted(engine.run("ctx:outside", "ls", "-A", "/all").stdout.split()) == [".dockerignore", "a"]
    (tmp_path / "other" / "D.dockerignore").unlink()
    berth("build", "-t", "ctx:outside", "-f", str(tmp_path / "other" / "D"), "context")
    assert sorted(engine.run("ctx:outside", "ls", "-A", "/all").stdout.split()) == [".dockerignore", "b"]
    (tmp_path / "link").symlink_to("other/D")
    berth("build", "-q", "-f", "link", "context")
    assert "failed to read dockerfile" in berth("build", "-f", "other", "context", code=1).stderr


def test_names_that_mean_something_else(engine: Engine, berth: Berth, tmp_path: Path) -> None:
    berth("build", "-t", "ctx:base", "-", input=image_of("of-the-base"))
    dockerfile(tmp_path, "FROM busybox:latest AS one\nRUN true\nFROM docker.io/library/busybox\nCOPY --from=one /f /g\nCOPY --from=Lib /x /x\n")
    write(tmp_path, lib__x="X\n", lib__y="Y\n", **{"lib__.dockerignore": "y\n"})
    berth("build", "-t", "ctx:names", "--build-context", "busybox=docker-image://ctx:base", "--build-context", "lib=lib", ".")
    assert shown(engine, "ctx:names", "/f", "/g", "/x") == "of-the-base\nof-the-base\nX\n"
    # also a stage may be something else
    berth("build", "-t", "ctx:names", "--build-context", "made=lib", "-f", "-", ".", input="FROM bb AS made\nRUN false\nFROM bb\nCOPY --from=made /x /x\n")
    assert shown(engine, "ctx:names", "/x") == "X\n"
    berth("build", "-t", "ctx:from", "--build-context", "lib=lib", "-o", "type=tar,dest=t", "-", input="FROM lib\nCOPY --from=bb /etc/plain /p\n")
    assert subprocess.run(["tar", "-tf", "t"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split() == [".dockerignore", "p", "x"]
    dockerfile(tmp_path, "FROM bb\nRUN --mount=from=lib,target=/m test ! -e /m/y && cp /m/x /x\n")
    berth("build", "--build-context", "lib=lib", ".")
    assert "no such directory" in berth("build", "--build-context", "lib=nowhere", ".", code=1).stderr
    assert "expected NAME=PATH" in berth("build", "--build-context", "lib", ".", code=125).stderr
    assert "127.0.0.1:9" in berth("build", "--build-context", "lib=docker-image://127.0.0.1:9/none", ".", code=1).stderr
    for wrong in ("lib=ftp://127.0.0.1/x", "lib=target:other"):
        assert "lib" in berth("build", "--build-context", wrong, ".", code=1).stderr


def test_provenance_knows_where_a_context_is_from(berth: Berth, repositories: Path, tmp_path: Path) -> None:
    commit = git(repositories / "app.git", "rev-parse", "other")
    write(tmp_path, web__Dockerfile="FROM scratch\nENV A=1\n")
    (tmp_path / "web" / "c.tar").write_bytes(data := archive({"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}))

    def provenance(*words: str, version: str = "v0.2", **keywords: str) -> dict:
        berth("build", "--provenance", f"mode=max,version={version}", "-o", "files", *words, **keywords)
        return dict(json.loads((tmp_path / "files" / "provenance.json").read_text())["predicate"])

    with serving_git(repositories, []) as address:
        url = f"{address}/app.git#other:deep"
        found = provenance(url.replace("://", "://me:hush@"))
        source = {"uri": url, "digest": {"sha1": commit}}
        assert found["invocation"]["configSource"] == {**source, "entryPoint": "Dockerfile"}
        assert source in found["materials"]
        assert found["invocation"]["parameters"]["locals"] == []
        assert "hush" not in json.dumps(found)
        found = provenance("-f", "-", url, input="FROM scratch\nCOPY g /\n", version="v1")
        assert found["buildDefinition"]["externalParameters"]["configSource"] == {"path": "Dockerfile"}
        assert source in found["buildDefinition"]["resolvedDependencies"]
    with serving(tmp_path / "web") as address:
        for name, held in (("c.tar", data), ("Dockerfile", b"FROM scratch\nENV A=1\n")):
            found = provenance(f"{address}/{name}")
            source = {"uri": f"{address}/{name}", "digest": {"sha256": hashlib.sha256(held).hexdigest()}}
            assert found["invocation"]["configSource"] == {**source, "entryPoint": "Dockerfile"}
    dockerfile(tmp_path, "FROM scratch\nCOPY web /\n")
    found = provenance(".")
    assert (found["invocation"]["configSource"], found["materials"]) == ({"entryPoint": "Dockerfile"}, [])
    assert [each["name"] for each in found["invocation"]["parameters"]["locals"]] == ["context", "dockerfile"]
