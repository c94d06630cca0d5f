"""`berth build` as a person runs it, and what other programs see of what it makes."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from harness import REPOSITORY, Engine

BERTH = [sys.executable, "-I", "-S", f"{REPOSITORY}/src/berth/cli/__main__.py"]
Done = subprocess.CompletedProcess[str]
Berth = Callable[..., Done]


def run_berth(engine: Engine, *words: str, code: int | None = 0, cwd: Path, env: dict[str, str] | None = None, input: bytes | str = "") -> Done:
    """Runs `berth WORDS` against an engine; fails unless its exit code is `code` (None: any)."""
    data = input.encode() if isinstance(input, str) else input
    ran = subprocess.run([*BERTH, *words], env={**engine.env, **(env or {})}, cwd=cwd, input=data, capture_output=True, timeout=120, check=False)
    done = subprocess.CompletedProcess(ran.args, ran.returncode, ran.stdout.decode(errors="replace"), ran.stderr.decode(errors="replace"))
    assert code is None or done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def write(top: Path, **files: str) -> None:
    """Files below a directory; `a__b` is b in the directory a."""
    for name, text in files.items():
        path = top / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def dockerfile(top: Path, text: str) -> None:
    (top / "Dockerfile").write_text(text)


def with_libraries(program: str, top: Path) -> None:
    """Copies a program of this host, and what it is linked with, to where it is here."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in [program, *re.findall(r"(/\S+) \(0x", listed)]:
        target = top / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def skopeo(*words: str) -> str:
    done = subprocess.run(["skopeo", *words], capture_output=True, text=True, timeout=60, env={**os.environ, "HOME": "/nonexistent"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def raw(where: str, *options: str) -> dict:
    """The manifest or index, or with --config the configuration, as it is there."""
    plain = ["--tls-verify=false"] if where.startswith("docker://") else []
    return dict(json.loads(skopeo("inspect", "--raw", *plain, *options, where)))


def cached(done: Done) -> int:
    """How many steps the plain log says were found."""
    return sum(line.endswith(" CACHED") for line in done.stderr.splitlines())
