"""berth context: names of engines."""

import os
import sys

from berth.cli.client import fail
from berth.cli.command import for_each, parse_command
from berth.cli.contextstore import (
    DEFAULT,
    TLS_FILES,
    current,
    default_meta,
    digest_of,
    every_meta,
    file_bytes,
    read,
    write_files,
)
from berth.cli.flags import Flag, Misuse, Syntax
from berth.cli.table import print_rows
from berth.models.jsonlite import dumps, pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.main import Invocation



_LS: "tuple[Flag, ...]" = (
    ("format", "", "string", "FORMAT", "json, or a Go template such as '{{.Name}}'"),
    ("quiet", "q", "bool", "", "Only names"),
)
_CREATE: "tuple[Flag, ...]" = (
    ("description", "", "string", "TEXT", "What it is"),
    ("docker", "", "stringToString", "KEY=VALUE,...", "host=ADDRESS, and ca=FILE, cert=FILE, key=FILE, skip-tls-verify=true"),
    ("from", "", "string", "CONTEXT", "Copy another context"),
)
_COLUMNS = {"Name": "NAME", "Current": "CURRENT", "Description": "DESCRIPTION", "DockerEndpoint": "DOCKER ENDPOINT", "Error": "ERROR"}
_OF_ENVIRONMENT = "Current DOCKER_HOST based configuration"
_FORCE: Flag = ("force", "f", "bool", "", "Also the current one")
_FORMAT: Flag = ("format", "f", "string", "FORMAT", "A Go template such as '{{.Endpoints.docker.Host}}'")
SYNTAX = {
    "context ls": Syntax("[OPTIONS]", _LS, at_most=0),
    "context show": Syntax("", at_most=0),
    "context create": Syntax("[OPTIONS] CONTEXT", _CREATE, at_least=1, at_most=1),
    "context use": Syntax("CONTEXT", at_least=1, at_most=1),
    "context rm": Syntax("[OPTIONS] CONTEXT [CONTEXT...]", (_FORCE,), at_least=1),
    "context inspect": Syntax("[OPTIONS] [CONTEXT...]", (_FORMAT,)),
}


def ls(call: "Invocation") -> int:
    """berth context ls"""
    parsed = parse_command(call, SYNTAX)
    chosen = call.context
    rows = []
    for meta in sorted([default_meta(), *every_meta(call.config)], key=lambda meta: str(meta.get("Name"))):
        name, endpoint = str(meta.get("Name")), meta.get("Endpoints", {}).get("docker", {})
        description = (meta.get("Metadata") or {}).get("Description") or (_OF_ENVIRONMENT if name == DEFAULT else "")
        rows.append({"Name": name, "Current": name == chosen, "Description": description, "DockerEndpoint": endpoint.get("Host", ""), "Error": ""})
    if parsed.text("format") in ("", "table"):
        rows = [{**row, "Name": row["Name"] + (" *" if row["Current"] and not parsed.flag("quiet") else "")} for row in rows]
    print_rows(parsed.text("format"), _COLUMNS, rows, "Name Description DockerEndpoint Error", parsed.flag("quiet"), "Name")
    if os.environ.get("DOCKER_HOST") and chosen == DEFAULT:
        sys.stdout.flush()
        fail("Warning: DOCKER_HOST environment variable overrides the active context. To use a context, either set the global "
             "--context flag, or unset DOCKER_HOST environment variable.")  # fmt: skip
    return 0


def show(call: "Invocation") -> int:
    """berth context show"""
    parse_command(call, SYNTAX)
    print(call.context)
    return 0


def create(call: "Invocation") -> int:
    """berth context create"""
    parsed = parse_command(call, SYNTAX)
    name = parsed.arguments[0]
    check_name(name)
    directory = f"{call.config}/contexts/meta/{digest_of(name)}"
    if os.path.exists(f"{directory}/meta.json"):
        fail(f'context "{name}" already exists')
        return 1
    options = docker_option(parsed.list("docker"))
    endpoint: dict[str, Any] = {"Host": options.get("host", ""), "SkipTLSVerify": options.get("skip-tls-verify", "") == "true"}
    files = {f"{key}.pem": file_bytes(options[key]) for key in ("ca", "cert", "key") if options.get(key)}
    if parsed.text("from"):
        source = default_meta() if parsed.text("from") == DEFAULT else read(parsed.text("from"), call.config)
        endpoint = dict(source["Endpoints"]["docker"]) if not parsed.given("docker") else endpoint
        base = f"{call.config}/contexts/tls/{digest_of(parsed.text('from'))}/docker"
        files = {**{file: file_bytes(f"{base}/{file}") for file in TLS_FILES if os.path.exists(f"{base}/{file}")}, **files}
    elif not endpoint["Host"]:
        endpoint["Host"] = default_meta()["Endpoints"]["docker"]["Host"]
    description = {"Description": parsed.text("description")} if parsed.text("description") else {}
    write_files(f"{call.config}/contexts/tls/{digest_of(name)}/docker", files)
    meta = {"Name": name, "Metadata": description, "Endpoints": {"docker": endpoint}}
    write_files(directory, {"meta.json": dumps(meta).encode()})
    print(name)
    sys.stdout.flush()
    fail(f'Successfully created context "{name}"')
    return 0


def check_name(name: str) -> None:
    good = len(name) > 1 and name[0].isalnum() and all(c.isascii() and (c.isalnum() or c in "_.+-") for c in name)
    if name == DEFAULT:
        raise Misuse('"default" is a reserved context name')
    if not good:
        raise Misuse(f'context name "{name}" is invalid, names are validated against regexp "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"')


def docker_option(items: "list[str]") -> "dict[str, str]":
    found = {}
    for part in [part for text in items for part in text.split(",")]:
        key, equals, value = part.partition("=")
        if not equals or key not in ("host", "ca", "cert", "key", "skip-tls-verify"):
            raise Misuse(f"unable to create docker endpoint config: unrecognized config key: {key}; "
                         "it is none of host, ca, cert, key, skip-tls-verify with =VALUE")  # fmt: skip
        found[key] = value
    return found


def use(call: "Invocation") -> int:
    """berth context use"""
    parsed = parse_command(call, SYNTAX)
    name = parsed.arguments[0]
    if name != DEFAULT:
        read(name, call.config)
    _choose(call.config, "" if name == DEFAULT else name)
    print(name)
    if os.environ.get("BERTH_HOST") or os.environ.get("DOCKER_HOST"):
        fail(f"Warning: DOCKER_HOST overrides the context: to use {name!r}, unset it")
    sys.stdout.flush()
    fail(f'Current context is now "{name}"')
    return 0


def _choose(directory: str, name: str) -> None:
    """'' for the default one."""
    from berth.cli.configfile import change

    def put(config: "dict[str, Any]") -> None:
        config.pop("currentContext", None)
        if name:
            config["currentContext"] = name

    change(directory, put)


def rm(call: "Invocation") -> int:
    """berth context rm"""
    parsed = parse_command(call, SYNTAX)

    def remove(name: str) -> str:
        if name == DEFAULT:
            raise Misuse('context "default" cannot be removed')
        if not os.path.exists(f"{call.config}/contexts/meta/{digest_of(name)}"):
            raise Misuse(f'context "{name}" does not exist')
        if name == current(call.config):
            if not parsed.flag("force"):
                raise Misuse(f'context "{name}" is in use, set -f flag to force remove')
            _choose(call.config, "")
        import shutil

        for kind in ("meta", "tls"):
            shutil.rmtree(f"{call.config}/contexts/{kind}/{digest_of(name)}", ignore_errors=True)
        return name

    return for_each(parsed.arguments, remove)


def inspect(call: "Invocation") -> int:
    """berth context inspect"""
    parsed = parse_command(call, SYNTAX)
    found = []
    for name in parsed.arguments or [call.context]:
        if name == DEFAULT:
            found.append(default_meta())
            continue
        try:
            meta, digest = read(name, call.config), digest_of(name)
        except Misuse:
            if not parsed.text("format"):
                print(pretty(found))
            raise
        tls = f"{call.config}/contexts/tls/{digest}"
        material = sorted(os.listdir(f"{tls}/docker")) if os.path.isdir(f"{tls}/docker") else []
        storage = {"MetadataPath": f"{call.config}/contexts/meta/{digest}", "TLSPath": tls}
        found.append({**meta, "TLSMaterial": {"docker": material} if material else {}, "Storage": storage})
    if parsed.text("format"):
        from berth.cli.gotemplate import Template

        template = Template(parsed.text("format"))
        print("\n".join(template.render(meta) for meta in found))
    else:
        print(pretty(found))
    return 0
