"""`docker build` against berth: what Docker's own client sees and what is in the images."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Engine

pytestmark = pytest.mark.root

Files = dict[str, str]
Build = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def build(engine: Engine, tmp_path: Path) -> Build:
    """Runs `docker build` in a directory with a Dockerfile and files; code: what it is to end with."""

    def run(dockerfile: str, *options: str, files: Files | None = None, code: int | None = 0) -> "subprocess.CompletedProcess[str]":
        (tmp_path / "Dockerfile").write_text(dockerfile)
        for name, text in (files or {}).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        done = subprocess.run(
            ["docker", "build", *options, str(tmp_path)], env={**engine.env, "DOCKER_BUILDKIT": "0"}, capture_output=True, text=True, timeout=120
        )
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done

    return run


def built(done: "subprocess.CompletedProcess[str]") -> str:
    found = re.search(r"^Successfully built ([0-9a-f]{12})$", done.stdout, re.M)
    assert found, done.stdout
    return found[1]


def config(engine: Engine, image: str) -> dict:
    return dict(json.loads(engine.docker("image", "inspect", image).stdout)[0]["Config"])


def test_stages_copies_and_variables(engine: Engine, build: Build) -> None:
    done = build(
        'FROM bb AS base\nARG NAME=world\nENV GREETING="hello $NAME"\nWORKDIR /srv/app\nCOPY a.txt b/ ./\n'
        'RUN echo "$GREETING" >out && cat out && mkdir /x && echo 1 >/x/y\n'
        'FROM bb\nCOPY --from=base /srv/app/out /out\nCOPY --from=base --chown=3:4 /x /x\nCMD ["cat", "/out"]\n',
        "-t", "staged", "--build-arg", "NAME=you", files={"a.txt": "A\n", "b/c": "C\n"},
    )
    assert "hello you\n" in done.stdout
    assert engine.docker("run", "--rm", "staged").stdout == "hello you\n"
    assert engine.docker("run", "--rm", "staged", "stat", "-c", "%u:%g %a", "/x", "/x/y").stdout == "3:4 755\n3:4 644\n"
    assert engine.docker("run", "--rm", "staged", "ls", "/srv", code=None).returncode != 0  # only what was copied


def test_a_second_time_everything_is_cached_and_the_image_is_the_same(build: Build) -> None:
    text = "FROM bb\nRUN head -c 16 /dev/urandom >/random\nENV A=1\nCOPY f /f\nWORKDIR /w\n"
    first = build(text, files={"f": "1"})
    again = build(text)
    assert again.stdout.count("Using cache") == 3
    assert built(first) == built(again)
    changed = build(text, files={"f": "2"})
    assert changed.stdout.count("Using cache") == 1
    assert built(changed) != built(first)


def test_a_step_that_fails_says_how_and_keeps_those_before_it(build: Build) -> None:
    text = "FROM bb\nRUN echo early >/early\nRUN echo to-be-seen; exit 7\n"
    done = build(text, code=7)
    assert "to-be-seen" in done.stdout
    assert "The command '/bin/sh -c echo to-be-seen; exit 7' returned a non-zero code: 7" in done.stderr
    assert "Using cache" in build(text.replace("exit 7", "true")).stdout


@pytest.mark.parametrize(
    ("dockerfile", "words"),
    [
        ("FROM bb\nRNU ls\n", "unknown instruction: RNU (did you mean RUN?)"), ("FROM bb\nCOPY nowhere /\n", '"/nowhere": not found'),
        ("FROM bb\nCOPY ../../etc/passwd /\n", "not found"), ("", "Dockerfile"), ("FROM nowhere.invalid/x\n", "nowhere.invalid"),
        ("FROM bb AS first\nCOPY --from=later a /\nFROM bb AS later\nFROM first\n", "later"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(build: Build, dockerfile: str, words: str) -> None:
    done = build(dockerfile, code=None)
    assert done.returncode != 0
    assert words in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_configuration(engine: Engine, build: Build) -> None:
    build(
        'FROM bb\nEXPOSE 80 53/udp 8000-8001\nVOLUME /data\nUSER 12:34\nSTOPSIGNAL SIGUSR1\nLABEL a="b c" d=e\nSHELL ["/bin/sh", "-ec"]\n'
        'HEALTHCHECK --interval=5s --retries=2 CMD true\nENTRYPOINT exec sleep 5\nONBUILD RUN echo child\n',
        "-t", "configured", "--label", "f=g",
    )
    found = config(engine, "configured")
    assert found["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}}
    assert found["Volumes"] == {"/data": {}}
    assert (found["User"], found["StopSignal"]) == ("12:34", "SIGUSR1")
    assert found["Labels"] == {"a": "b c", "d": "e", "f": "g"}
    assert found["Entrypoint"] == ["/bin/sh", "-ec", "exec sleep 5"]
    assert found["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000, "Retries": 2}
    assert found["OnBuild"] == ["RUN echo child"]
    child = build("FROM configured\nUSER 0\n")
    assert "child\n" in child.stdout


def test_mounts_leave_nothing_behind(engine: Engine, build: Build) -> None:
    done = build(
        "FROM bb AS other\nRUN echo from-stage >/f\nFROM bb\n"
        "RUN --mount=type=bind,target=/ctx --mount=type=bind,from=other,target=/other,rw --mount=type=cache,target=/cache/deep "
        "--mount=type=tmpfs,target=/scratch cat /ctx/a /other/f && echo x >/other/g && echo kept >>/cache/deep/n && touch /scratch/t && echo 1 >/made\n",
        "-t", "mounted", files={"a": "from-context\n"},
    )
    assert "from-context\nfrom-stage\n" in done.stdout
    assert engine.docker("run", "--rm", "mounted", "sh", "-c", "ls -d /ctx /other /cache /scratch 2>/dev/null; cat /made").stdout == "1\n"
    again = build(
        "FROM bb\nRUN --mount=type=cache,target=/cache/deep cat /cache/deep/n\n",
    )
    assert "kept\n" in again.stdout


def test_steps_are_in_no_list_and_leave_none(engine: Engine, build: Build) -> None:
    build("FROM bb\nRUN echo not-cached-$$ >/x\n")
    assert engine.docker("ps", "-aq").stdout == ""
    assert engine.docker("ps", "-aq", "--no-trunc").stdout == ""


def test_prune_frees_what_no_image_has(engine: Engine, build: Build) -> None:
    engine.docker("builder", "prune", "-af")  # what other tests have left
    build("FROM bb AS big\nRUN head -c 3000000 /dev/zero >/zeros\nFROM bb\nCOPY --from=big /bin/busybox /copy\n", "-t", "kept")
    sizes = json.loads(engine.docker("system", "df", "--format", "json", "-v").stdout)["BuildCache"]
    assert any(entry["Size"] in ("3MB", "3.00MB") for entry in sizes), sizes
    freed = engine.docker("builder", "prune", "-f").stdout
    assert re.search(r"Total reclaimed space: 3(\.\d+)?MB", freed), freed
    assert engine.docker("run", "--rm", "kept", "cmp", "/copy", "/bin/busybox").returncode == 0


def test_a_cache_begins_with_what_from_names(build: Build) -> None:
    text = (
        "FROM bb AS seed\nRUN mkdir -p /seed/sub && echo planted >/seed/sub/f && chown 5:6 /seed/sub/f\n"
        "FROM bb\nRUN --mount=type=cache,id=seeded,target=/c,from=seed,source=/seed/sub stat -c '%u:%g' /c/f && cat /c/f && echo more >>/c/f\n"
    )
    assert "5:6\nplanted\n" in build(text).stdout
    assert "planted\nmore\n" in build("FROM bb\nRUN --mount=type=cache,id=seeded,target=/c cat /c/f\n").stdout
    failed = build(text.replace("/seed/sub s", "/nowhere s").replace("seeded", "other"), code=None)
    assert failed.returncode != 0
    assert "/nowhere is not there" in failed.stderr


def test_a_cache_is_the_step_s_own_in_a_user_namespace(userns_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM bb\nRUN --mount=type=cache,target=/c echo mine >/c/own && stat -c '%u:%g' /c /c/own && echo layer >/l && chown 7:8 /l\n"
    )
    done = subprocess.run(
        ["docker", "build", "-t", "remapped", str(tmp_path)], env={**userns_engine.env, "DOCKER_BUILDKIT": "0"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0:0\n0:0\n" in done.stdout
    assert userns_engine.docker("run", "--rm", "remapped", "stat", "-c", "%u:%g", "/l").stdout == "7:8\n"


def test_warnings_are_said_and_may_be_errors(build: Build) -> None:
    text = "FROM bb AS Base\nRUN echo $nowhere\nCMD echo hi\nENV A $B\n"
    done = build(text)
    assert "StageNameCasing" in done.stdout
    assert "JSONArgsRecommended" in done.stdout
    assert "UndefinedVar" in done.stdout
    failed = build(f"# check=error=true\n{text}", code=None)
    assert failed.returncode != 0
    assert "lint violation found for rules: JSONArgsRecommended, LegacyKeyValueFormat, StageNameCasing, UndefinedVar" in failed.stderr
    assert "Warning" not in build(f"# check=skip=all\n{text}").stdout
