"""What all execs of one run of a container have in common: from its config.json, which is read once."""

import json

from berth.runtime.container import seccomp_path
from berth.runtime.plan import CLONE_FLAGS


class ExecBase:
    """Of the run that began at started_ns. process: the first program's, as in the specification.

    namespaces: flags of those it has of its own, or shares with another container. seccomp_path: where the container's compiled filter is, '' for none. The profile is left out: it is most of the
    specification, and would be most of what is sent for each exec, and of what the engine keeps. probe: the message for
    a health check's exec, of which there are many and all the same; b'' until there has been one.
    """

    __slots__ = ("annotations", "cgroup_path", "namespaces", "probe", "process", "seccomp_path", "started_ns", "uid_mappings")

    def __init__(self, directory: str, seccomp_cache: str, started_ns: int) -> None:
        """directory: of the container's bundle. Raises OSError."""
        with open(f"{directory}/config.json") as file:
            specification = json.load(file)
        linux = specification["linux"]
        self.started_ns = started_ns
        self.probe = b""
        self.process: dict = specification["process"]
        self.annotations: dict[str, str] = specification.get("annotations") or {}
        self.cgroup_path: str = linux["cgroupsPath"]
        self.namespaces = sum(CLONE_FLAGS[entry["type"]] for entry in linux.get("namespaces") or ())
        self.uid_mappings: list[dict] = linux.get("uidMappings") or []
        self.seccomp_path = seccomp_path(linux["seccomp"], seccomp_cache) if linux.get("seccomp") else ""
