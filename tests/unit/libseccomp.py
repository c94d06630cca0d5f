"""The library that runc and crun compile profiles with, driven the way runc drives it: the second tool of the tests.

It follows what runc documents by its code (libcontainer/seccomp, libcontainer/seccomp/patchbpf): which
rules are left out, when the conditions of one rule become several, and which numbers get ENOSYS.
"""

import ctypes
import os

from bpf import AUDIT_X86_64, X32_BIT, run_classic

TOKENS = {
    "SCMP_ARCH_X86_64": 0xC000003E, "SCMP_ARCH_X86": 0x40000003, "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_AARCH64": 0xC00000B7, "SCMP_ARCH_ARM": 0x40000028,
}  # fmt: skip
ACTIONS = {
    "SCMP_ACT_KILL": 0, "SCMP_ACT_KILL_THREAD": 0, "SCMP_ACT_KILL_PROCESS": 0x80000000, "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000, "SCMP_ACT_NOTIFY": 0x7FC00000, "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_ALLOW": 0x7FFF0000,
}  # fmt: skip
OPERATORS = ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ")
ENOSYS = 0x00050026
_EEXIST, _OPTIMIZE, _BINARY_TREE, _RULES_FOR_A_TREE = -17, 8, 2, 32


class _Condition(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


class Refused(Exception):
    """The library does not take the profile: two rules that contradict each other."""


def load() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p,
    ]  # fmt: skip
    library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    return library


def action(name: str, errno_ret: int | None) -> int:
    data = 1 if errno_ret is None else errno_ret
    return ACTIONS[name] | (data if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE") else 0)


class Filter:
    """A profile as runc and libseccomp compile it; `decide` runs it."""

    def __init__(self, library: ctypes.CDLL, profile: dict) -> None:
        self.last: dict[str, int] = {}
        default = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
        context = library.seccomp_init(default)
        assert context
        try:
            self._fill(library, context, profile, default)
            read, write = os.pipe()
            with open(read, "rb") as file:
                assert library.seccomp_export_bpf(context, write) == 0  # fits in a pipe
                os.close(write)
                self.program = file.read()
        finally:
            library.seccomp_release(context)
        if profile["defaultAction"] in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"):
            return
        for arch in profile.get("architectures") or ():
            numbers = [
                library.seccomp_syscall_resolve_name_arch(TOKENS[arch], name.encode())
                for rule in profile.get("syscalls") or () for name in rule["names"]
            ]  # fmt: skip
            if largest := max([0, *numbers]):
                self.last[arch] = largest

    @staticmethod
    def _fill(library: ctypes.CDLL, context: int, profile: dict, default: int) -> None:
        for arch in profile.get("architectures") or ():
            assert library.seccomp_arch_add(context, TOKENS[arch]) in (0, _EEXIST)
        rules = [(name, rule) for rule in profile.get("syscalls") or () for name in rule["names"]]
        if len(rules) > _RULES_FOR_A_TREE:
            library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE)
        for name, rule in rules:
            value = action(rule["action"], rule.get("errnoRet"))
            number = library.seccomp_syscall_resolve_name(name.encode())
            if value == default or number == -1:
                continue
            conditions = [
                _Condition(a["index"], OPERATORS.index(a["op"]) + 1, a.get("value", 0), a.get("valueTwo", 0))
                for a in rule.get("args") or ()
            ]
            alone = len({c.arg for c in conditions}) != len(conditions)
            for group in [[c] for c in conditions] if alone else [conditions]:
                array = (_Condition * len(group))(*group)
                result = library.seccomp_rule_add_array(context, value, number, len(group), array)
                if result == _EEXIST:
                    raise Refused(name)
                assert result == 0, (name, result)

    def decide(self, arch: int, number: int, *arguments: int) -> int:
        name = {v: k for k, v in TOKENS.items()}[arch]
        if arch == AUDIT_X86_64 and number & X32_BIT:
            name = "SCMP_ARCH_X32"
        if name in self.last and number > self.last[name]:
            return ENOSYS
        return run_classic(self.program, arch, number, *arguments)
