"""Profiles as berth compiles them and as libseccomp does in runc's hands, held against each other.

Known differences, each on purpose and stated below: a foreign architecture kills the process and not
the thread alone; berth knows calls that the library is too old for. Ranges (LT, LE, GT, GE) on one
argument in several rules are left out: the library (2.5.4) merges them to wrong answers now and then.
"""

import random

import pytest

from berth.engine.seccomp_default import default_profile
from berth.linux import seccomp, syscall_tables
from bpf import AUDIT_AARCH64, AUDIT_I386, AUDIT_X86_64, X32_BIT, run_classic
from libseccomp import OPERATORS, TOKENS, Filter, Refused, load

LIBRARY = load()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libseccomp.so.2 is not installed")

KILL_PROCESS = 0x80000000
ABIS = ((AUDIT_X86_64, "X86_64", 0), (AUDIT_I386, "X86", 0), (AUDIT_X86_64, "X32", X32_BIT))
FAMILY = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
NAMES = [
    "read", "write", "mmap", "personality", "clone", "ioctl", "recvfrom", "rt_sigaction", "socket", "semctl", "send", "futex",
    "listen", "openat2", "socketcall", "ipc", "waitpid", "_llseek",
]  # fmt: skip
VALUES = (0, 1, 2, 3, 1 << 32, 1 << 32 | 1, 2 << 32 | 3, (1 << 64) - 1)


def test_the_default_profile_decides_the_same() -> None:
    assert LIBRARY is not None
    profile = default_profile("x86_64", frozenset())
    theirs, ours = Filter(LIBRARY, profile), seccomp.compile_profile(profile, "x86_64")
    assert len(ours) < len(theirs.program)
    for arch, name, bit in ABIS:
        known = {
            number
            for call, number in syscall_tables.numbers(name).items()
            if LIBRARY.seccomp_syscall_resolve_name_arch(TOKENS[f"SCMP_ARCH_{name}"], call.encode()) == number | bit
        }
        newest = max(theirs.last[f"SCMP_ARCH_{name}"] & ~X32_BIT, 0)
        for number in known:
            if number > newest:
                continue
            for value in (0, 8, 40, 0x10000000, 0xFFFFFFFF, 1 << 32):
                arguments = [value & 0xFFFFFFFF if name == "X86" else value] * 6
                got, expected = run_classic(ours, arch, number | bit, *arguments), theirs.decide(arch, number | bit, *arguments)
                assert got == expected, (name, number, hex(value))


def profiles(seed: int, operators: tuple[str, ...], most_rules: int) -> dict:
    source = random.Random(seed)
    actions = ["SCMP_ACT_ALLOW", "SCMP_ACT_TRAP", "SCMP_ACT_LOG", "SCMP_ACT_ERRNO", "SCMP_ACT_TRACE", "SCMP_ACT_KILL_PROCESS"]
    rules = []
    for _ in range(source.randint(1, most_rules)):
        args = [
            {"index": index, "op": source.choice(operators), "value": source.choice(VALUES), "valueTwo": source.choice(VALUES)}
            for index in source.sample(range(4), source.choice([0, 1, 1, 2, 3]))
        ]
        args += args[:1] if source.random() < 0.1 else []
        rules.append({"names": source.sample(NAMES, source.randint(1, 4)), "action": source.choice(actions), "args": args})
    # The library resolves i386's socket calls to numbers below zero, so what is newest is named by another.
    rules.append({"names": ["faccessat2"], "action": "SCMP_ACT_LOG"})
    return {
        "defaultAction": source.choice(actions), "architectures": source.sample(FAMILY, source.randint(0, 3)), "syscalls": rules,
    }  # fmt: skip


def differences(profile: dict, source: random.Random) -> list[tuple]:
    assert LIBRARY is not None
    try:
        theirs = Filter(LIBRARY, profile)
    except Refused:
        return []  # stricter than berth about contradictions that can never matter
    ours = seccomp.compile_profile(profile, "x86_64")
    found = []
    for arch, abi, bit in ABIS:
        table = syscall_tables.numbers(abi)
        for number in [*(table[name] | bit for name in NAMES if name in table), 440 | bit, 447 | bit, 0xFFFFFFFF]:
            for _ in range(6):
                arguments = [source.choice(VALUES) & (0xFFFFFFFF if abi == "X86" else -1) for _ in range(6)]
                got, expected = run_classic(ours, arch, number, *arguments), theirs.decide(arch, number, *arguments)
                if got != expected and (got, expected) != (KILL_PROCESS, 0):
                    found.append((abi, number, arguments, hex(expected), hex(got), profile))
    assert run_classic(ours, AUDIT_AARCH64, 0) == KILL_PROCESS
    assert run_classic(theirs.program, AUDIT_AARCH64, 0) == 0
    return found


@pytest.mark.parametrize("seed", range(60))
def test_one_rule_of_any_comparison_decides_the_same(seed: int) -> None:
    assert not differences(profiles(seed, OPERATORS, 1), random.Random(seed))


@pytest.mark.parametrize("seed", range(100, 160))
def test_many_rules_of_equality_decide_the_same(seed: int) -> None:
    assert not differences(profiles(seed, ("SCMP_CMP_EQ", "SCMP_CMP_NE"), 3), random.Random(seed))
