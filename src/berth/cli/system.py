"""info and version."""

import os
import sys

from berth import API_VERSION, VERSION
from berth.cli.client import ApiError, NoEngine, fail
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Syntax
from berth.cli.table import binary_size
from berth.models.jsonlite import dumps_as_go

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.cli.main import Invocation

_FORMAT: "tuple[Flag, ...]" = (("format", "f", "string", "FORMAT", "json, or a Go template such as '{{.Server.Version}}'"),)
SYNTAX = {"version": Syntax("[OPTIONS]", _FORMAT, at_most=0), "info": Syntax("[OPTIONS]", _FORMAT, at_most=0)}


def version(call: "Invocation") -> int:
    """berth version"""
    parsed = parse_command(call, SYNTAX)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    client = {
        "Platform": {"Name": "berth"}, "Version": VERSION, "ApiVersion": API_VERSION, "DefaultAPIVersion": API_VERSION,
        "GitCommit": "", "GoVersion": f"python{sys.version.split()[0]}", "Os": "linux", "Arch": machine, "BuildTime": "",
        "Context": call.context,
    }  # fmt: skip
    server, problem = None, ""
    try:
        server = call.client.json("GET", "/version")
    except (NoEngine, ApiError) as error:
        problem = str(error)
    if parsed.text("format"):
        _formatted(parsed.text("format"), {"Client": client, "Server": server})
    else:
        print("\n".join(version_lines(client, server)))
    if problem:
        sys.stdout.flush()
        fail(problem)
        return 1
    return 0


def version_lines(client: "dict[str, Any]", server: "dict[str, Any] | None") -> "list[str]":
    """With Docker's names in Docker's order, for scripts look for them; there is no Go, so its line has Python's version. Pure."""
    lines = ["Client:"]
    rows = [("Version", client["Version"]), ("API version", client["ApiVersion"]), ("Go version", client["GoVersion"]),
            ("OS/Arch", f"{client['Os']}/{client['Arch']}"), ("Context", client["Context"])]  # fmt: skip
    lines += [f" {name + ':':<18} {value}" for name, value in rows]
    if server:
        platform = (server.get("Platform") or {}).get("Name", "")
        rows = [("Version", server["Version"]), ("API version", f"{server['ApiVersion']} (minimum version {server['MinAPIVersion']})"),
                ("Go version", server["GoVersion"]), ("OS/Arch", f"{server['Os']}/{server['Arch']}"), ("Kernel", server["KernelVersion"]),
                ("Experimental", str(bool(server.get("Experimental"))).lower())]  # fmt: skip
        lines += ["", f"Server: {platform}".rstrip(), " Engine:", *(f"  {name + ':':<17} {value}" for name, value in rows)]
    return lines


def _formatted(format_: str, value: "Any") -> None:
    if format_ == "json":
        print(dumps_as_go(value))
        return
    from berth.cli.gotemplate import Template

    print(Template(format_).render(value))


def info(call: "Invocation") -> int:
    """berth info"""
    parsed = parse_command(call, SYNTAX)
    data = call.client.json("GET", "/info")
    if parsed.text("format"):
        _formatted(parsed.text("format"), data)
        return 0
    print("\n".join(info_lines(data, call.context)), flush=True)
    for warning in data["Warnings"] or []:
        fail(warning)
    return 0


def info_lines(data: "dict[str, Any]", context: str) -> "list[str]":
    """Docker's lines in Docker's order. Pure."""
    plugins = data["Plugins"]
    lines = ["Client:", f" Version:    {VERSION}", f" Context:    {context}", " Debug Mode: false", "", "Server:",
             f" Containers: {data['Containers']}", f"  Running: {data['ContainersRunning']}", f"  Paused: {data['ContainersPaused']}",
             f"  Stopped: {data['ContainersStopped']}", f" Images: {data['Images']}", f" Server Version: {data['ServerVersion']}",
             f" Storage Driver: {data['Driver']}"]  # fmt: skip
    lines += [f"  {name}: {value}" for name, value in data["DriverStatus"]]
    lines += [f" Logging Driver: {data['LoggingDriver']}", f" Cgroup Driver: {data['CgroupDriver']}", f" Cgroup Version: {data['CgroupVersion']}",
              " Plugins:", f"  Volume: {' '.join(plugins.get('Volume') or [])}", f"  Network: {' '.join(plugins.get('Network') or [])}",
              f"  Log: {' '.join(plugins.get('Log') or [])}", f" Swarm: {(data.get('Swarm') or {}).get('LocalNodeState', 'inactive')}",
              f" Runtimes: {' '.join(data['Runtimes'])}", f" Default Runtime: {data['DefaultRuntime']}",
              f" Init Binary: {data['InitBinary'] or '(none: install tini for --init)'}", " Security Options:"]  # fmt: skip
    for option in data["SecurityOptions"]:
        parts = dict(part.partition("=")[::2] for part in option.split(","))
        lines.append(f"  {parts.pop('name')}")
        lines += [f"   {key.capitalize()}: {value}" for key, value in parts.items()]
    lines += [f" Kernel Version: {data['KernelVersion']}", f" Operating System: {data['OperatingSystem']}", f" OSType: {data['OSType']}",
              f" Architecture: {data['Architecture']}", f" CPUs: {data['NCPU']}", f" Total Memory: {binary_size(data['MemTotal'])}",
              f" Name: {data['Name']}", f" ID: {data['ID']}", f" Docker Root Dir: {data['DockerRootDir']}",
              f" Debug Mode: {_truth(data, 'Debug')}", f" Experimental: {_truth(data, 'ExperimentalBuild')}"]  # fmt: skip
    lines += [" Labels:", *(f"  {label}" for label in data["Labels"])] if data.get("Labels") else []
    registries = (data.get("RegistryConfig") or {}).get("InsecureRegistryCIDRs") or []
    lines += [" Insecure Registries:", *(f"  {network}" for network in registries)] if registries else []
    firewall = data.get("FirewallBackend") or {}
    lines += [f" Firewall Backend: {firewall['Driver']}", *(f"  {name}: {value}" for name, value in firewall.get("Info") or [])] if firewall else []
    return [*lines, f" Live Restore Enabled: {_truth(data, 'LiveRestoreEnabled')}"]


def _truth(data: "dict[str, Any]", key: str) -> str:
    return "true" if data.get(key) else "false"
