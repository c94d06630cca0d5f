"""berth manifest: looks into manifests, and makes one name for images of several platforms. Speaks to registries itself."""

import contextlib
import sys

from berth.cli import credentials
from berth.cli.client import fail
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Misuse, Syntax
from berth.cli.manifeststore import Store, raw_of
from berth.cli.pull import parse_name, whole_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from berth.cli.main import Invocation
    from berth.cli.manifeststore import Entry
    from berth.oci.reference import Reference
    from berth.registry.client.client import RegistryClient
    from berth.registry.documents import Document

_INSECURE: Flag = ("insecure", "", "bool", "", "Also without TLS, or with a certificate that nobody vouches for")
_ANNOTATE: "tuple[Flag, ...]" = (
    ("arch", "", "string", "NAME", "Architecture, e.g. arm64"),
    ("os", "", "string", "NAME", "Operating system, e.g. linux"),
    ("os-features", "", "stringSlice", "NAME,...", "Features of the operating system"),
    ("os-version", "", "string", "TEXT", "Version of the operating system"),
    ("variant", "", "string", "NAME", "Variant of the architecture, e.g. v8"),
)
SYNTAX = {
    "manifest inspect": Syntax(
        "[OPTIONS] [MANIFEST_LIST] MANIFEST", (_INSECURE, ("verbose", "v", "bool", "", "Platform, and the manifest's own bytes")), at_least=1, at_most=2
    ),
    "manifest create": Syntax(
        "[OPTIONS] MANIFEST_LIST MANIFEST [MANIFEST...]", (("amend", "a", "bool", "", "Add to a list that is there"), _INSECURE), at_least=2
    ),
    "manifest annotate": Syntax("[OPTIONS] MANIFEST_LIST MANIFEST", _ANNOTATE, at_least=2, at_most=2),
    "manifest push": Syntax(
        "[OPTIONS] MANIFEST_LIST", (_INSECURE, ("purge", "p", "bool", "", "Forget the list once it is pushed")), at_least=1, at_most=1
    ),
    "manifest rm": Syntax("MANIFEST_LIST [MANIFEST_LIST...]", at_least=1),
}
_OCI_MANIFEST, _OCI_INDEX = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_ARCHITECTURES = {
    "darwin": "386 amd64 arm arm64", "dragonfly": "amd64", "freebsd": "386 amd64 arm", "netbsd": "386 amd64 arm", "openbsd": "386 amd64 arm",
    "linux": "386 amd64 arm arm64 mips64 mips64le ppc64le riscv64 s390x loong64", "plan9": "386 amd64", "solaris": "amd64",
    "windows": "386 amd64 arm arm64",
}  # fmt: skip
_PLATFORM_KEYS = ("architecture", "os", "os.version", "os.features", "variant")


def inspect(call: "Invocation") -> int:
    """berth manifest inspect"""
    parsed = parse_command(call, SYNTAX)
    verbose, store = parsed.flag("verbose"), Store(call.config)
    name = parse_name(parsed.arguments[-1])
    if len(parsed.arguments) == 2:
        entry = store.get(whole_name(parse_name(parsed.arguments[0])), whole_name(name))
        if entry is None:
            raise Misuse(f"No such manifest: {whole_name(name)}")
        _print_one(entry, verbose)
        return 0
    if entries := store.entries(whole_name(name)):
        _print_list(entries, verbose)
        return 0
    with _registry(call, name, parsed.flag("insecure")) as client:
        _inspect_remote(client, name, verbose)
    return 0


def _inspect_remote(client: "RegistryClient", name: "Reference", verbose: bool) -> None:
    document = client.manifest(name)
    if not document.is_index:
        _print_one(_entry(client, name, document), verbose)
        return
    listed = _value(document)["manifests"]
    if not verbose:
        print(_layout(_list_of([{"Descriptor": descriptor} for descriptor in listed], document.media_type), "   "))
        return
    entries = []
    for descriptor in listed:
        member = parse_name(f"{name.registry}/{name.repository}@{descriptor['digest']}")
        entry = _entry(client, member, client.manifest(member))
        entry["Descriptor"]["platform"] = descriptor.get("platform") or entry["Descriptor"]["platform"]
        entries.append(entry)
    _print_list(entries, verbose)


def create(call: "Invocation") -> int:
    """berth manifest create"""
    parsed = parse_command(call, SYNTAX)
    target, store = whole_name(parse_name(parsed.arguments[0])), Store(call.config)
    if store.entries(target) and not parsed.flag("amend"):
        raise Misuse("refusing to amend an existing manifest list with no --amend flag")
    found = []
    for text in parsed.arguments[1:]:
        name = parse_name(text)
        entry = store.get(target, whole_name(name))
        if entry is None:
            with _registry(call, name, parsed.flag("insecure")) as client:
                entry = _fetch(client, name)
        found.append((whole_name(name), entry))
    for image, entry in found:  # all of them, or none
        store.put(target, image, entry)
    print("Created manifest list", target)
    return 0


def annotate(call: "Invocation") -> int:
    """berth manifest annotate"""
    parsed = parse_command(call, SYNTAX)
    target, image = (whole_name(parse_name(text)) for text in parsed.arguments)
    store = Store(call.config)
    entry = store.get(target, image)
    if entry is None:
        raise Misuse(f"manifest for image {parsed.arguments[1]} does not exist in {parsed.arguments[0]}")
    platform = entry["Descriptor"].get("platform") or {}
    for flag, key in (("os", "os"), ("arch", "architecture"), ("variant", "variant"), ("os-version", "os.version")):
        if parsed.text(flag):
            platform[key] = parsed.text(flag)
    if features := parsed.list("os-features"):
        platform["os.features"] = list(dict.fromkeys([*(platform.get("os.features") or []), *features]))
    system, architecture = str(platform.get("os") or ""), str(platform.get("architecture") or "")
    if architecture not in _ARCHITECTURES.get(system, "").split():
        raise Misuse(f"manifest entry for image has unsupported os/arch combination: {system}/{architecture}")
    entry["Descriptor"]["platform"] = _platform(platform)
    store.put(target, image, entry)
    return 0


def push(call: "Invocation") -> int:
    """berth manifest push"""
    parsed = parse_command(call, SYNTAX)
    name, store = parse_name(parsed.arguments[0]), Store(call.config)
    entries = store.entries(whole_name(name))
    if not entries:
        raise Misuse(f"No such manifest: {whole_name(name)}")
    members = [parse_name(entry["Ref"]) for entry in entries]
    for member in members:
        if member.registry != name.registry:
            raise Misuse(f"cannot use source images from a different registry than the target image: {member.registry} != {name.registry}")
    with _registry(call, name, parsed.flag("insecure")) as client:
        print(_push(client, name, entries, members))
    if parsed.flag("purge"):
        store.remove(whole_name(name))
    return 0


def rm(call: "Invocation") -> int:
    """berth manifest rm"""
    parsed = parse_command(call, SYNTAX)
    store, code = Store(call.config), 0
    for text in parsed.arguments:
        name = whole_name(parse_name(text))
        if not store.remove(name):
            fail(f"No such manifest: {name}")
            code = 1
    return code


# -- the registry -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _registry(call: "Invocation", name: "Reference", insecure: bool) -> "Iterator[RegistryClient]":
    """The client of a name's registry, logged in as config.json has it; its errors become words."""
    from berth.errors import BerthError, NotFound
    from berth.registry.client.challenge import Credentials
    from berth.registry.client.client import RegistryClient
    from berth.registry.client.settings import Settings

    login = credentials.find(call.config, credentials.server_of(name.registry))
    who = Credentials(
        login.get("username", ""), login.get("password", ""), identity_token=login.get("identitytoken", ""),
        registry_token=login.get("registrytoken", ""),
    )  # fmt: skip
    try:
        with RegistryClient(name.registry, Settings(insecure=[name.registry] if insecure else []), who) as client:
            yield client
    except NotFound as error:
        why = "" if "manifest unknown" in str(error) else f": {error}"
        raise Misuse(f"no such manifest: {name.familiar}{why}") from None
    except BerthError as error:
        raise Misuse(str(error)) from None


def _fetch(client: "RegistryClient", name: "Reference") -> "Entry":
    document = client.manifest(name)
    if document.is_index:
        raise Misuse(f"{name.familiar} is a manifest list; name the images that are in it")
    return _entry(client, name, document)


def _entry(client: "RegistryClient", name: "Reference", document: "Document") -> "Entry":
    """A manifest as the store keeps it; its platform is in the image's configuration."""
    import binascii

    from berth.models.jsonlite import loads
    from berth.registry import media

    platform: dict[str, Any] = {}
    if document.config and document.config.media_type in media.CONFIGS:  # others are of artifacts, which run nowhere
        try:
            platform = _platform(dict(loads(client.config(name.repository, document.config).decode())))
        except (ValueError, TypeError):
            raise Misuse(f"{name.familiar}: its configuration {document.config.digest} is no JSON object") from None
    kind = "OCIManifest" if document.media_type == _OCI_MANIFEST else "SchemaV2Manifest"
    return {
        "Ref": whole_name(name),
        "Descriptor": {"mediaType": document.media_type, "digest": document.digest, "size": len(document.raw), "platform": platform},
        "Raw": binascii.b2a_base64(document.raw, newline=False).decode(), kind: _value(document),
    }  # fmt: skip


def _push(client: "RegistryClient", name: "Reference", entries: "list[Entry]", members: "list[Reference]") -> str:
    """Blobs and manifests of other repositories first, then the list; returns its digest."""
    from berth.registry import documents

    for entry, member in zip(entries, members, strict=True):
        raw = raw_of(entry)
        if member.repository != name.repository:
            document = documents.parse(raw, entry["Descriptor"]["mediaType"])
            for blob in [document.config, *document.layers]:
                if blob and client.blob_size(name.repository, blob.digest) is None and not client.mount(name.repository, blob.digest, member.repository):
                    raise Misuse(f"the registry does not let {name.familiar_name} use {blob.digest} of {member.familiar_name}; push that image there itself")
        digest = client.put_manifest(name.repository, entry["Descriptor"]["digest"], raw, entry["Descriptor"]["mediaType"])
        print(f"Pushed ref {name.registry}/{name.repository}@{digest} with digest: {digest}", flush=True)
    index = _list_of(entries)
    return client.put_manifest(name.repository, name.tag, _layout(index, "   ").encode(), index["mediaType"])


# -- layout -------------------------------------------------------------------------------------------------------


def _platform(found: "dict[str, Any]") -> "dict[str, Any]":
    """Of a configuration or a descriptor: what says something, in Docker's order."""
    return {key: found[key] for key in _PLATFORM_KEYS if found.get(key) or key in ("architecture", "os")} if found else {}


def _list_of(entries: "list[Entry]", media_type: str = "") -> "dict[str, Any]":
    """The manifest list, or the OCI index if the manifests are OCI's."""
    if not media_type:
        media_type = _OCI_INDEX if entries[0]["Descriptor"]["mediaType"] == _OCI_MANIFEST else _DOCKER_LIST
    manifests = [
        {**{key: entry["Descriptor"][key] for key in ("mediaType", "size", "digest")}, "platform": _platform(entry["Descriptor"].get("platform") or {})}
        for entry in entries
    ]
    return {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}


def _print_one(entry: "Entry", verbose: bool) -> None:
    if verbose:
        print(_layout(entry, "\t"))
    else:
        from berth.models.jsonlite import loads

        print(_layout(loads(raw_of(entry).decode()), "\t"))


def _print_list(entries: "list[Entry]", verbose: bool) -> None:
    print(_layout(entries, "\t") if verbose else _layout(_list_of(entries), "   "))
    sys.stdout.flush()


def _value(document: "Document") -> "dict[str, Any]":
    from berth.models.jsonlite import loads

    return dict(loads(document.raw.decode()))


def _layout(value: "Any", indent: str) -> str:
    import json

    return json.dumps(value, indent=indent, ensure_ascii=False)
