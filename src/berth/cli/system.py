"""info and version."""

import os
import sys

from berth import API_VERSION, VERSION
from berth.cli.client import ApiError, NoEngine, fail
from berth.cli.command import parse_command
from berth.cli.flags import Flag, Syntax
from berth.cli.table import binary_size
from berth.models.jsonlite import dumps

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
        "Context": "default",
    }  # fmt: skip
    server, problem = None, ""
    try:
        server = call.client.json("GET", "/version")
    except (NoEngine, ApiError) as error:
        problem = str(error)
    if parsed.text("format"):
        _formatted(parsed.text("format"), {"Client": client, "Server": server})
    else:
        print(f"Client:\n Version:           {VERSION}\n API version:       {API_VERSION}\n"
              f" Python version:    {sys.version.split()[0]}\n OS/Arch:           linux/{machine}")  # fmt: skip
        if server:
            print(f"\nServer:\n Engine:\n  Version:          {server['Version']}\n"
                  f"  API version:      {server['ApiVersion']} (minimum version {server['MinAPIVersion']})\n"
                  f"  Python version:   {server['GoVersion'].removeprefix('python')}\n"
                  f"  OS/Arch:          {server['Os']}/{server['Arch']}\n  Kernel:           {server['KernelVersion']}")  # fmt: skip
    if problem:
        sys.stdout.flush()
        fail(problem)
        return 1
    return 0


def _formatted(format_: str, value: "Any") -> None:
    if format_ == "json":
        print(dumps(value))
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
    lines = ["Client:", f" Version:    {VERSION}", " Context:    default", "", "Server:",
             f" Containers: {data['Containers']}", f"  Running: {data['ContainersRunning']}",
             f"  Paused: {data['ContainersPaused']}", f"  Stopped: {data['ContainersStopped']}", f" Images: {data['Images']}",
             f" Server Version: {data['ServerVersion']}", f" Storage Driver: {data['Driver']}"]  # fmt: skip
    lines += [f"  {name}: {value}" for name, value in data["DriverStatus"]]
    lines += [f" Logging Driver: {data['LoggingDriver']}", f" Cgroup Driver: {data['CgroupDriver']}",
              f" Cgroup Version: {data['CgroupVersion']}", " Plugins:",
              f"  Network: {' '.join(data['Plugins']['Network'])}", f"  Log: {' '.join(data['Plugins']['Log'])}",
              f" Runtimes: {' '.join(data['Runtimes'])}", f" Default Runtime: {data['DefaultRuntime']}",
              f" Init Binary: {data['InitBinary'] or '(none: install tini for --init)'}", " Security Options:"]  # fmt: skip
    for option in data["SecurityOptions"]:
        parts = dict(part.partition("=")[::2] for part in option.split(","))
        lines.append(f"  {parts.pop('name')}")
        lines += [f"   {key.capitalize()}: {value}" for key, value in parts.items()]
    lines += [f" Kernel Version: {data['KernelVersion']}", f" Operating System: {data['OperatingSystem']}",
              f" OSType: {data['OSType']}", f" Architecture: {data['Architecture']}", f" CPUs: {data['NCPU']}",
              f" Total Memory: {binary_size(data['MemTotal'])}", f" Name: {data['Name']}", f" ID: {data['ID']}",
              f" Docker Root Dir: {data['DockerRootDir']}", f" Live Restore Enabled: {str(data['LiveRestoreEnabled']).lower()}",
              " Default network: none (bridge networks come in a later version)"]  # fmt: skip
    print("\n".join(lines), flush=True)
    for warning in data["Warnings"] or []:
        fail(warning)
    return 0
