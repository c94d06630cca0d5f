"""Words of `berth build` to a request, what the engine makes of it, and the connection's two ends."""

import asyncio
import base64
import json
import os
import re
from pathlib import Path

import pytest

from berth import errors
from berth.api.buildcalls import _dashed, call
from berth.api.buildlink import Link
from berth.api.buildwords import Words
from berth.build import progress, wire
from berth.build.dockerfile.rules import RULES
from berth.build.graph import ContextSource, Copy, Mount, Run, Scratch, Vertex, context_paths
from berth.build.options import Options
from berth.build.progress import Event
from berth.cli import buildflags, buildoutput
from berth.cli.buildfiles import Unwritable
from berth.cli.flags import Misuse, UsageError, parse


def request(*words):
    return buildflags.request(parse(list(words), buildflags.FLAGS))


def outputs(*words):
    return buildflags.outputs(parse(list(words), buildflags.FLAGS))


def test_a_request_is_what_the_engine_understands(monkeypatch):
    monkeypatch.setenv("FROM_HERE", "here")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    found = request(
        "-t", "app", "--tag=app:2", "--build-arg", "A=1=2", "--build-arg", "FROM_HERE", "--build-arg", "NOT_SET", "--label", "k", "--label", "a=b",
        "--add-host", "h=1.2.3.4", "--add-host", "i:::1", "--platform", "linux/arm64,amd64", "--no-cache-filter", "x,y", "-m", "64m", "--shm-size=1g",
        "--ulimit", "nofile=10:20", "--cpuset-cpus", "0-1", "-c", "512", "--resource", "memory-swap=1g", "--cache-from", "reg/app", "--cache-to",
        "type=local,dest=d", "--sbom", "true", "--provenance", "mode=max", "--target", "t", "--pull", "--squash", "--network", "none", "--annotation", "a=b",
    )  # fmt: skip
    found |= {"secrets": ["s"], "contexts": {"n": {"kind": "local", "name": "x"}, "o": {"kind": "other", "url": "docker-image://bb"}}}
    assert found["build_args"] == {"A": "1=2", "FROM_HERE": "here"}
    made = Words(wire.decode(wire.Decoder().feed(wire.encode(wire.REQUEST, found))[0][1])).build_request()
    options = made.options
    assert made.tags == ("app", "app:2")
    assert (made.pull, made.squash, made.annotations) == (True, True, ("a=b",))
    assert options.platforms == ("linux/arm64", "linux/amd64") or options.platforms == ("linux/arm64/v8", "linux/amd64")
    assert options.hosts == ("h:1.2.3.4", "i:::1")
    assert dict(options.limits) == {
        "Memory": str(64 << 20), "MemorySwap": str(1 << 30), "ShmSize": str(1 << 30), "CpuShares": "512", "CpusetCpus": "0-1",
        "Ulimits": '[{"Name":"nofile","Soft":10,"Hard":20}]',
    }  # fmt: skip
    assert options.labels == {"k": "", "a": "b"}
    assert (options.epoch, options.network, options.target) == (1_700_000_000, "none", "t")
    assert options.no_cache_stages == {"x", "y"}
    assert dict(options.contexts) == {"n": "local", "o": "docker-image://bb"}
    assert made.cache_from == ({"type": "registry", "ref": "reg/app"},)
    assert made.cache_to == ({"type": "local", "dest": "d"},)
    assert made.attests == {"sbom": {}, "provenance": {"mode": "max"}}


@pytest.mark.parametrize(
    "value",
    [
        {"tags": ["UPPER"]}, {"tags": "x"}, {"tags": [1]}, {"build_args": {"A": 1}}, {"build_args": []}, {"platforms": ["a/b/c/d/e"]}, {"epoch": -1},
        {"epoch": 1 << 50}, {"epoch": True}, {"outputs": [{"type": 1}]}, {"outputs": ["x"]}, {"dockerfile": {"text": 1, "name": ""}}, {"dockerfile": []},
        {"pull": "yes"}, {"contexts": {"x": {"kind": "other"}}}, {"cache_from": [[]]},
    ],
)  # fmt: skip
def test_a_request_that_is_wrong(value):
    with pytest.raises(errors.InvalidParameter):
        Words(value).build_request()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["-o", "out"], [{"type": "local", "dest": "out"}]), (["-o", "-"], [{"type": "tar", "dest": "-"}]),
        (["-o", "type=tar"], [{"type": "tar", "dest": "-"}]), (["-o", "type=oci,dest=a.tar"], [{"type": "oci", "dest": "a.tar"}]),
        (["-o", 'type=image,"name=a,b",push=true'], [{"type": "image", "name": "a,b", "push": "true"}]),
        (["-o", "type=registry"], [{"type": "image", "push": "true", "store": "false"}]), (["--push"], [{"type": "image", "push": "true"}]),
        (["--push", "-o", "type=image"], [{"type": "image", "push": "true"}]), (["--load"], [{"type": "docker"}]), ([], []),
    ],
)  # fmt: skip
def test_outputs(words, found):
    assert outputs(*words) == found


@pytest.mark.parametrize("words", [["-o", "type=local"], ["-o", "type=nothing"], ["-o", "dest=x"], ["-o", 'type=tar,"x']])
def test_outputs_that_are_none(words):
    with pytest.raises(UsageError, match="--output"):
        outputs(*words)


def test_secrets(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("x")
    monkeypatch.setenv("TOKEN", "t")
    found = buildflags.secrets([f"id=a,src={file}", "id=b,env=TOKEN", f"source={file}", "id=TOKEN", "type=env,id=c,src=TOKEN", f"type=file,id=d,src={file}"])
    assert {name: (each.file, each.variable) for name, each in found.items()} == {
        "a": (str(file), ""), "b": ("", "TOKEN"), "file": (str(file), ""), "TOKEN": ("", "TOKEN"), "c": ("", "TOKEN"), "d": (str(file), ""),
    }  # fmt: skip
    for wrong in ("src=", "id=x,what=y", "type=dir,id=x", "id=x,src=/nowhere", f"id=x,src={tmp_path}"):
        with pytest.raises(UsageError, match="--secret"):
            buildflags.secrets([wrong])


def test_agents(tmp_path, monkeypatch):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(Misuse, match="no agent is running here"):
        buildflags.agents(["default"])
    key = tmp_path / "key"
    key.write_text("")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(key))
    assert buildflags.agents(["default", f"git={key},{key}"]) == {"default": [str(key)], "git": [str(key), str(key)]}
    with pytest.raises(Misuse, match="no such file"):
        buildflags.agents(["x=/nowhere"])


def test_other_values_that_are_wrong(monkeypatch):
    for words in (["--build-arg", "=x"], ["--attest", "type=x"], ["--resource", "x=1"], ["--call", "x"], ["--memory", "lots"], ["--ulimit", "x"]):
        with pytest.raises(UsageError):
            request(*words)
    with pytest.raises(UsageError):
        buildflags.form(parse(["--progress", "x"], buildflags.FLAGS))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(Misuse, match="SOURCE_DATE_EPOCH"):
        request()
    monkeypatch.setenv("BUILDKIT_PROGRESS", "plain")
    assert buildflags.form(parse([], buildflags.FLAGS)) == "plain"
    assert buildflags.form(parse(["-q"], buildflags.FLAGS)) == "quiet"


# -- outputs on this side -----------------------------------------------------------------------------------------


def archive(tmp_path, script):
    top = tmp_path / "made"
    top.mkdir()
    os.system(f"cd {top} && {script}")
    return (top / "a.tar").read_bytes()


def written(output, data):
    for start in range(0, len(data), 1000):
        output.write(data[start : start + 1000])
    output.finish()


def test_a_directory_gets_the_files(tmp_path):
    data = archive(tmp_path, "mkdir -p x/y && echo 1 >x/y/f && chmod 750 x/y/f && ln -s f x/y/l && tar -cf a.tar x")
    written(buildoutput.opened({"type": "local", "dest": str(tmp_path / "out" / "deep")}), data)
    assert (tmp_path / "out/deep/x/y/f").read_text() == "1\n"
    assert (tmp_path / "out/deep/x/y/f").stat().st_mode & 0o777 == 0o750
    assert os.readlink(tmp_path / "out/deep/x/y/l") == "f"


@pytest.mark.parametrize(
    "script",
    [
        "ln -s ../outside l && tar -cf a.tar l && rm l && mkdir l && echo bad >l/f && tar -rf a.tar l/f",
        "mkdir l && echo bad >l/f && tar -cf a.tar --transform 's,^l,../outside,' -P l/f", "echo bad >f && tar -cf a.tar -P --transform 's,^,/outside/../../,' f",
    ],
)  # fmt: skip
def test_no_archive_leads_out_of_the_directory(tmp_path, script):
    (tmp_path / "outside").mkdir()
    data = archive(tmp_path, script)
    output = buildoutput.opened({"type": "local", "dest": str(tmp_path / "out")})
    try:
        written(output, data)
    except Unwritable:
        output.abandon()
    assert os.listdir(tmp_path / "outside") == []
    assert sorted(os.listdir(tmp_path)) == ["made", "out", "outside"]


def test_a_link_that_was_there_before_is_not_followed(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").symlink_to(tmp_path / "outside")
    data = archive(tmp_path, "mkdir x && echo bad >x/f && tar -cf a.tar x/f")
    output = buildoutput.opened({"type": "local", "dest": str(tmp_path / "out")})
    try:
        written(output, data)
    except Unwritable:
        output.abandon()
    assert os.listdir(tmp_path / "outside") == []


def test_a_file_appears_whole(tmp_path):
    given = {"type": "tar", "dest": str(tmp_path / "f")}
    output = buildoutput.opened(given)
    output.write(b"half")
    assert not (tmp_path / "f").exists()
    output.abandon()
    assert os.listdir(tmp_path) == []
    written(buildoutput.opened(given), b"whole")
    assert (tmp_path / "f").read_bytes() == b"whole"
    with pytest.raises(Unwritable):
        buildoutput.opened({"type": "tar", "dest": str(tmp_path / "no" / "f")})
    output = buildoutput.opened({"type": "local", "dest": str(tmp_path / "d")})
    with pytest.raises(Unwritable):
        written(output, b"x" * 100_000)


def test_where_outputs_cannot_go(tmp_path):
    assert "only one output" in buildoutput.check([{"type": "tar", "dest": "-"}, {"type": "oci", "dest": "-"}])
    assert "is a directory" in buildoutput.check([{"type": "tar", "dest": str(tmp_path)}])
    assert buildoutput.check([{"type": "oci", "dest": str(tmp_path), "tar": "false"}, {"type": "image"}]) == ""


# -- the connection -----------------------------------------------------------------------------------------------


class Raw:
    """The engine's end of a connection that a test holds the other end of."""

    def __init__(self):
        self.incoming = asyncio.Queue()
        self.written = []

    async def read(self):
        return await self.incoming.get()

    async def write(self, data):
        self.written.append(data)

    def frames(self):
        return wire.Decoder().feed(b"".join(self.written))


def test_questions_and_answers():
    async def run():
        raw = Raw()
        link = Link(raw)
        reading = asyncio.ensure_future(link.run())
        first, second = await link.ask("secret", id="a"), await link.ask("secret", id="b")
        raw.incoming.put_nowait(wire.encode_data(2, b"for b") + wire.encode_data(1, b"for a") + wire.encode_data(9, b"for nobody"))
        raw.incoming.put_nowait(wire.encode(wire.END, {"question": 1}) + wire.encode(wire.END, {"question": 2, "error": "gone"}))
        assert await first.read_all(100) == b"for a"
        with pytest.raises(errors.InvalidParameter, match="gone"):
            await second.read_all(100)
        third = await link.ask("secret", id="c")
        raw.incoming.put_nowait(wire.encode_data(3, b"x" * 11))
        with pytest.raises(errors.TooLarge):
            await third.read_all(10)
        fourth = await link.ask("list")
        raw.incoming.put_nowait(wire.encode(wire.CANCEL, {}))
        await reading
        with pytest.raises(errors.Cancelled):
            await fourth.read()
        with pytest.raises(errors.Cancelled):
            await link.ask("list")
        assert [wire.decode(payload)["id"] for kind, payload in raw.frames() if kind == wire.QUESTION and b'"id"' in payload] == ["a", "b", "c"]

    asyncio.run(run())


def test_reading_waits_for_whoever_is_slow():
    async def run():
        raw = Raw()
        link = Link(raw)
        reading = asyncio.ensure_future(link.run())
        slow, agent = await link.ask("files"), await link.ask("ssh", patient=False)
        for _ in range(40):
            raw.incoming.put_nowait(wire.encode_data(1, bytes(256 << 10)))
        for _ in range(1000):
            await asyncio.sleep(0)
        left = raw.incoming.qsize()
        assert 20 < left < 25, "it is read without an end, or not at all"
        raw.incoming.put_nowait(wire.encode(wire.END, {"question": 1}))
        assert len(await slow.read_all(1 << 30)) == 10 << 20
        for _ in range(40):
            raw.incoming.put_nowait(wire.encode_data(2, bytes(256 << 10)))
        raw.incoming.put_nowait(b"")
        await reading
        with pytest.raises(errors.Cancelled):
            await agent.read_all(1 << 30)

    asyncio.run(run())


@pytest.mark.parametrize("sent", [b"X\0\0\0\1x", b"D\0\0\0\1x", b"E\0\0\0\2{]", b"E\0\0\0\2[]", b"D\xff\xff\xff\xff", b"R\0\0\0\2{}", b""])
def test_a_client_that_does_not_know_the_words_has_gone(sent):
    async def run():
        raw = Raw()
        link = Link(raw)
        raw.incoming.put_nowait(sent)
        await asyncio.wait_for(link.run(), 5)

    asyncio.run(run())


def test_the_first_message_is_the_request():
    async def run(sent):
        raw = Raw()
        raw.incoming.put_nowait(sent)
        raw.incoming.put_nowait(b"")
        return await Link(raw).request()

    assert asyncio.run(run(wire.encode(wire.REQUEST, {"a": 1}))) == {"a": 1}
    for wrong in (wire.encode(wire.CANCEL, {}), b"R\0\0\0\1x", b"", b"R\0\0"):
        with pytest.raises(errors.InvalidParameter):
            asyncio.run(run(wrong))


def test_output_that_nobody_reads_is_clipped():
    async def run():
        raw = Raw()
        link = Link(raw)
        for _ in range(3000):
            link.report(Event(progress.LOG, 1, 1, text="x" * 10_000))
        link.report(Event(progress.DONE, 1, 1))
        await link.flush()
        found = [wire.decode(payload) for _, payload in raw.frames()]
        assert sum(map(len, raw.written)) < 18 << 20
        assert [each["text"] for each in found if "clipped" in each.get("text", "")] == ["\n[output clipped: the client reads too slowly]\n"]
        assert found[-1]["kind"] == progress.DONE

    asyncio.run(run())


def test_frames_come_in_any_pieces():
    data = wire.encode(wire.REQUEST, {"a": "ü"}) + wire.encode_data(7, b"bytes") + wire.encode(wire.CANCEL, {})
    for size in (1, 2, 5, 1000):
        decoder = wire.Decoder()
        frames = [frame for start in range(0, len(data), size) for frame in decoder.feed(data[start : start + size])]
        assert [kind for kind, _ in frames] == [b"R", b"D", b"C"]
        assert wire.decode_data(frames[1][1]) == (7, b"bytes")


# -- what is needed of a context ----------------------------------------------------------------------------------


def copy(*sources, **fields):
    return Copy(sources=sources, destination="/", directory="/", **fields)


def test_what_vertices_need_of_contexts():
    context, other, base = Vertex(ContextSource("")), Vertex(ContextSource("other")), Vertex(Scratch())
    first = Vertex(copy("./a/", "/b", "c/../d"), (base, context))
    second = Vertex(copy("x"), (first, other))
    run = Vertex(Run((), (), "/", "", mounts=(Mount("bind", "/m", input=1, source="/sub"), Mount("cache", "/c"))), (second, context))
    assert context_paths([run]) == {"": ("a", "b", "d", "sub"), "other": ("x",)}
    assert context_paths([Vertex(copy("."), (run, context))])[""] is None
    assert context_paths([Vertex(copy("x"), (context, base))])[""] is None, "FROM a context"
    assert context_paths([Vertex(copy(inline=(("f", "x"),)), (base, context))]) == {"": ()}
    assert context_paths([base]) == {}


# -- a Dockerfile by itself ---------------------------------------------------------------------------------------


def test_a_dockerfile_that_is_checked():
    options = Options(build_platform="linux/amd64")
    found = call("check", b"FROM bb\nCMD echo hi\n", "D", options)
    assert found["exit_code"] == 1
    assert "D:2\n--------------------\n   1 |     FROM bb\n   2 | >>> CMD echo hi\n" in found["text"]
    assert call("check", b"FROM bb\n", "D", options) == {"text": "Check complete, no warnings found.\n", "exit_code": 0}
    assert call("targets", b"FROM bb AS a\nFROM a\n", "D", options)["text"] == "TARGET        FROM\na             bb\n1 (default)   a\n"
    with pytest.raises(errors.InvalidParameter):
        call("dance", b"FROM bb\n", "D", options)


DESCRIBED = b"""# V the version
ARG V=1
# none of this is about W
ARG W=$V-x
# base what all begin with
FROM bb AS base
ARG TOKENFILE=/t
RUN --mount=type=secret,id=s --mount=type=ssh true

# app the whole thing
FROM --platform=$BUILDPLATFORM base AS app
ARG W
RUN --mount=type=secret,target=/x/s,required=true true
FROM bb AS apart
ARG UNUSED
"""


def lines(*numbers):
    return {"ranges": [{"start": {"line": number}, "end": {"line": number}} for number in numbers]}


def test_a_dockerfile_as_json():
    """Names as in BuildKit's frontend/subrequests."""
    options = Options(build_platform="linux/amd64", target="app", build_args={"V": "2"})
    encoded = base64.b64encode(DESCRIBED).decode()
    assert json.loads(call("outline", DESCRIBED, "D", options, "json")["text"]) == {
        "name": "app", "description": "the whole thing",
        "args": [
            {"name": "V", "description": "the version", "value": "2", "location": lines(2)},
            {"name": "TOKENFILE", "value": "/t", "location": lines(7)},
            {"name": "W", "value": "2-x", "location": lines(12)},
        ],
        "secrets": [{"name": "s", "required": True, "location": lines(8)}],
        "ssh": [{"name": "default", "required": False, "location": lines(8)}],
        "sources": [encoded],
    }  # fmt: skip
    assert json.loads(call("targets", DESCRIBED, "D", options, "json")["text"]) == {
        "targets": [
            {"name": "base", "description": "what all begin with", "base": "bb", "location": lines(6)},
            {"name": "app", "description": "the whole thing", "base": "base", "platform": "$BUILDPLATFORM", "location": lines(11)},
            {"name": "apart", "default": True, "base": "bb", "location": lines(14)},
        ],
        "sources": [encoded],
    }  # fmt: skip
    text = call("outline", DESCRIBED, "D", options)["text"]
    assert text.startswith("TARGET: app\nDESCRIPTION: the whole thing\n\nBUILD ARG   VALUE   DESCRIPTION\nV           2       the version\n")
    assert "app               base   the whole thing\n" in call("targets", DESCRIBED, "D", options)["text"]


def test_a_check_as_json():
    options = Options(build_platform="linux/amd64")
    data = b"FROM bb\nCMD echo \\\n  hi\n"
    found = call("check", data, "D", options, "json")
    assert found["exit_code"] == 1
    assert json.loads(found["text"]) == {
        "warnings": [{
            "ruleName": "JSONArgsRecommended", "description": "CMD and ENTRYPOINT should be JSON, so that signals reach the program",
            "url": "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
            "detail": "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
            "location": {"ranges": [{"start": {"line": 2}, "end": {"line": 3}}]},
        }],
        "sources": [{"filename": "D", "data": base64.b64encode(data).decode(), "language": "Dockerfile"}],
    }  # fmt: skip
    found = call("check", b"FROM bb\n", "D", options, "json")
    assert (found["exit_code"], json.loads(found["text"])["warnings"]) == (0, [])
    found = call("check", b"FROM bb\nCPY a b\n", "D", options, "json")
    wrong = json.loads(found["text"])["buildError"]
    assert (found["exit_code"], wrong["location"]) == (1, lines(2))
    assert "unknown instruction: CPY (did you mean COPY?)" in wrong["message"]


def test_every_rule_has_a_meaning():
    """The rules are those that the document lists."""
    text = Path(__file__).parents[2].joinpath("docs/dockerfile.md").read_text()
    listed = text.partition("## Warnings")[2].partition("##")[0]
    assert set(re.findall(r"`([A-Z][A-Za-z]+)`", listed)) == set(RULES)


@pytest.mark.parametrize(("words", "found"), [
    ([], {"call": "build", "call_format": ""}), (["--check"], {"call": "check", "call_format": ""}),
    (["--call", "lint,format=json"], {"call": "check", "call_format": "json"}), (["--check", "--call", "format=json"], {"call": "check", "call_format": "json"}),
    (["--call", "outline,format=default,ignorestatus=true"], {"call": "outline", "call_format": "default"}),
])  # fmt: skip
def test_calls(words, found):
    assert {key: value for key, value in request(*words).items() if key.startswith("call")} == found


@pytest.mark.parametrize(("text", "said"), [
    ("outlin", "(did you mean outline?)"), ("check,formt=json", "unexpected key 'formt': expected format, ignorestatus (did you mean format?)"),
    ("check,format=jsn", "unknown format 'jsn': expected default, json (did you mean json?)"), ("check,ignorestatus=maybe", "true or false"), ("check,outline", "expected build"),
])  # fmt: skip
def test_calls_that_are_none(text, said):
    with pytest.raises(UsageError) as caught:
        request("--call", text)
    assert said in str(caught.value)


def test_rules_by_their_addresses():
    assert [_dashed(name) for name in ("JSONArgsRecommended", "FromAsCasing", "WorkdirRelativePath", "UndefinedVar")] == [
        "json-args-recommended", "from-as-casing", "workdir-relative-path", "undefined-var",
    ]  # fmt: skip
