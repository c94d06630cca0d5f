"""Messages of a pull as they are drawn. Beside Docker's own drawing: tests/integration/test_image_commands.py."""

import io

import pytest

from berth.cli.client import StreamFailed
from berth.cli.images import names_of
from berth.cli.progress import Screen, bar, printable, show
from berth.cli.pull import parse_name, platform_json, whole_name
from berth.cli.search import registry_of


@pytest.mark.parametrize(
    ("progress", "columns", "text"),
    [
        ({}, 200, ""), ({"current": 0, "total": 0}, 200, ""), ({"current": 3, "units": "files"}, 80, "3 files"), ({"current": 1500}, 80, "   1.5kB"),
        ({"current": 500, "total": 1000}, 200, "[" + 25 * "=" + ">" + 25 * " " + "]     500B/1kB"), ({"current": 500, "total": 1000}, 110, "    500B/1kB"),
        ({"current": 2000, "total": 1000}, 80, "     2kB"), ({"current": 3, "total": 9, "units": "files"}, 80, "3/9 files"),
        ({"current": 9, "total": 9, "hidecounts": True}, 120, "[" + 50 * "=" + ">] "),
    ],
)  # fmt: skip
def test_a_bar(progress: dict, columns: int, text: str) -> None:
    assert bar(progress, columns) == text


def test_piped_counts_are_left_out() -> None:
    out = Screen(-1)
    assert out.draw({"id": "a", "status": "Waiting", "progressDetail": {}}) == "a: Waiting\n"
    assert out.draw({"id": "a", "status": "Downloading", "progressDetail": {"current": 1, "total": 2}}) == ""
    assert out.draw({"status": "Status: done"}) == "Status: done\n"
    assert out.draw({"stream": "Loaded image: x\n"}) == "Loaded image: x\n"
    assert out.draw({"aux": {"ID": "x"}}) == ""


def test_what_would_steer_the_terminal_is_not_written() -> None:
    assert printable("a\x1b[2Jb\x07é") == "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}é"
    assert "\x1b" not in Screen(-1).draw({"id": "\x1b[A", "status": "\x1b]0;title\x07"})


@pytest.mark.parametrize("message", [{"error": "no space"}, {"errorDetail": {"message": "no space"}}, {"error": "x", "errorDetail": {"code": 1, "message": "no space"}}])
def test_an_error_in_the_stream(message: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    class Out(io.StringIO):
        def fileno(self) -> int:
            return 0

    monkeypatch.setattr("os.isatty", lambda fd: False)
    out = Out()
    with pytest.raises(StreamFailed, match=r"^no space$"):
        show([{"status": "begins"}, message, {"status": "never seen"}], out)
    assert out.getvalue() == "begins\n"


def test_lines_of_an_image() -> None:
    image = {"RepoTags": ["a/b:1", "a/b:2", "c:1"], "RepoDigests": ["a/b@sha256:1", "d@sha256:2"]}
    assert names_of(image, False, False) == [("a/b", "1", "<none>"), ("a/b", "2", "<none>"), ("c", "1", "<none>"), ("d", "<none>", "")]
    assert names_of(image, True, True) == [("a/b", "1", "sha256:1"), ("a/b", "2", "sha256:1"), ("c", "1", "<none>"), ("d", "<none>", "sha256:2")]
    image = {"RepoTags": ["<none>:<none>"], "RepoDigests": ["d@sha256:2"]}
    assert names_of(image, True, True) == [("d", "<none>", "sha256:2")]
    for empty in ({"RepoTags": None, "RepoDigests": None}, {"RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]}):
        assert names_of(empty, True, True) == [("<none>", "<none>", "<none>")]


def test_names_and_platforms() -> None:
    assert whole_name(parse_name("debian")) == "docker.io/library/debian:latest"
    assert whole_name(parse_name("r:5000/x@sha256:" + 64 * "0")) == "r:5000/x@sha256:" + 64 * "0"
    assert (registry_of("nginx"), registry_of("a/nginx"), registry_of("r:5000/x"), registry_of("localhost/x")) == ("docker.io", "docker.io", "r:5000", "localhost")
    assert platform_json("linux/arm64/v8") == platform_json("arm64") == '{"architecture":"arm64","os":"linux"}'
    assert platform_json("linux/arm/v6") == '{"architecture":"arm","os":"linux","variant":"v6"}'
    assert platform_json("") == ""
