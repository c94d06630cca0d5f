"""What package managers have noted of a package. Pure; text that is none says nothing."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

_MOST_TEXT = 500


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """kind and namespace as in a package URL; path: of the file that told."""

    kind: str
    name: str
    version: str
    namespace: str = ""
    architecture: str = ""
    distribution: str = ""
    maintainer: str = ""
    license: str = ""
    path: str = ""


def of_dpkg(text: str, path: str, system: tuple[str, str]) -> Iterator[Package]:
    """Paragraphs of /var/lib/dpkg/status; those that are not installed are left out."""
    for paragraph in re.split(r"\n\s*\n", text):
        fields = _fields(paragraph)
        status = fields.get("Status", "install ok installed").split()
        if fields.get("Package") and status[-1:] == ["installed"]:
            yield Package(
                "deb", fields["Package"], fields.get("Version", ""), system[0] or "debian", fields.get("Architecture", ""),
                "-".join(filter(None, system)), fields.get("Maintainer", ""), "", path,
            )  # fmt: skip


def _fields(paragraph: str) -> dict[str, str]:
    """The one-line fields of a paragraph as in RFC 822."""
    return {key: value.strip()[:_MOST_TEXT] for key, value in re.findall(r"^([A-Za-z][A-Za-z0-9-]*):(.*)$", paragraph, re.M)}


def of_apk(text: str, path: str, system: tuple[str, str]) -> Iterator[Package]:
    """https://wiki.alpinelinux.org/wiki/Apk_spec#Installed_Database"""
    for paragraph in re.split(r"\n\s*\n", text):
        fields = {line[0]: line[2:].strip()[:_MOST_TEXT] for line in reversed(paragraph.splitlines()) if line[1:2] == ":"}
        if fields.get("P"):
            yield Package(
                "apk", fields["P"], fields.get("V", ""), system[0] or "alpine", fields.get("A", ""), "-".join(filter(None, system)),
                fields.get("m", ""), fields.get("L", ""), path,
            )  # fmt: skip


def of_python(text: str, path: str) -> Iterator[Package]:
    """https://packaging.python.org/en/latest/specifications/core-metadata/"""
    head = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    fields = _fields(head)
    if fields.get("Name"):
        name = re.sub(r"[-_.]+", "-", fields["Name"]).lower()
        stated = fields.get("License-Expression") or fields.get("License", "")
        yield Package("pypi", name, fields.get("Version", ""), license=stated, maintainer=fields.get("Author", ""), path=path)


def of_npm(text: str, path: str) -> Iterator[Package]:
    """https://docs.npmjs.com/cli/configuring-npm/package-json"""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not isinstance(value.get("version"), str):
        return
    scope, _, name = value["name"][:_MOST_TEXT].rpartition("/")
    stated = value.get("license")
    if name:
        yield Package(
            "npm", name, value["version"][:_MOST_TEXT], scope, license=stated[:_MOST_TEXT] if isinstance(stated, str) else "", path=path
        )
