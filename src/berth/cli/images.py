"""images, import, load, save, rmi, tag."""

import os

from berth.cli import progress
from berth.cli.client import ApiError, fail, query, quote
from berth.cli.command import parse_command
from berth.cli.configfile import text_setting
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
    ("tree", "", "bool", "", "Each image with the platforms that its index lists"),
)
_IMPORT: "tuple[Flag, ...]" = (
    ("change", "c", "list", "INSTRUCTION", "Apply a Dockerfile instruction, e.g. 'CMD [\"bash\"]'"),
    ("message", "m", "string", "TEXT", "Comment in the image's history"),
    ("platform", "", "string", "OS/ARCH", "Platform of the file system"),
)
_LOAD: "tuple[Flag, ...]" = (
    ("input", "i", "string", "FILE", "Read from a file instead of standard input"),
    ("platform", "", "stringSlice", "OS/ARCH", "Of several platforms, the one to load, e.g. linux/arm64 (default: the engine's)"),
    ("quiet", "q", "bool", "", "No progress"),
)
_SAVE: "tuple[Flag, ...]" = (
    ("output", "o", "string", "FILE", "Write to a file instead of standard output"),
    ("platform", "", "stringSlice", "OS/ARCH", "Refuse images of another platform"),
)
_RMI: "tuple[Flag, ...]" = (
    ("force", "f", "bool", "", "Remove it though a stopped container uses it, or with all its names"),
    ("no-prune", "", "bool", "", "Keep the images without a name that it was made of"),
    ("platform", "", "stringSlice", "OS/ARCH", "Refuse images of another platform"),
)
SYNTAX = {
    "images": Syntax("[OPTIONS] [REPOSITORY[:TAG]]", _IMAGES, at_most=1),
    "import": Syntax("[OPTIONS] FILE|URL|- [REPOSITORY[:TAG]]", _IMPORT, at_least=1, at_most=2),
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
    if parsed.flag("tree"):
        from berth.cli import imagetree

        imagetree.show(call, parsed, filters)
        return 0
    rows = []
    digests, format_ = parsed.flag("digests"), parsed.text("format") or text_setting(call.config, "imagesFormat")
    if digests and format_.startswith("table ") and ".Digest" not in format_:
        format_ += "\t{{.Digest}}"
    for image in call.client.json("GET", f"/images/json{query(all=parsed.flag('all'), filters=parse_filters(filters))}"):
        for name in names_of(image, digests or ".Digest" in format_, digests):
            rows.append(_row(image, name, parsed.flag("no-trunc")))
    default = "Repository Tag Digest ID CreatedSince Size" if digests else "Repository Tag ID CreatedSince Size"
    print_rows(format_, _COLUMNS, rows, default, parsed.flag("quiet"), "ID")
    return 0


def names_of(image: dict, by_tag: bool, by_digest: bool) -> "list[tuple[str, str, str]]":
    """(repository, tag, digest) of each line that an image has. Pure.

    by_tag: whether a line with a tag has its digest too; by_digest: whether one without a tag has it.
    """
    tags = [name.rpartition(":")[::2] for name in image["RepoTags"] or [] if name != "<none>:<none>"]
    digests: dict[str, list[str]] = {}
    for name in image.get("RepoDigests") or []:
        repository, _, digest = name.partition("@")
        if repository != "<none>":
            digests.setdefault(repository, []).append(digest)
    found = []
    for repository, tag in tags:
        found += [(repository, tag, digest) for digest in digests.get(repository, [])] if by_tag and repository in digests else [(repository, tag, "<none>")]
    for repository in [name for name in digests if name not in dict(tags)]:
        found += [(repository, "<none>", digest) for digest in digests[repository]] if by_digest else [(repository, "<none>", "")]
    return found or [("<none>", "<none>", "<none>")]


def _row(image: dict, name: "tuple[str, str, str]", whole: bool) -> "dict[str, str]":
    from time import gmtime, strftime

    repository, tag, digest = name
    return {
        "Repository": repository, "Tag": tag, "Digest": digest,
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
    by_url = source.startswith(("http://", "https://"))
    repository, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "")
    options = query(
        fromSrc=source if by_url else "-", repo=repository, tag=tag, message=parsed.text("message"), changes=parsed.list("change"),
        platform=parsed.text("platform"),
    )  # fmt: skip
    data = None
    if not by_url:
        fd = 0 if source == "-" else _open_input(source)
        data = progress.sending(_read(fd), os.fstat(fd).st_size) if os.isatty(1) else _read(fd)
    progress.show(call.client.request("POST", f"/images/create{options}", stream=data).lines())
    return 0


def load(call: "Invocation") -> int:
    """berth load"""
    parsed = parse_command(call, SYNTAX)
    if not parsed.text("input") and os.isatty(0):
        raise Misuse("requested load from stdin, but stdin is empty; use --input FILE or a pipe")
    fd = _open_input(parsed.text("input")) if parsed.text("input") else 0
    quiet = parsed.flag("quiet") or not os.isatty(1)
    options = query(quiet=1 if quiet else 0, platform=_platforms(parsed.list("platform")))
    progress.show(call.client.request("POST", f"/images/load{options}", stream=_read(fd), live=not quiet).lines())
    return 0


def _platforms(given: "list[str]") -> "list[str]":
    from berth.cli.pull import platform_json

    return [platform_json(text) for text in given]


def save(call: "Invocation") -> int:
    """berth save"""
    parsed = parse_command(call, SYNTAX)
    output = parsed.text("output")
    if not output and os.isatty(1):
        raise Misuse("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    directory = os.path.dirname(output) or "."
    if output and not os.path.isdir(directory):
        raise Misuse(f'failed to save image: invalid output path: directory "{directory}" does not exist')
    if os.path.isdir(output):
        raise Misuse("failed to save image: cannot write to a directory")
    response = call.client.request("GET", f"/images/get{query(names=parsed.arguments, platform=_platforms(parsed.list('platform')))}")
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
    options = query(force=parsed.flag("force"), noprune=parsed.flag("no-prune"), platforms=_platforms(parsed.list("platform")))
    for name in parsed.arguments:
        try:
            for item in call.client.json("DELETE", f"/images/{quote(name)}{options}"):
                for word, value in item.items():
                    print(f"{word}: {value}", flush=True)
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
