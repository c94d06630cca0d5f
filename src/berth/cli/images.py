"""images, import, load, save, rmi, tag."""

import os

from berth.cli.client import ApiError, fail, query, quote
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Misuse, Syntax
from berth.cli.ps import parse_filters
from berth.cli.table import age, print_rows, size
from berth.models.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from berth.cli.main import Invocation

_READ_BYTES = 1 << 18
_IMAGES: "tuple[Flag, ...]" = (
    ("all", "a", "bool", "", "Accepted for Docker's sake: there are no intermediate images"),
    ("digests", "", "bool", "", "Show digests"),
    ("filter", "f", "filter", "KEY=VALUE", "Only those that match: dangling, label, reference"),
    ("format", "", "string", "FORMAT", "table, json, or a Go template"),
    ("no-trunc", "", "bool", "", "Do not shorten ids"),
    ("quiet", "q", "bool", "", "Only ids"),
)
_IMPORT: "tuple[Flag, ...]" = (
    ("change", "c", "list", "INSTRUCTION", "Apply a Dockerfile instruction, e.g. 'CMD [\"bash\"]'"),
    ("message", "m", "string", "TEXT", "Comment in the image's history"),
    ("platform", "", "string", "OS/ARCH", "Platform of the file system"),
)
_PLATFORM: Flag = ("platform", "", "stringSlice", "OS/ARCH", "Accepted for Docker's sake")
_LOAD: "tuple[Flag, ...]" = (
    ("input", "i", "string", "FILE", "Read from a file instead of standard input"),
    _PLATFORM,
    ("quiet", "q", "bool", "", "Accepted for Docker's sake"),
)
_SAVE: "tuple[Flag, ...]" = (("output", "o", "string", "FILE", "Write to a file instead of standard output"), _PLATFORM)
_RMI: "tuple[Flag, ...]" = (
    ("force", "f", "bool", "", "Remove it though a stopped container uses it, or with all its names"),
    ("no-prune", "", "bool", "", "Accepted for Docker's sake"),
    _PLATFORM,
)
SYNTAX = {
    "images": Syntax("[OPTIONS] [REPOSITORY[:TAG]]", _IMAGES, at_most=1),
    "import": Syntax("[OPTIONS] FILE|- [REPOSITORY[:TAG]]", _IMPORT, at_least=1, at_most=2),
    "load": Syntax("[OPTIONS]", _LOAD, at_most=0),
    "save": Syntax("[OPTIONS] IMAGE [IMAGE...]", _SAVE, at_least=1),
    "rmi": Syntax("[OPTIONS] IMAGE [IMAGE...]", _RMI, at_least=1),
    "tag": Syntax("SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", at_least=2, at_most=2),
}
_COLUMNS = {
    "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "ID": "IMAGE ID", "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT", "Size": "SIZE", "Containers": "CONTAINERS", "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE", "VirtualSize": "VIRTUAL SIZE",
}  # fmt: skip


def images(call: "Invocation") -> int:
    """berth images"""
    parsed = parse_command(call, SYNTAX)
    filters = parsed.list("filter") + [f"reference={name}" for name in parsed.arguments]
    rows = []
    for image in call.client.json("GET", f"/images/json{query(all=parsed.flag('all'), filters=parse_filters(filters))}"):
        for name in image["RepoTags"] or ["<none>:<none>"]:
            rows.append(_row(image, name, parsed.flag("no-trunc")))
    default = "Repository Tag Digest ID CreatedSince Size" if parsed.flag("digests") else "Repository Tag ID CreatedSince Size"
    if parsed.flag("quiet"):
        rows = list({row["ID"]: row for row in rows}.values())
    print_rows(parsed.text("format"), _COLUMNS, rows, default, parsed.flag("quiet"), "ID")
    return 0


def _row(image: dict, name: str, whole: bool) -> "dict[str, str]":
    from time import gmtime, strftime

    repository, _, tag = name.rpartition(":")
    return {
        "Repository": repository, "Tag": tag, "Digest": "<none>",
        "ID": image["Id"] if whole else image["Id"].removeprefix("sha256:")[:12],
        "CreatedSince": age(image["Created"]) if image["Created"] else "N/A",
        "CreatedAt": strftime("%Y-%m-%d %H:%M:%S +0000 UTC", gmtime(image["Created"])), "Size": size(image["Size"]),
        "Containers": str(image["Containers"]) if image["Containers"] >= 0 else "N/A", "SharedSize": "N/A", "UniqueSize": "N/A",
        "VirtualSize": human_size(image["Size"]),
    }  # fmt: skip


def _read(fd: int) -> "Iterator[bytes]":
    while data := os.read(fd, _READ_BYTES):
        yield data


def _open_input(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Misuse(f"open {path}: {(error.strerror or '').lower()}") from None


def import_(call: "Invocation") -> int:
    """berth import"""
    parsed = parse_command(call, SYNTAX)
    source, name = parsed.arguments[0], (parsed.arguments[1:] or [""])[0]
    if source.startswith(("http://", "https://")):
        raise Misuse("this version imports from files and standard input only; fetch the archive first")
    repository, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "")
    options = query(
        fromSrc="-", repo=repository, tag=tag, message=parsed.text("message"), changes=parsed.list("change"),
        platform=parsed.text("platform"),
    )  # fmt: skip
    fd = 0 if source == "-" else _open_input(source)
    for line in call.client.request("POST", f"/images/create{options}", stream=_read(fd)).lines():
        print(line.get("status", ""))
    return 0


def load(call: "Invocation") -> int:
    """berth load"""
    parsed = parse_command(call, SYNTAX)
    if not parsed.text("input") and os.isatty(0):
        raise Misuse("requested load from stdin, but stdin is empty; use --input FILE or a pipe")
    fd = _open_input(parsed.text("input")) if parsed.text("input") else 0
    for line in call.client.request("POST", "/images/load?quiet=1", stream=_read(fd)).lines():
        print(line.get("stream", ""), end="")
    return 0


def save(call: "Invocation") -> int:
    """berth save"""
    parsed = parse_command(call, SYNTAX)
    output = parsed.text("output")
    if not output and os.isatty(1):
        raise Misuse("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    response = call.client.request("GET", f"/images/get{query(names=parsed.arguments)}")
    if not output:
        for data in response.pieces():
            _write(1, data)
        return 0
    # Beside the target first: what is cut off half-way never takes the name of something whole.
    temporary = f"{output}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for data in response.pieces():
            _write(fd, data)
        os.rename(temporary, output)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    return 0


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def rmi(call: "Invocation") -> int:
    """berth rmi"""
    parsed = parse_command(call, SYNTAX)
    code = 0
    for name in parsed.arguments:
        try:
            for item in call.client.json("DELETE", f"/images/{quote(name)}{query(force=parsed.flag('force'))}"):
                for word, value in item.items():
                    print(f"{word}: {value}")
        except ApiError as error:
            fail(f"Error response from daemon: {error}")
            code = code if parsed.flag("force") and error.status == 404 else 1
    return code


def tag(call: "Invocation") -> int:
    """berth tag"""
    parsed = parse_command(call, SYNTAX)
    source, target = parsed.arguments
    repository, _, name = target.rpartition(":") if ":" in target.rpartition("/")[2] else (target, "", "")
    call.client.request("POST", f"/images/{quote(source)}/tag{query(repo=repository, tag=name)}")
    return 0
