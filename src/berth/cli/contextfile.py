"""context update, export and import. An export is Docker's: a tar of meta.json and tls/docker/*.pem.

It may come from anybody: only those names are read, and only as many bytes as a context can need.
"""

import os
import sys

from berth.cli.client import fail
from berth.cli.command import parse_command
from berth.cli.context import check_name, docker_option
from berth.cli.contextstore import DEFAULT, TLS_FILES, default_meta, digest_of, file_bytes, read, write_files
from berth.cli.flags import Flag, Misuse, Syntax
from berth.models.jsonlite import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.main import Invocation

_UPDATE: "tuple[Flag, ...]" = (
    ("description", "", "string", "TEXT", "What it is"),
    ("docker", "", "stringToString", "KEY=VALUE,...", "host=ADDRESS, and ca=FILE, cert=FILE, key=FILE, skip-tls-verify=true"),
)
SYNTAX = {
    "context update": Syntax("[OPTIONS] CONTEXT", _UPDATE, at_least=1, at_most=1),
    "context export": Syntax("CONTEXT [FILE|-]", at_least=1, at_most=2),
    "context import": Syntax("CONTEXT FILE|-", at_least=2, at_most=2),
}
_ARCHIVE_BYTES = 10 << 20


def update(call: "Invocation") -> int:
    """berth context update"""
    parsed = parse_command(call, SYNTAX)
    name = parsed.arguments[0]
    check_name(name)
    meta, digest = read(name, call.config), digest_of(name)
    if parsed.text("description"):
        meta["Metadata"] = {**(meta.get("Metadata") or {}), "Description": parsed.text("description")}
    files: dict[str, bytes] = {}
    if parsed.given("docker"):
        options = docker_option(parsed.list("docker"))
        meta["Endpoints"] = {"docker": {"Host": options.get("host", ""), "SkipTLSVerify": options.get("skip-tls-verify", "") == "true"}}
        files = {f"{key}.pem": file_bytes(options[key]) for key in ("ca", "cert", "key") if options.get(key)}
        for file in TLS_FILES:  # the new endpoint's certificates, and no others
            path = f"{call.config}/contexts/tls/{digest}/docker/{file}"
            if file not in files and os.path.exists(path):
                os.unlink(path)
    write_files(f"{call.config}/contexts/tls/{digest}/docker", files)
    write_files(f"{call.config}/contexts/meta/{digest}", {"meta.json": dumps(meta).encode()})
    return _said(name, f'Successfully updated context "{name}"')


def export(call: "Invocation") -> int:
    """berth context export"""
    name, *rest = parse_command(call, SYNTAX).arguments
    if name == DEFAULT:
        meta: dict[str, Any] = {key: value for key, value in default_meta().items() if key not in ("TLSMaterial", "Storage")}
    else:
        meta = read(name, call.config)
    target = rest[0] if rest else f"{name}.dockercontext"
    if target == "-":
        if os.isatty(1):
            raise Misuse("cowardly refusing to export to a terminal, specify a file path")
        from berth.cli.terminal import write_all

        write_all(1, _archive(name, meta, call.config))
        return 0
    data = _archive(name, meta, call.config)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)  # there are keys in it
    with open(fd, "wb") as file:
        file.write(data)
    fail(f'Written file "{target}"')
    return 0


def _archive(name: str, meta: "dict[str, Any]", config: str) -> bytes:
    import io
    import tarfile

    directory = f"{config}/contexts/tls/{digest_of(name)}/docker"
    files = [file for file in TLS_FILES if os.path.exists(f"{directory}/{file}")]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        members = [("meta.json", dumps(meta).encode()), ("tls", None), *([("tls/docker", None)] if files else [])]
        members += [(f"tls/docker/{file}", file_bytes(f"{directory}/{file}")) for file in files]
        for path, data in members:
            member = tarfile.TarInfo(path)
            if data is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o700
                tar.addfile(member)
            else:
                member.size, member.mode = len(data), 0o600
                tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def import_(call: "Invocation") -> int:
    """berth context import"""
    name, source = parse_command(call, SYNTAX).arguments
    check_name(name)
    directory = f"{call.config}/contexts/meta/{digest_of(name)}"
    if os.path.exists(f"{directory}/meta.json"):
        raise Misuse(f'context "{name}" already exists')
    with open(0 if source == "-" else source, "rb", closefd=source != "-") as file:
        data = file.read(_ARCHIVE_BYTES + 1)
    if len(data) > _ARCHIVE_BYTES:
        raise Misuse(f"{source}: no context has more than {_ARCHIVE_BYTES} bytes")
    files = _members(source, data)
    try:
        meta = dict(loads(files.pop("meta.json").decode()))
        endpoint = meta["Endpoints"]["docker"]
        kept = {"Host": str(endpoint.get("Host", "")), "SkipTLSVerify": bool(endpoint.get("SkipTLSVerify"))}
    except (KeyError, ValueError, TypeError, AttributeError):
        raise Misuse(f"{source}: invalid context: no metadata found") from None
    meta = {"Name": name, "Metadata": meta.get("Metadata") or {}, "Endpoints": {"docker": kept}}
    write_files(f"{call.config}/contexts/tls/{digest_of(name)}/docker", files)
    write_files(directory, {"meta.json": dumps(meta).encode()})
    return _said(name, f'Successfully imported context "{name}"')


def _members(source: str, data: bytes) -> "dict[str, bytes]":
    """meta.json and the certificates of an archive, tar or zip, by their names; anything else in it is left alone."""
    import io

    wanted = {"meta.json": "meta.json", **{f"tls/docker/{file}": file for file in TLS_FILES}}
    found = {}
    if data[:4] == b"PK\x03\x04":
        import zipfile

        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for item in archive.infolist():
                    if item.filename in wanted and item.file_size <= _ARCHIVE_BYTES:
                        found[wanted[item.filename]] = archive.read(item)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise Misuse(f"{source}: is no archive of a context: {error}") from None
        return found
    import tarfile

    try:
        # Docker leaves out the zeros that end an archive, and those that fill up its last block.
        with tarfile.open(fileobj=io.BytesIO(data + bytes(3 * tarfile.BLOCKSIZE)), mode="r:") as tar:
            for member in tar:
                if member.isreg() and member.name in wanted and (opened := tar.extractfile(member)):
                    found[wanted[member.name]] = opened.read()
    except tarfile.TarError as error:
        raise Misuse(f"{source}: is no archive of a context: {error}") from None
    return found


def _said(name: str, message: str) -> int:
    print(name)
    sys.stdout.flush()
    fail(message)
    return 0
