"""berth build: an image from a Dockerfile, over one connection with the engine (buildtalk.py)."""

import os
import sys

from berth.build import wire
from berth.cli import buildflags, names
from berth.cli.buildfiles import Context, read_dockerfile, read_ignore
from berth.cli.buildmodel import failure
from berth.cli.buildprogress import display_of
from berth.cli.buildtalk import Interrupts, Sources, Talk
from berth.cli.client import ApiError, fail
from berth.cli.command import parse_command
from berth.cli.flags import Misuse, Parsed, Syntax

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.main import Invocation

SYNTAX = {"build": Syntax("[OPTIONS] PATH | URL | -", buildflags.FLAGS, at_least=1, at_most=1)}
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_TAR_MAGIC_AT = 257
_LAYOUT = "oci-layout://"
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")


def build(call: "Invocation") -> int:
    """berth build"""
    parsed = parse_command(call, SYNTAX)
    form = buildflags.form(parsed)
    request = buildflags.request(parsed)
    outputs = buildflags.outputs(parsed)
    if outputs:
        from berth.cli import buildoutput

        if wrong := buildoutput.check(outputs):
            raise Misuse(f"ERROR: {wrong}")
    request["outputs"] = outputs
    for tag in request["tags"]:
        if not names.is_plain(tag):
            from berth.cli.pull import parse_name

            parse_name(tag)
    secrets, given_agents = buildflags.secrets(parsed.list("secret")), buildflags.agents(parsed.list("ssh"))
    request["secrets"], request["ssh"] = sorted(secrets), sorted(given_agents)
    contexts, archive = _contexts(parsed, request)
    for number, each in enumerate(request["cache_from"]):
        if each.get("type") == "local" and each.get("src"):
            contexts[f"cache:{number}"] = Context(each["src"])
    display = display_of("quiet" if request["call"] != "build" else form, why=parsed.flag("why"))
    with _agents(given_agents) as agents:
        sources = Sources(
            contexts, secrets=secrets, agents=agents, outputs=[*outputs, *request["cache_to"]], archive=archive,
            login=lambda registry: _login(call, registry),
        )  # fmt: skip
        return _run(call, parsed, request, sources, display)


def _run(call: "Invocation", parsed: Parsed, request: "dict[str, Any]", sources: Sources, display: "Any") -> int:
    with Interrupts() as interrupts:
        talk = Talk(_connected(call), sources, display, interrupts.wake_fd)
        result: dict[str, Any] = {"error": "the connection to the engine broke off"}
        try:
            result = talk.run(request, interrupts.times)
        finally:
            talk.close()
            named = [] if result.get("error") else request["tags"]
            display.finish(failed="error" in result, names=named, image=str(result.get("image", "")))
    if "called" in result:
        sys.stdout.write(result["called"]["text"])
        return 0 if buildflags.ignores_status(parsed) else int(result["called"]["exit_code"])
    if result.get("error"):
        if talk.cancelled:
            fail("ERROR: failed to build: the build was cancelled")
            return 128 + interrupts.number
        fail(failure(display.model.failed(), _with_hint(result, sources)))
        return 1
    _write_files(parsed, result)
    if parsed.flag("quiet") and (found := _identity(result)) and not any(each.get("dest") == "-" for each in sources.outputs):
        print(found)
    return 0


def _connected(call: "Invocation") -> "Any":
    try:
        return call.client.request("POST", "/berth/build", headers=f"Connection: Upgrade\r\nUpgrade: {wire.UPGRADE}\r\n")
    except ApiError as error:
        if error.status == 404:
            raise Misuse("this engine is not berth's, or older than this command: build there with docker build") from None
        raise


# -- what is built ------------------------------------------------------------------------------------------------


def _contexts(parsed: Parsed, request: "dict[str, Any]") -> "tuple[dict[str, Context], bytes]":
    """Fills in what the request says of contexts and the Dockerfile; directories of this side, and how an archive on standard input begins."""
    found: dict[str, Context] = {}
    path, file, archive = parsed.arguments[0], parsed.text("file"), b""
    request["slot"] = "|".join((path if _is_remote(path) else os.path.realpath(path), os.path.realpath(file) if file else "", request["target"]))
    request["context"] = {"kind": "none"}
    if path == "-":
        if file == "-":
            raise Misuse("invalid argument: can't use stdin for both build context and dockerfile")
        archive = _from_stdin(request, file)
    elif _is_remote(path):
        request["context"], request["file"] = {"kind": "remote", "url": path}, file
    else:
        if not os.path.isdir(path):
            problem = f"context must be a directory: {path}" if os.path.exists(path) else f'path "{path}" not found'
            raise Misuse(f"unable to prepare context: {problem}")
        place = ""
        if not _is_web(file):
            place, text, name = read_dockerfile(path, file)
            request["dockerfile"] = {"text": text, "name": name}
        request["context"] = {"kind": "local", "name": _name_of(path)}
        found[""] = Context(path, read_ignore(path, place))
    if _is_web(file):
        request["dockerfile"] = {"url": file, "name": _name_in(file)}
    elif file == "-" and "dockerfile" not in request:
        request["dockerfile"] = {"text": read_dockerfile("", "-")[1], "name": "Dockerfile"}
    request["contexts"] = {}
    for name, value in buildflags.contexts(parsed.list("build-context")).items():
        if value.startswith(_LAYOUT):
            directory, reference = _layout(name, value)
            request["contexts"][name] = {"kind": "layout", "reference": reference}
            found[name] = Context(directory)
            continue
        if _is_remote(value) or "://" in value or value.startswith("target:"):
            request["contexts"][name] = {"kind": "other", "url": value}
            continue
        if not os.path.isdir(value):
            raise Misuse(f"--build-context {name}={value}: no such directory")
        request["contexts"][name] = {"kind": "local", "name": _name_of(value)}
        found[name] = Context(value, read_ignore(value, ""))
    return found, archive


def _from_stdin(request: "dict[str, Any]", file: str) -> bytes:
    """An archive, whose beginning is returned, or a Dockerfile."""
    if os.isatty(0):
        raise Misuse("the build context is to come from standard input, which is a terminal: pipe an archive or a Dockerfile in")
    begin = b""
    while len(begin) < 512 and (data := os.read(0, 65536)):
        begin += data
    if begin.startswith(_ARCHIVES) or begin[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        request["context"], request["file"] = {"kind": "tar"}, file
        return begin
    if file:
        raise Misuse(f"--file {file}: standard input is no archive that could have it")
    rest = [begin]
    while data := os.read(0, 65536):
        rest.append(data)
    text = b"".join(rest).decode(errors="surrogateescape")
    if not text.strip():
        raise Misuse("failed to read dockerfile: standard input is empty")
    request["dockerfile"] = {"text": text, "name": "Dockerfile"}
    return b""


def _layout(name: str, value: str) -> "tuple[str, str]":
    """(directory, `:TAG`, `@DIGEST` or '') of an OCI layout on this side."""
    path, at, digest = value.removeprefix(_LAYOUT).partition("@")
    directory, tag = path, ""
    if ":" in path.rpartition("/")[2]:
        directory, _, tag = path.rpartition(":")
    if not os.path.isfile(os.path.join(directory, "index.json")):
        problem = "no such directory" if not os.path.isdir(directory) else "it has no index.json, so it is no OCI layout"
        raise Misuse(f"--build-context {name}={value}: {directory}: {problem}")
    return directory, f"@{digest}" if at else f":{tag}" if tag else ""


def _is_remote(text: str) -> bool:
    return text.startswith(_REMOTE)


def _is_web(file: str) -> bool:
    """Whether the Dockerfile is one that the engine fetches."""
    return file.startswith(("http://", "https://"))


def _name_in(url: str) -> str:
    """What people call a Dockerfile of the web: no token of its address is in there."""
    path = url.partition("://")[2].partition("?")[0].partition("#")[0]
    return path.partition("/")[2].rpartition("/")[2] or "Dockerfile"


def _name_of(path: str) -> str:
    """What tells a context of this user on this machine from others."""
    try:
        with open("/etc/machine-id") as file:
            machine = file.read().strip()
    except OSError:
        machine = ""
    return f"{machine or os.uname().nodename}:{os.geteuid()}:{os.path.realpath(path)}"


class _agents:
    """Sockets of ssh agents by id, in a `with`: those that are there, and one of its own for keys."""

    def __init__(self, given: "dict[str, list[str]]") -> None:
        self._given = given
        self._own: list[Any] = []

    def __enter__(self) -> "dict[str, str]":
        from _stat import S_ISSOCK

        found = {}
        for identity, paths in self._given.items():
            if len(paths) == 1 and S_ISSOCK(os.stat(paths[0]).st_mode):
                found[identity] = paths[0]
                continue
            from berth.cli.buildkeys import KeyAgent

            agent = KeyAgent()
            self._own.append(agent)
            found[identity] = agent.start(paths)
        return found

    def __exit__(self, *_: object) -> None:
        for agent in self._own:
            agent.stop()


def _login(call: "Invocation", registry: str) -> "dict[str, str]":
    from berth.cli import credentials

    try:
        return credentials.find(call.config, credentials.server_of(registry))
    except credentials.HelperError as error:
        fail(f"WARNING: going on without credentials for {registry}: {error}")
        return {}


# -- what comes of it ---------------------------------------------------------------------------------------------


def _with_hint(result: "dict[str, Any]", sources: Sources) -> "dict[str, Any]":
    """A file that is not found because .dockerignore hides it, which the engine cannot know."""
    error, context = str(result["error"]), sources.contexts.get("")
    head, found, rest = error.partition('": not found')
    path = head.rpartition('"')[2].strip("/")
    if found and not rest.startswith(";") and context and path and context.hides(path):
        return {**result, "error": f"{head}{found}; it is there, but .dockerignore excludes it{rest}"}
    return result


def _identity(result: "dict[str, Any]") -> str:
    """The image's id, or of several platforms the digest of their index; '' where the result is no image."""
    metadata = result.get("metadata") or {}
    return str(result.get("image") or metadata.get("containerimage.config.digest") or metadata.get("containerimage.digest") or "")


def _write_files(parsed: Parsed, result: "dict[str, Any]") -> None:
    from berth.models.jsonlite import dumps

    if path := parsed.text("iidfile"):
        with open(path, "w") as file:
            file.write(_identity(result))
    if path := parsed.text("metadata-file"):
        with open(path, "w") as file:
            file.write(dumps(result.get("metadata") or {}) + "\n")
