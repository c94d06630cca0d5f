"""berth update: limits, restart policy, ports and mounts of containers, also while they run."""

from berth.cli.client import quote
from berth.cli.command import for_each, parse_command
from berth.cli.flags import Flag, Parsed, Refused, Syntax

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.main import Invocation

_NUMBERS = (
    ("blkio-weight", "BlkioWeight"), ("cpu-period", "CpuPeriod"), ("cpu-quota", "CpuQuota"),
    ("cpu-rt-period", "CpuRealtimePeriod"), ("cpu-rt-runtime", "CpuRealtimeRuntime"), ("cpu-shares", "CpuShares"),
    ("pids-limit", "PidsLimit"),
)  # fmt: skip
_TEXTS = (("cpuset-cpus", "CpusetCpus"), ("cpuset-mems", "CpusetMems"))
_BYTES = (("memory", "Memory"), ("memory-reservation", "MemoryReservation"), ("memory-swap", "MemorySwap"))
_FLAGS: "tuple[Flag, ...]" = (
    ("blkio-weight", "", "uint16", "N", "Block I/O weight, 10 to 1000 (0: as it is)"),
    ("cpu-period", "", "int64", "US", "CPU period in microseconds"),
    ("cpu-quota", "", "int64", "US", "CPU time in each period, in microseconds"),
    ("cpu-rt-period", "", "int64", "US", "Real-time CPU period in microseconds"),
    ("cpu-rt-runtime", "", "int64", "US", "Real-time CPU runtime in microseconds"),
    ("cpu-shares", "c", "int64", "N", "CPU weight against others"),
    ("cpus", "", "decimal", "N", "Number of CPUs, e.g. 1.5"),
    ("cpuset-cpus", "", "string", "LIST", "CPUs to run on, e.g. 0-2,4"),
    ("cpuset-mems", "", "string", "LIST", "Memory nodes to use"),
    ("mount-add", "", "mount", "SPEC", "Mount something more, as run's --mount has it; not in Docker"),
    ("mount-rm", "", "list", "PATH", "Take away what is mounted at a path in the container; not in Docker"),
    ("memory", "m", "bytes", "BYTES", "Memory limit, e.g. 512m"),
    ("memory-reservation", "", "bytes", "BYTES", "Memory soft limit"),
    ("memory-swap", "", "bytes", "BYTES", "Memory and swap together; -1 for unlimited swap"),
    ("pids-limit", "", "int64", "N", "Limit of processes (-1: none)"),
    ("publish-add", "", "list", "[[IP:]PORT:]PORT[/PROTO]", "Publish one more port, as run's --publish has it; not in Docker"),
    ("publish-rm", "", "list", "[[IP:]PORT:]PORT[/PROTO]", "Take back a published port, or all of a port of the container; not in Docker"),
    ("restart", "", "string", "POLICY", "no, on-failure[:N], always or unless-stopped"),
)
SYNTAX = {"update": Syntax("[OPTIONS] CONTAINER [CONTAINER...]", _FLAGS, at_least=1)}


def update(call: "Invocation") -> int:
    """berth update"""
    from berth.cli.client import fail
    from berth.cli.runconfig import nano_cpus, restart_policy, size_bytes

    parsed = parse_command(call, SYNTAX)
    if not parsed.values:
        fail("you must provide one or more flags when using this command")
        return 1
    body: dict[str, Any] = {key: parsed.number(flag) for flag, key in _NUMBERS if parsed.given(flag)}
    body |= {key: parsed.text(flag) for flag, key in _TEXTS if parsed.given(flag)}
    body |= {key: size_bytes(parsed.text(flag), f"--{flag}") for flag, key in _BYTES if parsed.text(flag)}
    if parsed.text("cpus"):
        body["NanoCpus"] = nano_cpus(parsed.text("cpus"))
    if parsed.text("restart"):
        body["RestartPolicy"] = restart_policy(parsed.text("restart"))
    body |= _live(parsed)
    warnings: list[str] = []

    def one(name: str) -> str:
        warnings.extend(call.client.json("POST", f"/containers/{quote(name)}/update", body).get("Warnings") or [])
        return name

    code = for_each(parsed.arguments, one)
    if warnings:
        print("\n".join(warnings))
    return code


def _live(parsed: Parsed) -> "dict[str, Any]":
    """Ports and mounts: fields that Docker's update has not."""
    from berth.cli.ports import published
    from berth.cli.runconfig import mount_spec

    body: dict[str, Any] = {}
    for flag, key in (("publish-add", "PublishAdd"), ("publish-rm", "PublishRemove")):
        found = [(port.partition("/"), binding) for text in parsed.list(flag) for port, binding in published(text)]
        if found:
            body[key] = [{**binding, "ContainerPort": port[0], "Protocol": port[2]} for port, binding in found]
    if parsed.list("mount-add"):
        body["MountAdd"] = [mount_spec(text) for text in parsed.list("mount-add")]
    for text in parsed.list("mount-rm"):
        if not text.startswith("/"):
            raise Refused(f"invalid --mount-rm {text!r}: it is not an absolute path in the container")
    if parsed.list("mount-rm"):
        body["MountRemove"] = parsed.list("mount-rm")
    return body
