"""pull and push, and how run and create come by an image that is not there."""

import sys

from berth.cli import credentials, progress
from berth.cli.client import query, quote
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Misuse, Refused, Syntax

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from berth.cli.main import Invocation
    from berth.oci.reference import Reference

_TRUST: Flag = ("disable-content-trust", "", "bool", "", "Accepted for Docker's sake: there is no such trust any more")
_PULL: "tuple[Flag, ...]" = (
    ("all-tags", "a", "bool", "", "Every tag of the repository"),
    _TRUST,
    ("platform", "", "string", "OS/ARCH", "Platform of the image, e.g. linux/arm64 (default: the engine's)"),
    ("quiet", "q", "bool", "", "Only the name of what was pulled"),
)
_PUSH: "tuple[Flag, ...]" = (
    ("all-tags", "a", "bool", "", "Every tag of the repository that is here"),
    _TRUST,
    ("platform", "", "string", "OS/ARCH", "Refuse images of another platform"),
    ("quiet", "q", "bool", "", "Only the name of what was pushed"),
)
SYNTAX = {
    "pull": Syntax("[OPTIONS] NAME[:TAG|@DIGEST]", _PULL, at_least=1, at_most=1),
    "push": Syntax("[OPTIONS] NAME[:TAG]", _PUSH, at_least=1, at_most=1),
}


def pull(call: "Invocation") -> int:
    """berth pull"""
    parsed = parse_command(call, SYNTAX)
    every, quiet = parsed.flag("all-tags"), parsed.flag("quiet")
    name = _reference(parsed.arguments[0], every, quiet)
    fetch(call, name, parsed.text("platform"), None if quiet else sys.stdout)
    print(whole_name(name))
    return 0


def push(call: "Invocation") -> int:
    """berth push"""
    parsed = parse_command(call, SYNTAX)
    every, quiet = parsed.flag("all-tags"), parsed.flag("quiet")
    name = _reference(parsed.arguments[0], every, quiet)
    if name.digest:
        raise Misuse("cannot push a digest reference")
    options = query(tag=name.tag, platform=platform_json(parsed.text("platform")))
    answer = call.client.request(
        "POST", f"/images/{quote(name.familiar_name)}/push{options}", headers=credentials.header(call.config, name.registry)
    )
    if quiet:
        progress.wait(answer.lines())
        print(whole_name(name))
    else:
        progress.show(answer.lines())
    return 0


def fetch(call: "Invocation", name: "Reference", platform: str, out: "TextIO | None") -> None:
    """Has the engine pull; out: where its progress is drawn, None for nowhere."""
    options = query(fromImage=name.familiar_name, tag=name.digest or name.tag, platform=platform)
    answer = call.client.request("POST", f"/images/create{options}", headers=credentials.header(call.config, name.registry))
    if out is None:
        progress.wait(answer.lines())
    else:
        progress.show(answer.lines(), out)


def fetch_for_run(call: "Invocation", image: str, platform: str, *, missing: bool, quiet: bool) -> bool:
    """Pulls for run and create, with every word on standard error; False where `image` cannot be a name.

    missing: whether the engine has said that it is not there.
    """
    from berth.oci.digest import is_sha256

    if image.startswith("sha256:") or is_sha256(f"sha256:{image}"):
        return False
    try:
        name = parse_name(image)
    except Misuse as error:
        raise Refused(str(error)) from None
    if missing and not quiet:
        sys.stderr.write(f"Unable to find image '{name.familiar}' locally\n")
    fetch(call, name, platform, None if quiet else sys.stderr)
    return True


def parse_name(text: str, default_tag: str = "latest") -> "Reference":
    """Misuse for what is no image's name, in Docker's words."""
    from berth.errors import InvalidParameter
    from berth.oci import reference

    try:
        return reference.parse(text, default_tag=default_tag)
    except InvalidParameter as error:
        raise Misuse(str(error)) from None


def _reference(text: str, every: bool, quiet: bool) -> "Reference":
    name = parse_name(text, "")
    if every and (name.tag or name.digest):
        raise Misuse("tag can't be used with --all-tags/-a")
    if not (every or name.tag or name.digest):
        name.tag = "latest"
        if not quiet:
            print("Using default tag: latest", flush=True)
    return name


def whole_name(name: "Reference") -> str:
    """With the registry, Docker Hub's too."""
    tag = f":{name.tag}" if name.tag else ""
    return f"{name.registry}/{name.repository}{tag}{f'@{name.digest}' if name.digest else ''}"


def platform_json(text: str) -> str:
    """`linux/arm64/v8`, `arm64` -> the API's JSON; '' stays. Misuse for what is none."""
    if not text:
        return ""
    from berth.errors import InvalidParameter
    from berth.models.jsonlite import dumps
    from berth.oci import platforms

    try:
        return dumps(platforms.parse(text).as_json())
    except InvalidParameter as error:
        raise Misuse(f"invalid platform: {error}") from None
