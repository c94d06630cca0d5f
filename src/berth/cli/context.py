"""Contexts: named engines, in Docker's own files, so that both command lines see the same ones.

    ~/.docker/config.json                                {"currentContext": NAME}
    ~/.docker/contexts/meta/<sha256 of the name>/meta.json   {"Name", "Metadata", "Endpoints": {"docker": {"Host", ...}}}
    ~/.docker/contexts/tls/<the same>/docker/{ca,cert,key}.pem
"""

import os
import sys

from berth.cli.client import NoEngine, default_address, fail
from berth.cli.command import for_each, parse_command
from berth.cli.dial import TlsFiles
from berth.cli.flags import Flag, UsageError
from berth.models.jsonlite import dumps, loads, pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.main import Invocation

DEFAULT = "default"
_TLS_FILES = ("ca.pem", "cert.pem", "key.pem")


class Place:
    """Where the engine of a context is; tls: None for none."""

    def __init__(self, address: str, tls: "TlsFiles | None") -> None:
        self.address, self.tls = address, tls


def find(name: str, directory: str) -> Place:
    """NoEngine where there is no such context, in Docker's words."""
    meta = read(name, directory)
    endpoint = meta.get("Endpoints", {}).get("docker", {})
    address = str(endpoint.get("Host") or default_address())
    base = f"{directory}/contexts/tls/{_digest(name)}/docker"
    files = {file: f"{base}/{file}" if os.path.exists(f"{base}/{file}") else "" for file in _TLS_FILES}
    if not any(files.values()) and not endpoint.get("SkipTLSVerify"):
        return Place(address, None)
    tls = TlsFiles(verify=not endpoint.get("SkipTLSVerify"), authority=files["ca.pem"], certificate=files["cert.pem"], key=files["key.pem"])
    return Place(address, tls)


def current(directory: str) -> str:
    """The context that `context use` chose."""
    return str(_config(directory).get("currentContext") or DEFAULT)


def read(name: str, directory: str) -> "dict[str, Any]":
    try:
        with open(f"{directory}/contexts/meta/{_digest(name)}/meta.json") as file:
            return dict(loads(file.read()))
    except FileNotFoundError:
        raise NoEngine(f'context "{name}": context not found: no such context; see berth context ls') from None
    except (ValueError, TypeError) as error:
        raise NoEngine(f'context "{name}": its meta.json is wrong: {error}') from None


def _digest(name: str) -> str:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256

    return str(sha256(name.encode()).hexdigest())


def _config(directory: str) -> "dict[str, Any]":
    try:
        with open(f"{directory}/config.json") as file:
            value = loads(file.read())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _everything(directory: str) -> "list[dict[str, Any]]":
    top = f"{directory}/contexts/meta"
    found = []
    for entry in sorted(os.listdir(top)) if os.path.isdir(top) else []:
        try:
            with open(f"{top}/{entry}/meta.json") as file:
                found.append(dict(loads(file.read())))
        except (OSError, ValueError, TypeError):
            fail(f"berth context: {top}/{entry}/meta.json is no context; left out")
    return sorted(found, key=lambda meta: str(meta.get("Name")))


# -- commands -----------------------------------------------------------------------------------------------------


def _default() -> "dict[str, Any]":
    address = os.environ.get("BERTH_HOST") or os.environ.get("DOCKER_HOST") or default_address()
    return {
        "Name": DEFAULT, "Metadata": {}, "Endpoints": {"docker": {"Host": address, "SkipTLSVerify": False}}, "TLSMaterial": {},
        "Storage": {"MetadataPath": "<IN MEMORY>", "TLSPath": "<IN MEMORY>"},
    }  # fmt: skip


_LS_FLAGS: "tuple[Flag, ...]" = (
    ("format", "", "string", "FORMAT", "json, or a Go template such as '{{.Name}}'"),
    ("quiet", "q", "bool", "", "Only names"),
)


def ls(call: "Invocation") -> int:
    """berth context ls"""
    parsed = parse_command(call, _LS_FLAGS, "context ls [OPTIONS]", "List contexts", at_most=0)
    chosen = call.context
    rows = []
    for meta in [_default(), *_everything(call.config)]:
        name, endpoint = str(meta.get("Name")), meta.get("Endpoints", {}).get("docker", {})
        description = (meta.get("Metadata") or {}).get("Description") or ("Current environment's engine" if name == DEFAULT else "")
        rows.append({"Name": name, "Current": name == chosen, "Description": description, "DockerEndpoint": endpoint.get("Host", ""), "Error": ""})
    if parsed.flag("quiet"):
        print("\n".join(row["Name"] for row in rows))
    elif parsed.text("format") == "json":
        print("\n".join(dumps(row) for row in rows))
    elif parsed.text("format"):
        from berth.cli.gotemplate import Template

        template = Template(parsed.text("format"))
        print("\n".join(template.render(row) for row in rows))
    else:
        from berth.cli.table import render

        cells = [[row["Name"] + (" *" if row["Current"] else ""), row["Description"], row["DockerEndpoint"], row["Error"]] for row in rows]
        sys.stdout.write(render([["NAME", "DESCRIPTION", "DOCKER ENDPOINT", "ERROR"], *cells]))
    return 0


_CREATE_FLAGS: "tuple[Flag, ...]" = (
    ("description", "", "string", "TEXT", "What it is"),
    ("docker", "", "string", "KEY=VALUE,...", "host=ADDRESS, and ca=FILE, cert=FILE, key=FILE, skip-tls-verify=true"),
    ("from", "", "string", "CONTEXT", "Copy another context"),
)


def create(call: "Invocation") -> int:
    """berth context create"""
    usage, summary = "context create [OPTIONS] CONTEXT", "Give an engine a name"
    parsed = parse_command(call, _CREATE_FLAGS, usage, summary, at_least=1, at_most=1)
    name = parsed.arguments[0]
    _check_name(name)
    directory = f"{call.config}/contexts/meta/{_digest(name)}"
    if os.path.exists(f"{directory}/meta.json"):
        fail(f'context "{name}" already exists')
        return 1
    options = _docker_option(parsed.text("docker"))
    endpoint: dict[str, Any] = {"Host": options.get("host", ""), "SkipTLSVerify": options.get("skip-tls-verify", "") == "true"}
    files = {f"{key}.pem": _file(options[key]) for key in ("ca", "cert", "key") if options.get(key)}
    if parsed.text("from"):
        source = _default() if parsed.text("from") == DEFAULT else read(parsed.text("from"), call.config)
        endpoint = dict(source["Endpoints"]["docker"]) if not parsed.text("docker") else endpoint
        base = f"{call.config}/contexts/tls/{_digest(parsed.text('from'))}/docker"
        files = {**{file: _file(f"{base}/{file}") for file in _TLS_FILES if os.path.exists(f"{base}/{file}")}, **files}
    elif not endpoint["Host"]:
        endpoint["Host"] = _default()["Endpoints"]["docker"]["Host"]
    description = {"Description": parsed.text("description")} if parsed.text("description") else {}
    _write(f"{call.config}/contexts/tls/{_digest(name)}/docker", files)
    meta = {"Name": name, "Metadata": description, "Endpoints": {"docker": endpoint}}
    _write(directory, {"meta.json": dumps(meta).encode()})
    print(name)
    sys.stdout.flush()
    fail(f'Successfully created context "{name}"')
    return 0


def _check_name(name: str) -> None:
    good = len(name) > 1 and name[0].isalnum() and all(c.isascii() and (c.isalnum() or c in "_.+-") for c in name)
    if name == DEFAULT:
        raise UsageError('"default" is a reserved context name')
    if not good:
        raise UsageError(f'context name "{name}" is invalid: names are of the form [a-zA-Z0-9][a-zA-Z0-9_.+-]+')


def _docker_option(text: str) -> "dict[str, str]":
    found = {}
    for part in text.split(",") if text else []:
        key, equals, value = part.partition("=")
        if not equals or key not in ("host", "ca", "cert", "key", "skip-tls-verify"):
            raise UsageError(f"--docker {text!r}: {key!r} is none of host, ca, cert, key, skip-tls-verify with =VALUE")
        found[key] = value
    return found


def _file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(directory: str, files: "dict[str, bytes]") -> None:
    """Each appears whole, readable by its owner only: there are keys among them."""
    if not files:
        return
    os.makedirs(directory, mode=0o700, exist_ok=True)
    for name, data in files.items():
        temporary = f"{directory}/.{name}.{os.getpid()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(temporary, f"{directory}/{name}")


def use(call: "Invocation") -> int:
    """berth context use"""
    parsed = parse_command(call, (), "context use CONTEXT", "Choose the engine of all further commands", at_least=1, at_most=1)
    name = parsed.arguments[0]
    if name != DEFAULT:
        read(name, call.config)
    config = _config(call.config)
    config.pop("currentContext", None)
    if name != DEFAULT:
        config["currentContext"] = name
    path = f"{call.config}/config.json"
    if os.path.exists(path) and not _config(call.config):
        with open(path) as file:
            if file.read().strip() not in ("", "{}"):
                raise UsageError(f"{path} is no JSON object; it is left as it is")
    _write(call.config, {"config.json": pretty(config).encode() + b"\n"})
    print(name)
    if os.environ.get("BERTH_HOST") or os.environ.get("DOCKER_HOST"):
        fail(f"Warning: DOCKER_HOST overrides the context: to use {name!r}, unset it")
    sys.stdout.flush()
    fail(f'Current context is now "{name}"')
    return 0


def rm(call: "Invocation") -> int:
    """berth context rm"""
    flags: tuple[Flag, ...] = (("force", "f", "bool", "", "Also the current one"),)
    parsed = parse_command(call, flags, "context rm [OPTIONS] CONTEXT [CONTEXT...]", "Forget contexts", at_least=1)

    def remove(name: str) -> str:
        if name == DEFAULT:
            raise NoEngine('context "default" cannot be removed')
        read(name, call.config)
        if name == current(call.config):
            if not parsed.flag("force"):
                raise NoEngine(f'context "{name}" is in use, set -f flag to force remove')
            config = _config(call.config)
            config.pop("currentContext", None)
            _write(call.config, {"config.json": pretty(config).encode() + b"\n"})
        import shutil

        for kind in ("meta", "tls"):
            shutil.rmtree(f"{call.config}/contexts/{kind}/{_digest(name)}", ignore_errors=True)
        return name

    return for_each(parsed.arguments, remove)


def inspect(call: "Invocation") -> int:
    """berth context inspect"""
    flags: tuple[Flag, ...] = (("format", "f", "string", "FORMAT", "A Go template such as '{{.Endpoints.docker.Host}}'"),)
    parsed = parse_command(call, flags, "context inspect [OPTIONS] [CONTEXT...]", "Print all that is known of contexts")
    found = []
    for name in parsed.arguments or [call.context]:
        if name == DEFAULT:
            found.append(_default())
            continue
        meta, digest = read(name, call.config), _digest(name)
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
