"""What the cache of builds keeps within a limit, what a prune takes, and what `system df` and events say of it."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from harness import Engine, wait_until
from test_build_hard import build, context, post

pytestmark = pytest.mark.root
_MB = 1_000_000


@pytest.fixture
def tight(rootfs_tar: str, tmp_path: Path) -> Iterator[Engine]:
    """An engine whose builds may keep 5 MB: two of their results."""
    (tmp_path / "daemon.json").write_text(json.dumps({"builder": {"gc": {"enabled": True, "defaultKeepStorage": "5MB"}}}))
    running = Engine(("--config-file", str(tmp_path / "daemon.json")))
    running.docker("import", rootfs_tar, "bb")
    yield running
    running.finish()


def step(name: str, size_bytes: int = 2 * _MB) -> bytes:
    return context(f"FROM bb\nRUN echo {name}; head -c {size_bytes} /dev/urandom >/{name}\n")


def made(engine: Engine, name: str, size_bytes: int = 2 * _MB) -> str:
    """Builds it and leaves it to the cache alone -> what was said."""
    said, error = build(engine, step(name, size_bytes))
    assert not error
    post(engine, "/images/prune")
    return said


def rows(engine: Engine) -> list[dict]:
    found = subprocess.run(
        ["curl", "-s", "--unix-socket", f"{engine.exec}/berth.sock", "http://d/system/df?type=build-cache"], capture_output=True, check=True
    ).stdout
    return list(json.loads(found)["BuildCache"] or [])


def kept(engine: Engine) -> set[str]:
    """The names of steps whose results are in the cache."""
    return {row["Description"].split("/")[-1] for row in rows(engine)}


def test_least_recently_used_goes_first_and_images_keep_theirs(tight: Engine) -> None:
    assert not build(tight, step("image"), "keeps")[1]
    for name in ("one", "two"):
        made(tight, name)
    assert "Using cache" in made(tight, "one")  # so that two is the one not used for longest
    made(tight, "three")
    assert not build(tight, step("image"), "keeps")[1]  # after a build it is looked at what is kept by then
    wait_until(lambda: not kept(tight) & {"two"}, "the step that was used least recently")
    assert {"one", "three"} <= kept(tight)
    assert tight.run("keeps", "sh", "-c", "wc -c </image").stdout.strip() == str(2 * _MB)
    assert "Using cache" in made(tight, "one")
    assert "Using cache" not in made(tight, "two")


def test_prune_takes_what_fits_its_filters(own_engine: Engine) -> None:
    for name in ("alpha", "beta"):
        made(own_engine, name, 1000)
    assert not build(own_engine, context("FROM bb\nRUN --mount=type=cache,target=/c,id=gamma echo 1 >/c/f; echo x >/y\n"))[1]

    def prune(**filters: list[str]) -> int:
        return len(post(own_engine, f"/build/prune?all=1&filters={quote(json.dumps(filters))}")["CachesDeleted"] or [])

    assert prune(description=["nothing-has-this"]) == 0
    assert prune(until=["24h"]) == 0
    assert prune(type=["exec.cachemount"]) == 1
    assert {"alpha", "beta"} <= kept(own_engine)
    assert prune(description=["alpha"]) >= 1
    assert not kept(own_engine) & {"alpha"}
    assert {"beta"} <= kept(own_engine)
    assert prune() >= 2
    assert rows(own_engine) == []
    done = own_engine.docker("builder", "prune", "-f", "--filter", "nonsense=1", code=None)
    assert done.returncode != 0
    assert "nonsense" in done.stderr


def test_system_df_and_events(own_engine: Engine) -> None:
    """As Docker's command line shows them."""
    made(own_engine, "shown", 3 * _MB)
    (row,) = [row for row in rows(own_engine) if row["Description"].endswith("/shown")]
    assert row["Size"] == 3 * _MB
    assert (row["InUse"], row["Type"]) == (False, "exec")
    lines = own_engine.docker("system", "df", "-v").stdout.split("Build cache usage: ")[1].splitlines()
    assert lines[0] == "3MB"
    assert any(row["ID"][:12] in line and "3MB" in line for line in lines), lines
    summary = own_engine.docker("system", "df", "--format", "{{.Type}} {{.Size}} {{.Reclaimable}}").stdout
    assert "Build Cache 3MB 3MB" in summary
    freed = own_engine.docker("builder", "prune", "-f").stdout
    assert row["ID"] in freed
    assert "Total" in freed
    url = f"http://d/events?since=1&until={time.time() + 0.1:.3f}&filters={quote(json.dumps({'type': ['builder']}))}"
    told = subprocess.run(["curl", "-s", "--unix-socket", f"{own_engine.exec}/berth.sock", url], capture_output=True, check=True, text=True).stdout
    seen = [(event["Type"], event["Action"], event["Actor"]["Attributes"]) for event in map(json.loads, told.splitlines())]
    assert seen == [("builder", "prune", {"reclaimed": "3000000"})]
