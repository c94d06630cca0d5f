"""Contexts: named engines, in Docker's own files, so that both command lines see the same ones.

    ~/.docker/config.json                                {"currentContext": NAME}
    ~/.docker/contexts/meta/<sha256 of the name>/meta.json   {"Name", "Metadata", "Endpoints": {"docker": {"Host", ...}}}
    ~/.docker/contexts/tls/<the same>/docker/{ca,cert,key}.pem
"""

import os

from berth.cli.client import default_address, fail
from berth.cli.dial import TlsFiles
from berth.cli.flags import Misuse
from berth.models.jsonlite import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT = "default"
TLS_FILES = ("ca.pem", "cert.pem", "key.pem")


class Place:
    """Where the engine of a context is; tls: None for none."""

    def __init__(self, address: str, tls: "TlsFiles | None") -> None:
        self.address, self.tls = address, tls


def find(name: str, directory: str) -> Place:
    """Misuse where there is no such context, in Docker's words."""
    meta = read(name, directory)
    endpoint = meta.get("Endpoints", {}).get("docker", {})
    address = str(endpoint.get("Host") or default_address())
    base = f"{directory}/contexts/tls/{digest_of(name)}/docker"
    files = {file: f"{base}/{file}" if os.path.exists(f"{base}/{file}") else "" for file in TLS_FILES}
    if not any(files.values()) and not endpoint.get("SkipTLSVerify"):
        return Place(address, None)
    tls = TlsFiles(verify=not endpoint.get("SkipTLSVerify"), authority=files["ca.pem"], certificate=files["cert.pem"], key=files["key.pem"])
    return Place(address, tls)


def current(directory: str) -> str:
    """The context that `context use` chose."""
    return str(config_of(directory).get("currentContext") or DEFAULT)


def read(name: str, directory: str) -> "dict[str, Any]":
    try:
        with open(_meta(name, directory)) as file:
            return dict(loads(file.read()))
    except FileNotFoundError:
        raise Misuse(f'context "{name}": context not found: there is no {_meta(name, directory)}; see berth context ls') from None
    except (ValueError, TypeError) as error:
        raise Misuse(f'context "{name}": its meta.json is wrong: {error}') from None


def _meta(name: str, directory: str) -> str:
    return f"{directory}/contexts/meta/{digest_of(name)}/meta.json"


def digest_of(name: str) -> str:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256

    return str(sha256(name.encode()).hexdigest())


def config_of(directory: str) -> "dict[str, Any]":
    try:
        with open(f"{directory}/config.json") as file:
            value = loads(file.read())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def every_meta(directory: str) -> "list[dict[str, Any]]":
    top = f"{directory}/contexts/meta"
    found = []
    for entry in sorted(os.listdir(top)) if os.path.isdir(top) else []:
        try:
            with open(f"{top}/{entry}/meta.json") as file:
                found.append(dict(loads(file.read())))
        except (OSError, ValueError, TypeError):
            fail(f"berth context: {top}/{entry}/meta.json is no context; left out")
    return sorted(found, key=lambda meta: str(meta.get("Name")))


def default_meta() -> "dict[str, Any]":
    address = os.environ.get("BERTH_HOST") or os.environ.get("DOCKER_HOST") or default_address()
    return {
        "Name": DEFAULT, "Metadata": {}, "Endpoints": {"docker": {"Host": address, "SkipTLSVerify": False}}, "TLSMaterial": {},
        "Storage": {"MetadataPath": "<IN MEMORY>", "TLSPath": "<IN MEMORY>"},
    }  # fmt: skip


def file_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def write_files(directory: str, files: "dict[str, bytes]") -> None:
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
