"""Lists of images beside dockerd's: the same images on both engines, the same filters, the same answers."""

import json
import re
import subprocess
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from dockerd import Dockerd
from harness import Engine

pytestmark = pytest.mark.root

FILTERS: list[dict[str, list[str]]] = [
    {"dangling": ["true"]}, {"dangling": ["false"]}, {"dangling": ["nope"]}, {"label": ["imd"]}, {"label": ["imd=b"]}, {"label": ["imd=c"]},
    {"label": ["imd", "nosuch"]}, {"reference": ["imd/one"]}, {"reference": ["imd/one:*"]}, {"reference": ["*/two"]}, {"reference": ["imd*"]},
    {"reference": ["localhost:5000/*/one"]}, {"reference": ["imd/[^t]*"]}, {"reference": ["imd/tw?:2"]}, {"reference": ["imd/one:1", "*/two"]},
    {"reference": ["["]}, {"before": ["imd/one:1"], "reference": ["imd/*"]}, {"since": ["imd/one:1"]}, {"since": ["imd/two:2"]},
    {"before": ["imd/two:2"], "since": ["imd/base"]}, {"before": ["nosuch"]}, {"since": ["nosuch"]}, {"nosuch": ["1"]}, {"label!": ["a"]},
    {"label": ["imd"], "reference": ["imd/one:1"]}, {"dangling": ["true"], "reference": ["imd/one"]}, {"dangling": ["true"], "label": ["imd"]},
]  # fmt: skip


class Side:
    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        self.made: list[str] = []

    def docker(self, *words: str) -> str:
        done = subprocess.run(["docker", *words], env=self.env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def get(self, path: str) -> object:
        socket = self.env["DOCKER_HOST"].removeprefix("unix://")
        done = subprocess.run(["curl", "-sS", "-g", "--unix-socket", socket, f"http://x/v1.41{path}"], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def listed(self, query: str) -> object:
        """The names of the images of this test, or the error."""
        found = self.get(f"/images/json?{query}")
        if isinstance(found, list):
            return sorted(tuple(each["RepoTags"]) for each in found if each["Id"] in self.made)
        assert isinstance(found, dict)
        # dockerd 20.10 begins with a capital; later ones do not. Of a pattern, berth also says which it is.
        return re.sub(r"invalid filter 'reference=.*?': ", "", found["message"].replace("Invalid filter", "invalid filter"))

    def make(self) -> None:
        """base <- one <- without a name that one more was made of <- three, base <- two, base <- without a name."""
        self.docker("tag", "bb", "imd/bb")
        for base, name, change in (
            ("imd/bb", "imd/base", "LABEL imd-base=1"), ("imd/base", "imd/one:1", "LABEL imd=b"), ("imd/base", "imd/two:2", "ENV a=b"),
            ("imd/base", "", "LABEL imd=dangling"), ("imd/one:1", "imd/between", "CMD a"), ("imd/between", "imd/three", "CMD b"),
        ):  # fmt: skip
            self.docker("create", "--name", "imd", "--network", "none", base, "true")
            self.made.append(self.docker("commit", "-m", "words", "-c", change, "imd", *([name] if name else [])))
            self.docker("rm", "imd")
        self.docker("rmi", "imd/between")
        self.docker("tag", "imd/one:1", "localhost:5000/imd/one:1")
        self.docker("tag", "imd/one:1", "imd/one:2")

    def remove(self) -> None:
        names = self.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
        mine = [name for name in names if "imd/" in name]
        if mine:
            self.docker("rmi", *mine)
        kept = self.docker("images", "-aq", "--no-trunc").split()
        for identity in reversed(self.made):
            if identity in kept:
                subprocess.run(["docker", "rmi", "-f", identity], env=self.env, capture_output=True)


@pytest.fixture(scope="module")
def sides(engine: Engine, real: Dockerd) -> Iterator[tuple[Side, Side]]:
    both = Side(real.env), Side(engine.env)
    try:
        for side in both:
            side.make()
        yield both
    finally:
        for side in both:
            side.remove()


def test_lists_filters_and_parents(sides: tuple[Side, Side]) -> None:
    theirs, ours = sides
    for query in ("", "all=1", "digests=1", *(f"filters={quote(json.dumps(filters))}" for filters in FILTERS)):
        assert ours.listed(query) == theirs.listed(query), query
    assert len(ours.listed("")) == 5  # type: ignore[arg-type]
    assert len(ours.listed("all=1")) == 6  # type: ignore[arg-type]

    def history(side: Side, name: str) -> list[tuple]:
        found = side.get(f"/images/{name}/history")
        assert isinstance(found, list)
        return [(step["Id"] in side.made, step["Tags"], step["CreatedBy"], step["Size"] > 0, step["Comment"]) for step in found]

    for name in ("imd/three", "imd/one:1", "imd/base"):
        theirs_now, ours_now = ([(*step[:1], *step[2:]) for step in history(side, name)] for side in sides)
        assert ours_now == theirs_now
    assert [step[1] for step in history(ours, "imd/three")][:3] == [step[1] for step in history(theirs, "imd/three")][:3]
    shown = [side.get("/images/imd/three/json") for side in sides]
    for key in ("RepoTags", "Comment", "Author", "Architecture", "Os", "RepoDigests"):
        assert shown[1][key] == shown[0][key], key  # type: ignore[index, call-overload]
    assert [image["Parent"] == side.made[4] for image, side in zip(shown, sides, strict=True)] == [True, True]  # type: ignore[index, call-overload]
    for key in ("Cmd", "Env", "Labels", "Entrypoint", "Volumes"):
        assert shown[1]["Config"][key] == shown[0]["Config"][key], key  # type: ignore[index, call-overload]
    # `images --filter` of the CLI: the same table
    for words in (("--filter", "reference=imd/*"), ("--filter", "label=imd=b", "--digests"), ("--filter", "before=imd/one:1", "--filter", "reference=imd/*")):
        tables = [re.sub(r"[0-9a-f]{12}|(\d+|About an?) (seconds?|minutes?) ago|Less than a second ago| +", " ", side.docker("images", *words)).splitlines() for side in sides]
        assert sorted(tables[1]) == sorted(tables[0])


def test_shared_sizes_and_old_clients(sides: tuple[Side, Side]) -> None:
    """What dockerd 20.10 does not have: checked by adding up."""
    _, ours = sides
    found = ours.get("/images/json?shared-size=1")
    assert isinstance(found, list)
    base = next(each for each in found if each["Id"] == ours.made[0])
    assert base["SharedSize"] == base["Size"] > 0  # all its layers are in those made of it
    usage = ours.get("/system/df")
    assert isinstance(usage, dict)
    assert {each["Id"]: each["SharedSize"] for each in usage["Images"]} == {each["Id"]: each["SharedSize"] for each in found}
    socket = ours.env["DOCKER_HOST"].removeprefix("unix://")
    for version, expected in (("v1.42", ["<none>:<none>"]), ("v1.43", [])):
        url = f"http://x/{version}/images/json?filters=" + quote(json.dumps({"dangling": ["true"], "label": ["imd=dangling"]}))
        done = subprocess.run(["curl", "-sS", "--unix-socket", socket, url], capture_output=True, check=True)
        assert [each["RepoTags"] for each in json.loads(done.stdout)] == [expected]
    url = "http://x/v1.40/images/json?filter=imd/two"
    done = subprocess.run(["curl", "-sS", "--unix-socket", socket, url], capture_output=True, check=True)
    assert [each["RepoTags"] for each in json.loads(done.stdout)] == [["imd/two:2"]]


@pytest.mark.parametrize(
    ("kind", "filters"),
    [
        ("images", {"nosuch": ["1"]}), ("images", {"dangling": ["maybe"]}), ("containers", {"nosuch": ["1"]}), ("networks", {"nosuch": ["1"]}),
        ("volumes", {"nosuch": ["1"]}), ("volumes", {"until": ["1h"]}), ("images", {"label": ["nosuch"]}), ("images", {"until": ["1h"]}),
        ("images", {"until": ["1h"], "label!": ["x"], "dangling": ["true"]}), ("networks", {"label": ["nosuch"], "until": ["1h"]}),
    ],
)  # fmt: skip
def test_prune_filters(sides: tuple[Side, Side], kind: str, filters: dict) -> None:
    said = []
    for side in sides:
        socket = side.env["DOCKER_HOST"].removeprefix("unix://")
        url = f"http://x/v1.41/{kind}/prune?filters={quote(json.dumps(filters))}"
        done = subprocess.run(["curl", "-sS", "-w", " %{http_code}", "-X", "POST", "--unix-socket", socket, url], capture_output=True, text=True, check=True)
        said.append(re.sub(r"\s|Invalid", lambda found: "invalid" if found[0] == "Invalid" else "", done.stdout))
    assert said[1] == said[0]


def test_removal_follows_parents(sides: tuple[Side, Side]) -> None:
    """An image that another was made of loses its name alone, and goes with the last of them. The last test: it removes."""
    for side in sides:
        one, dangling, between, three = (side.made[at] for at in (1, 3, 4, 5))
        refused = subprocess.run(["docker", "rmi", "-f", between], env=side.env, capture_output=True, text=True)
        assert "cannot be forced) - image has dependent child images" in refused.stderr, refused
        side.docker("image", "prune", "-f")
        kept = side.docker("images", "-aq", "--no-trunc").split()
        assert dangling not in kept
        assert {between, three, one} <= set(kept)
        side.docker("rmi", "imd/three")
        kept = side.docker("images", "-aq", "--no-trunc").split()
        assert not {between, three} & set(kept)
        assert one in kept
