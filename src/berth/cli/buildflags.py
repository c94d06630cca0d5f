"""The flags of `berth build`, and the request that they make. Both of `docker build` and of `docker buildx build`."""

import os

from berth.cli.flags import Flag, Misuse, Parsed, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPARE = "Accepted for Docker's sake"
FLAGS: "tuple[Flag, ...]" = (
    ("add-host", "", "list", "HOST:IP", "A line for /etc/hosts of each step"),
    ("allow", "", "list", "RIGHT", "Let steps have network.host, security.insecure or device[=PATH], which a Dockerfile asks for"),
    ("annotation", "", "list", "KEY=VALUE", "An annotation of the image's manifest"),
    ("attest", "", "list", "type=TYPE[,...]", "Attach an attestation: type=sbom or type=provenance"),
    ("build-arg", "", "list", "NAME[=VALUE]", "Value of an ARG; without a value, that of the environment"),
    ("build-context", "", "list", "NAME=PATH|URL", "Another context, for FROM and --from: a directory, docker-image://IMAGE, oci-layout://DIRECTORY, or a URL"),
    ("builder", "", "string", "NAME", f"{_SPARE}: the engine is the only builder"),
    ("cache-from", "", "list", "IMAGE|type=TYPE[,...]", "Where results of earlier builds may be taken from"),
    ("cache-to", "", "list", "type=TYPE[,...]", "Where results are kept for later builds"),
    ("call", "", "string", "METHOD[,format=json]", "What is done with the Dockerfile: build, check, outline, targets (default build)"),
    ("cgroup-parent", "", "string", "CGROUP", "Parent cgroup of the steps"),
    ("check", "", "bool", "", "Check the Dockerfile, build nothing: --call check"),
    ("compress", "", "bool", "", f"{_SPARE}: only what has changed is sent"),
    ("cpu-period", "", "int64", "MICROSECONDS", "Length of the period of --cpu-quota"),
    ("cpu-quota", "", "int64", "MICROSECONDS", "CPU time of a step in each period"),
    ("cpu-shares", "c", "int64", "WEIGHT", "Share of the CPU, beside others"),
    ("cpuset-cpus", "", "string", "LIST", "CPUs that steps run on, e.g. 0-3,5"),
    ("cpuset-mems", "", "string", "LIST", "Memory nodes that steps use"),
    ("debug", "D", "bool", "", _SPARE),
    ("file", "f", "string", "FILE", "The Dockerfile: a file, a URL, or - for standard input (default PATH/Dockerfile)"),
    ("force-rm", "", "bool", "", f"{_SPARE}: nothing stays of a step"),
    ("iidfile", "", "string", "FILE", "Write the image's id to a file"),
    ("isolation", "", "string", "NAME", _SPARE),
    ("label", "", "list", "KEY=VALUE", "A label of the image"),
    ("load", "", "bool", "", "Keep the image in the engine's store, as is done anyway where there is no other output"),
    ("memory", "m", "bytes", "BYTES", "Memory limit of each step, e.g. 512m"),
    ("memory-swap", "", "bytes", "BYTES", "Memory and swap together; -1 for unlimited swap"),
    ("metadata-file", "", "string", "FILE", "Write what is known of the result to a file, as JSON"),
    ("network", "", "string", "NETWORK", "Network of the steps: default, none or host (default default)"),
    ("no-cache", "", "bool", "", "Make every step anew"),
    ("no-cache-filter", "", "list", "STAGE", "Make the steps of these stages anew"),
    ("output", "o", "list", "DEST|type=TYPE[,...]", "Where the result goes: local, tar, oci, docker, image or registry"),
    ("platform", "", "list", "OS/ARCH", "Platforms to build for (default the engine's own)"),
    ("policy", "", "list", "POLICY", f"{_SPARE}: not evaluated"),
    ("progress", "", "string", "FORM", "How it is shown: auto, tty, plain, rawjson, quiet (default auto)"),
    ("provenance", "", "string", "BOOL|mode=MODE", "Short for --attest type=provenance"),
    ("pull", "", "bool", "", "Look for newer base images"),
    ("push", "", "bool", "", "Send the image to its registry"),
    ("quiet", "q", "bool", "", "Print the image's id and nothing else"),
    ("resource", "", "list", "NAME=VALUE", "A limit of each step, by the name of its flag, e.g. memory=1g"),
    ("rm", "", "bool", "", f"{_SPARE}: nothing stays of a step (default true)"),
    ("sbom", "", "string", "BOOL|generator=IMAGE", "Short for --attest type=sbom"),
    ("secret", "", "list", "id=ID[,src=FILE|,env=NAME]", "A secret for RUN --mount=type=secret; it stays in memory"),
    ("security-opt", "", "stringSlice", "OPTION", _SPARE),
    ("shm-size", "", "bytes", "BYTES", "Size of /dev/shm in each step (default 64m)"),
    ("squash", "", "bool", "", "One layer over the base image"),
    ("ssh", "", "list", "ID[=SOCKET|=KEY]", "An agent for RUN --mount=type=ssh; without a path that of SSH_AUTH_SOCK"),
    ("tag", "t", "list", "NAME[:TAG]", "Name of the image"),
    ("target", "", "string", "STAGE", "Stage to build (default the last one)"),
    ("ulimit", "", "ulimit", "NAME=SOFT[:HARD]", "Set a resource limit of the steps"),
    ("why", "", "bool", "", "Say of each step that was made anew which of its inputs has changed"),
)
_LIMITS = (
    ("memory", "Memory"), ("memory-swap", "MemorySwap"), ("shm-size", "ShmSize"), ("cpu-shares", "CpuShares"), ("cpu-period", "CpuPeriod"),
    ("cpu-quota", "CpuQuota"), ("cpuset-cpus", "CpusetCpus"), ("cpuset-mems", "CpusetMems"), ("cgroup-parent", "CgroupParent"),
)  # fmt: skip
_BYTES = ("memory", "memory-swap", "shm-size")
_NUMBERS = ("cpu-shares", "cpu-period", "cpu-quota")
_CALLS = ("build", "check", "outline", "targets")
_ATTESTS, _SECRET_KEYS = ("sbom", "provenance"), ("id", "src", "source", "env", "type")
_RIGHTS = ("network.host", "security.insecure", "device")
_CALL_KEYS, _CALL_FORMATS = ("format", "ignorestatus"), ("default", "json")
_TO_FILES = ("local", "tar", "oci", "docker")
OUTPUTS = (*_TO_FILES, "image", "registry", "cacheonly")
FORMS = ("auto", "tty", "plain", "rawjson", "quiet", "none")


class Secret:
    """Where a secret is read from: a file or a variable of the environment, the other ''."""

    __slots__ = ("file", "variable")

    def __init__(self, file: str, variable: str) -> None:
        self.file, self.variable = file, variable


def request(parsed: Parsed) -> "dict[str, Any]":
    """What flags alone say of a request (api/buildwords.py); UsageError for values that cannot be."""
    return {
        "target": parsed.text("target"), "build_args": build_args(parsed.list("build-arg")), "labels": _pairs(parsed.list("label")),
        "hosts": [_host(item) for item in parsed.list("add-host")], "network": parsed.text("network"), "limits": _limits(parsed),
        "platforms": _pieces(parsed.list("platform")), "no_cache": parsed.flag("no-cache"),
        "no_cache_stages": _pieces(parsed.list("no-cache-filter")), "epoch": _epoch(parsed), "tags": parsed.list("tag"),
        "pull": parsed.flag("pull"), "squash": parsed.flag("squash"), **method(parsed),
        "cache_from": [cache(item) for item in parsed.list("cache-from")], "cache_to": [cache(item) for item in parsed.list("cache-to")],
        "attests": attestations(parsed), "annotations": parsed.list("annotation"), "allow": allowed(parsed.list("allow")),
    }  # fmt: skip


def method(parsed: Parsed) -> "dict[str, str]":
    """--call METHOD[,format=FORM], or what --check says shorter."""
    text = parsed.text("call")
    given = fields(text, "--call") if text else {}
    names = [name for name, value in given.items() if not value and name not in _CALL_KEYS]
    name = names[0] if names else "check" if parsed.flag("check") else "build"
    name = {"lint": "check"}.get(name, name)
    if len(names) > 1 or name not in _CALLS:
        raise _wrong("--call", text, f"expected {', '.join(_CALLS)}{_meant(name, _CALLS)}")
    if parsed.flag("check") and name != "check":
        raise _wrong("--call", text, "--check asks for something else")
    for key, value in given.items():
        if key not in (*names, *_CALL_KEYS):
            raise _wrong("--call", text, f"unexpected key {key!r}: expected {', '.join(_CALL_KEYS)}{_meant(key, _CALL_KEYS)}")
        if key == "format" and value not in _CALL_FORMATS:
            raise _wrong("--call", text, f"unknown format {value!r}: expected {', '.join(_CALL_FORMATS)}{_meant(value, _CALL_FORMATS)}")
        if key == "ignorestatus" and value.lower() not in ("true", "false", "1", "0"):
            raise _wrong("--call", text, "ignorestatus is true or false")
    return {"call": name, "call_format": given.get("format", "")}


def allowed(items: "list[str]") -> "list[str]":
    """--allow, of words that mean something."""
    found = _pieces(items)
    for right in found:
        word, _, path = right.partition("=")
        if word not in _RIGHTS or (path and word != "device"):
            raise _wrong("--allow", right, f"expected {', '.join(_RIGHTS)}{_meant(word, _RIGHTS)}")
    return found


def ignores_status(parsed: Parsed) -> bool:
    """--call check,ignorestatus=true: warnings are no failure."""
    return fields(parsed.text("call"), "--call").get("ignorestatus", "").lower() in ("true", "1")


def _meant(word: str, known: "tuple[str, ...]") -> str:
    from berth.build.dockerfile.suggesting import nearest

    found = nearest(word, known)
    return f" (did you mean {found}?)" if found else ""


def form(parsed: Parsed) -> str:
    """How the build is shown."""
    if parsed.flag("quiet"):
        return "quiet"
    name = parsed.text("progress") or os.environ.get("BUILDKIT_PROGRESS") or "auto"
    if name not in FORMS:
        raise _wrong("--progress", name, f"expected {', '.join(FORMS[:-1])}{_meant(name, FORMS[:-1])}")
    return "quiet" if name == "none" else name


# -- values -------------------------------------------------------------------------------------------------------


def fields(text: str, flag: str) -> "dict[str, str]":
    """`a=b,c=d` as CSV; a word without = is a key alone. UsageError."""
    if '"' in text:
        from berth.cli.fields import csv_fields

        try:
            pieces = csv_fields(text)
        except ValueError as error:
            raise _wrong(flag, text, str(error)) from None
    else:
        pieces = text.split(",")
    found = {}
    for piece in pieces:
        key, _, value = piece.partition("=")
        found[key.strip().lower()] = value
    return found


def build_args(items: "list[str]") -> "dict[str, str]":
    """Those without a value have that of the environment, or are not given."""
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not name:
            raise _wrong("--build-arg", item, "it has no name")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def secrets(items: "list[str]") -> "dict[str, Secret]":
    """By id."""
    found = {}
    for item in items:
        given = fields(item, "--secret")
        if unknown := sorted(set(given) - set(_SECRET_KEYS)):
            raise _wrong("--secret", item, f"unexpected key '{unknown[0]}'{_meant(unknown[0], _SECRET_KEYS)}")
        kind, file, variable = given.get("type", ""), given.get("src") or given.get("source") or "", given.get("env", "")
        if kind not in ("", "file", "env"):
            raise _wrong("--secret", item, f"unsupported secret type {kind!r}: expected file or env")
        if kind == "env" and not variable:
            file, variable = "", file
        identity = given.get("id") or os.path.basename(file) or variable
        if not identity:
            raise _wrong("--secret", item, "expected id=ID,src=FILE or id=ID,env=NAME")
        if not file and not variable:  # as buildx: a variable of this name, or else a file
            file, variable = ("", identity) if identity in os.environ else (identity, "")
        if file and not variable:
            _readable(file, item)
        found[identity] = Secret(file, variable)
    return found


def agents(items: "list[str]") -> "dict[str, list[str]]":
    """Paths of a socket or of keys, by id."""
    found = {}
    for item in items:
        identity, _, paths = item.partition("=")
        found[identity or "default"] = [path for path in paths.split(",") if path]
        given = found[identity or "default"] or [os.environ.get("SSH_AUTH_SOCK", "")]
        if given == [""]:
            raise Misuse(f"--ssh {item}: no agent is running here (SSH_AUTH_SOCK is not set); start one, or name a key: --ssh {item}=FILE")
        found[identity or "default"] = given
        for path in given:
            if not os.path.exists(path):
                raise Misuse(f"--ssh {item}: {path}: no such file")
    return found


def contexts(items: "list[str]") -> "dict[str, str]":
    """--build-context: a directory or an address, by name."""
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise _wrong("--build-context", item, "expected NAME=PATH or NAME=URL")
        found[name.lower()] = value
    return found


def outputs(parsed: Parsed) -> "list[dict[str, str]]":
    """Of --output, --push and --load; `dest` is where this side writes, '' for nowhere here. UsageError."""
    found = []
    for item in parsed.list("output"):
        if item == "-":
            found.append({"type": "tar", "dest": "-"})
            continue
        given = fields(item, "--output") if "=" in item else {"type": "local", "dest": item}
        kind = given.get("type", "")
        if not kind:
            raise _wrong("--output", item, "type is required for output")
        if kind not in OUTPUTS:
            raise _wrong("--output", item, f"unknown type {kind!r}: expected {', '.join(OUTPUTS)}{_meant(kind, OUTPUTS)}")
        if kind == "registry":
            given = {"push": "true", "store": "false", **given, "type": "image"}
        if kind in ("local", "tar", "oci") and not given.get("dest"):
            if kind == "local":
                raise _wrong("--output", item, "dest is required for local output")
            given["dest"] = "-"
        found.append(given)
    if parsed.flag("push"):
        images = [each for each in found if each["type"] == "image"]
        for each in images:
            each["push"] = "true"
        if not images:
            found.append({"type": "image", "push": "true"})
    if parsed.flag("load"):
        found.append({"type": "docker"})
    return found


def cache(item: str) -> "dict[str, str]":
    """An image's name alone means a registry."""
    return fields(item, "--cache-from") if "=" in item else {"type": "registry", "ref": item}


def attestations(parsed: Parsed) -> "list[dict[str, str]]":
    """--attest, --sbom, --provenance; one that is off is not there."""
    found = {}
    for item in parsed.list("attest"):
        given = fields(item, "--attest")
        if given.get("type") not in _ATTESTS:
            raise _wrong("--attest", item, f"expected type=sbom or type=provenance{_meant(given.get('type', ''), _ATTESTS)}")
        found[given["type"]] = given
    for kind in ("sbom", "provenance"):
        if text := parsed.text(kind):
            given = fields(text, f"--{kind}") if "=" in text else {"disabled": "true"} if text.lower() in ("false", "0") else {}
            found[kind] = {"type": kind, **given}
    return [each for each in found.values() if each.get("disabled") != "true"]


def _limits(parsed: Parsed) -> "dict[str, str]":
    given = {flag: str(parsed.values[flag]) for flag, _ in _LIMITS if parsed.given(flag)}
    for item in parsed.list("resource"):
        name, _, value = item.partition("=")
        if name not in dict(_LIMITS):
            raise _wrong("--resource", item, f"expected one of {', '.join(dict(_LIMITS))}{_meant(name, tuple(dict(_LIMITS)))}")
        given[name] = value
    found = {}
    for flag, key in _LIMITS:
        value = given.get(flag, "")
        if value and flag in _BYTES:
            from berth.cli.runconfig import size_bytes

            value = str(size_bytes(value, f"--{flag}"))
        if value and flag in _NUMBERS and not value.lstrip("-").isdigit():
            raise _wrong(f"--{flag}", value, "it is not a number")
        if value and (value != "0" or flag not in (*_BYTES, *_NUMBERS)):
            found[key] = value
    if items := parsed.list("ulimit"):
        from berth.cli.runconfig import ulimit
        from berth.models.jsonlite import dumps

        found["Ulimits"] = dumps([ulimit(item) for item in items])
    return found


def _epoch(parsed: Parsed) -> "int | None":
    """SOURCE_DATE_EPOCH, of --build-arg or of the environment."""
    text = build_args(parsed.list("build-arg")).get("SOURCE_DATE_EPOCH", os.environ.get("SOURCE_DATE_EPOCH", ""))
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise Misuse(f"SOURCE_DATE_EPOCH is {text!r}: expected seconds since 1970")
    return int(text)


def _host(item: str) -> str:
    """`name=ip` is the newer form of `name:ip`."""
    name, equals, address = item.partition("=")
    return f"{name}:{address}" if equals else item


def _pairs(items: "list[str]") -> "dict[str, str]":
    return {key: value for key, _, value in (item.partition("=") for item in items)}


def _pieces(items: "list[str]") -> "list[str]":
    return [piece.strip() for item in items for piece in item.split(",") if piece.strip()]


def _readable(path: str, item: str) -> None:
    if not os.path.exists(path):
        raise Misuse(f"--secret {item}: {path}: no such file")
    if os.path.isdir(path):
        raise Misuse(f"--secret {item}: {path} is a directory")


def _wrong(flag: str, text: str, why: str) -> UsageError:
    return UsageError(f'invalid argument "{text}" for "{flag}" flag: {why}')
