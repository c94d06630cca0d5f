"""What this runtime knows and this host has: the features document. Source: OCI runtime specification, features.md."""

from berth import VERSION
from berth.linux import capabilities, confine, libc, mount, seccomp
from berth.runtime.plan import NAMESPACE_KINDS

SPEC_VERSION = "1.3.0"
_OLDEST = "1.0.0"
_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def describe() -> dict:
    """The document; arrays sorted as runc's are."""
    return {
        "ociVersionMin": _OLDEST,
        "ociVersionMax": SPEC_VERSION,
        "hooks": list(_HOOKS),
        "mountOptions": sorted(mount.option_names()),
        "linux": {
            "namespaces": sorted(NAMESPACE_KINDS),
            "capabilities": capabilities.names_of(capabilities.bounding_set()),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": {
                "enabled": True, "actions": sorted(seccomp.ACTIONS), "operators": list(seccomp.OPERATORS),
                "archs": sorted(seccomp.ARCHITECTURES), "knownFlags": sorted(seccomp.FLAGS), "supportedFlags": sorted(seccomp.FLAGS),
            },
            "apparmor": {"enabled": confine.apparmor_enabled()},
            "selinux": {"enabled": confine.selinux_enabled()},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {
            "io.berth.runtime.version": VERSION,
            "io.berth.runtime.checkpoint.enabled": "true",
            "io.berth.runtime.machine": libc.MACHINE,
        },
        "potentiallyUnsafeConfigAnnotations": ["org.systemd.property."],
    }  # fmt: skip
