"""A list of the packages in a root file system, as SPDX 2.3: what dpkg, apk, Python and npm have noted of them.

The root is an image's and is not trusted: files are opened beneath its descriptor and no link is followed, only plain ones are read,
no more of them and no longer than the bounds say; what cannot be read says nothing. Packages of rpm are in a database that needs
rpm's own library, and are not listed.

Source: https://spdx.github.io/spdx-spec/v2.3/
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from berth.build import sbompackages
from berth.build.sbompackages import Package
from berth.store.tarwriter import on_kernel_filesystem, open_below, reopen

MOST_DIRECTORIES = 200_000
MOST_PACKAGES = 100_000
_MOST_DATABASE_BYTES = 64 << 20
_MOST_FILE_BYTES = 1 << 20
_DPKG = ("var/lib/dpkg/status",)
_APK = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
_DPKG_PARTS = "var/lib/dpkg/status.d"  # of distroless images: a file for each package
_OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
TOOL = "Tool: berth"


@dataclass(frozen=True, slots=True)
class Found:
    """system: ID and VERSION_ID of the root's os-release; truncated: whether a bound ended the search."""

    packages: tuple[Package, ...]
    system: tuple[str, str]
    truncated: bool = False


def scan(root_fd: int) -> Found:
    """Reads a root that is open at `root_fd`. Blocks."""
    system = _system(root_fd)
    found: dict[Package, None] = {}
    for path in _DPKG:
        found |= dict.fromkeys(sbompackages.of_dpkg(_read(root_fd, path, _MOST_DATABASE_BYTES), path, system))
    for name in _names(root_fd, _DPKG_PARTS):
        if not name.endswith(".md5sums"):
            path = f"{_DPKG_PARTS}/{name}"
            found |= dict.fromkeys(sbompackages.of_dpkg(_read(root_fd, path, _MOST_FILE_BYTES), path, system))
    for path in _APK:
        found |= dict.fromkeys(sbompackages.of_apk(_read(root_fd, path, _MOST_DATABASE_BYTES), path, system))
    truncated = False
    for path in _walk(root_fd):
        if not path or len(found) >= MOST_PACKAGES:
            truncated = True
            break
        read = sbompackages.of_python if path.endswith("/METADATA") or path.endswith("/PKG-INFO") else sbompackages.of_npm
        found |= dict.fromkeys(read(_read(root_fd, path, _MOST_FILE_BYTES), path))
    return Found(tuple(sorted(found)), system, truncated)


def _walk(root_fd: int) -> Iterator[str]:
    """Paths of files that tell of a package of Python or npm; '' where a bound was met."""
    pending, seen = [""], 0
    while pending:
        path = pending.pop()
        seen += 1
        if seen > MOST_DIRECTORIES:
            yield ""
            return
        try:
            fd = open_below(root_fd, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if on_kernel_filesystem(fd):
                continue
            with os.scandir(fd) as entries:
                children = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError:
            continue
        finally:
            os.close(fd)
        below = []
        for name, is_directory in children:
            at = f"{path}/{name}" if path else name
            if not is_directory:
                if name == "package.json" and _is_installed(path):
                    yield at
            elif name.endswith(".dist-info"):
                yield f"{at}/METADATA"
            elif name.endswith(".egg-info"):
                yield f"{at}/PKG-INFO"
            else:
                below.append(at)
        pending += reversed(below)


def _is_installed(directory: str) -> bool:
    """node_modules/NAME or node_modules/@SCOPE/NAME."""
    return bool(re.search(r"(?:^|/)node_modules/(?:@[^/]+/)?[^/@.][^/]*$", directory))


def _names(root_fd: int, path: str) -> list[str]:
    try:
        fd = open_below(root_fd, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return []
    try:
        return sorted(os.listdir(fd))[:MOST_PACKAGES]
    except OSError:
        return []
    finally:
        os.close(fd)


def _read(root_fd: int, path: str, most_bytes: int) -> str:
    """'' for what is no plain file, or too large."""
    try:
        path_fd = open_below(root_fd, path)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(path_fd).st_mode):
            return ""
        with os.fdopen(reopen(path_fd, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK), "rb") as file:
            data = file.read(most_bytes + 1)
    except OSError:
        return ""
    finally:
        os.close(path_fd)
    return data.decode(errors="replace") if len(data) <= most_bytes else ""


def _system(root_fd: int) -> tuple[str, str]:
    for path in _OS_RELEASE:
        if text := _read(root_fd, path, _MOST_FILE_BYTES):
            fields = dict(re.findall(r"^([A-Z_]+)=[\"']?([^\"'\n]*)", text, re.M))
            return fields.get("ID", ""), fields.get("VERSION_ID", "")
    return "", ""


def spdx(found: Found, *, name: str, namespace: str, created: str) -> dict[str, Any]:
    """The document. namespace: a URI that no other document has; created: RFC 3339 in whole seconds."""
    packages = [_spdx_package(each, number) for number, each in enumerate(found.packages)]
    root = {
        "SPDXID": "SPDXRef-DocumentRoot", "name": name, "downloadLocation": "NOASSERTION", "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION", "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION", "primaryPackagePurpose": "CONTAINER",
    }  # fmt: skip
    relations = [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": root["SPDXID"]}]
    relations += [
        {"spdxElementId": root["SPDXID"], "relationshipType": "CONTAINS", "relatedSpdxElement": each["SPDXID"]} for each in packages
    ]
    return {
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": name, "documentNamespace": namespace,
        "creationInfo": {"created": created, "creators": [TOOL], **({"comment": "the list is not complete: too many files"} if found.truncated else {})},
        "packages": [root, *packages], "relationships": relations,
    }  # fmt: skip


def _spdx_package(package: Package, number: int) -> dict[str, Any]:
    identity = re.sub(r"[^a-zA-Z0-9.-]", "-", f"{package.kind}-{package.name}")
    return {
        "SPDXID": f"SPDXRef-Package-{identity}-{number}", "name": package.name, "versionInfo": package.version or "NOASSERTION",
        "supplier": f"Person: {package.maintainer}" if package.maintainer else "NOASSERTION", "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False, "sourceInfo": f"found in /{package.path}", "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
        **({"comment": f"license as the package says it: {package.license}"} if package.license else {}),
        "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl(package)}],
    }  # fmt: skip


def purl(package: Package) -> str:
    """https://github.com/package-url/purl-spec"""
    namespace = f"{quote(package.namespace, safe='')}/" if package.namespace else ""
    qualifiers = {"arch": package.architecture, "distro": package.distribution}
    query = "&".join(f"{key}={quote(value, safe=':')}" for key, value in qualifiers.items() if value)
    version = f"@{quote(package.version, safe=':+~')}" if package.version else ""
    return f"pkg:{package.kind}/{namespace}{quote(package.name, safe='+')}{version}{f'?{query}' if query else ''}"
