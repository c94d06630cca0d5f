"""Random profiles: the program agrees with the rules read one by one; hostile ones are refused by path."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from berth.errors import InvalidSpec
from berth.linux import seccomp, syscall_tables
from bpf import AUDIT_AARCH64, AUDIT_ARM, AUDIT_I386, AUDIT_X86_64, X32_BIT, run_classic

NAMES = ["read", "write", "personality", "clone", "ioctl", "futex", "openat2", "_llseek", "no_such_call", "removexattr"]
VALUES = st.one_of(st.sampled_from([0, 1, 2, 3, 1 << 32, 1 << 32 | 1, 2 << 32 | 3, (1 << 64) - 1]), st.integers(0, (1 << 64) - 1))
CONDITION = st.fixed_dictionaries(
    {"index": st.integers(0, 5), "op": st.sampled_from(seccomp.OPERATORS), "value": VALUES}, optional={"valueTwo": VALUES}
)
ACTION = st.sampled_from([name for name in seccomp.ACTIONS if name not in ("SCMP_ACT_NOTIFY", "SCMP_ACT_KILL_THREAD")])
RULE = st.fixed_dictionaries(
    {"names": st.lists(st.sampled_from(NAMES), min_size=1, max_size=4), "action": ACTION},
    optional={"args": st.lists(CONDITION, max_size=3)},
)
PROFILE = st.fixed_dictionaries(
    {"defaultAction": ACTION, "syscalls": st.lists(RULE, max_size=6)},
    optional={"architectures": st.lists(st.sampled_from(seccomp.ARCHITECTURES), max_size=6)},
)
ABIS = {
    "x86_64": ((AUDIT_X86_64, "X86_64", 0, 64), (AUDIT_I386, "X86", 0, 32), (AUDIT_X86_64, "X32", X32_BIT, 32)),
    "aarch64": ((AUDIT_AARCH64, "AARCH64", 0, 64), (AUDIT_ARM, "ARM", 0, 32)),
}
RANK = {"EQ": 0, "NE": 0, "MASKED_EQ": 1, "LT": 2, "LE": 2, "GE": 3, "GT": 3}


def value_of(name: str) -> int:
    return seccomp.ACTIONS[name] | (name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"))


def holds(condition: dict, arguments: list[int], mask: int) -> bool:
    have, value, two = arguments[condition["index"]] & mask, condition["value"] & mask, condition.get("valueTwo", 0) & mask
    return {
        "NE": have != value, "LT": have < value, "LE": have <= value, "EQ": have == value, "GE": have >= value, "GT": have > value,
        "MASKED_EQ": have & value == two & value,
    }[condition["op"].removeprefix("SCMP_CMP_")]  # fmt: skip


def precedence(conditions: list[dict], mask: int) -> list[tuple]:
    order = []
    for condition in sorted(conditions, key=lambda c: c["index"]):
        operator, value = condition["op"].removeprefix("SCMP_CMP_"), condition["value"] & mask
        datum = value & condition.get("valueTwo", 0) if operator == "MASKED_EQ" else value
        order.append((-condition["index"], RANK[operator], datum if RANK[operator] == 2 else -datum))
    return order


def reference(profile: dict, abi: str, bits: int, number: int, arguments: list[int]) -> int:
    table, mask, default = syscall_tables.numbers(abi), (1 << bits) - 1, value_of(profile["defaultAction"])
    listed = f"SCMP_ARCH_{abi}" in profile.get("architectures", ())
    if abi not in ("X86_64", "AARCH64") and not listed:
        return 0x80000000
    named = [table[name] for rule in profile["syscalls"] for name in rule["names"] if name in table]
    top = max([0, *named])
    if listed and (top or (abi == "X32" and named)) and number > top and profile["defaultAction"][9:] not in ("ALLOW", "LOG", "TRACE"):
        return 0x00050026
    chains = []
    for rule in profile["syscalls"]:
        action = value_of(rule["action"])
        if action == default or number not in [table.get(name) for name in rule["names"]]:
            continue
        args = rule.get("args", [])
        alone = len({c["index"] for c in args}) < len(args)
        for group in [[c] for c in args] if alone else [args]:
            chains.append(([c for c in group if c["op"] != "SCMP_CMP_MASKED_EQ" or c["value"] & mask], action))
    for conditions, action in chains:
        if not conditions:
            return action
    for conditions, action in sorted(chains, key=lambda chain: precedence(chain[0], mask)):
        if all(holds(c, arguments, mask) for c in conditions):
            return action
    return default


@settings(max_examples=300, deadline=None)
@given(PROFILE, st.lists(VALUES, min_size=6, max_size=6), st.sampled_from(sorted(ABIS)))
def test_the_program_decides_what_the_rules_say(profile: dict, arguments: list[int], machine: str) -> None:
    try:
        program = seccomp.compile_profile(profile, machine)
    except InvalidSpec as error:
        assert "an earlier rule has another action" in str(error)  # noqa: PT017 - most examples have no error
        return
    for arch, abi, bit, bits in ABIS[machine]:
        have = [a & 0xFFFFFFFF for a in arguments] if abi in ("X86", "ARM") else arguments
        table = syscall_tables.numbers(abi)
        for number in {*(table[name] for name in NAMES if name in table), 2, 300, 999}:
            expected = reference(profile, abi, bits, number, have)
            assert run_classic(program, arch, number | bit, *have) == expected, (abi, number)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(sorted(syscall_tables.numbers("X86_64"))), min_size=1, max_size=200, unique=True))
def test_far_targets_in_large_programs(names: list[str]) -> None:
    """Every name with a test of its own, so that jumps go beyond the 255 instructions a conditional one reaches."""
    rules = [
        {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": index}]}
        for index, name in enumerate(names)
    ]
    program = seccomp.compile_profile({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": rules}, "x86_64")
    table = syscall_tables.numbers("X86_64")
    for index, name in enumerate(names):
        assert run_classic(program, AUDIT_X86_64, table[name], index) == 0x7FFF0000
        assert run_classic(program, AUDIT_X86_64, table[name], index + 1) == 0x80000000


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(1 << 65), 1 << 65), st.floats(allow_nan=False), st.text(max_size=5),
        st.sampled_from([*seccomp.ACTIONS, *seccomp.FLAGS, *seccomp.OPERATORS, "SCMP_ARCH_X86", "read"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["index", "value", "valueTwo", "op", "names", "action", "args", "errnoRet"]), inner, max_size=6),
    ),
    max_leaves=20,
)  # fmt: skip
KEYS = ["defaultAction", "defaultErrnoRet", "architectures", "flags", "listenerPath", "listenerMetadata", "syscalls"]


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON), st.booleans())
def test_hostile_profiles_are_refused_by_path(wild: dict, with_default: bool) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", **wild} if with_default else wild
    json.dumps(profile)
    for step in (seccomp.filter_flags, lambda p: seccomp.compile_profile(p, "x86_64")):
        try:
            step(profile)
        except InvalidSpec as error:
            assert str(error).startswith("linux.seccomp")  # noqa: PT017 - most examples have no error
    seccomp.wants_listener(profile)


def test_huge_profiles_end_soon() -> None:
    condition = {"index": 0, "op": "SCMP_CMP_EQ"}
    every = sorted(syscall_tables.numbers("X86_64"))
    for rules in (
        [{"names": ["read"] * 1_000_000, "action": "SCMP_ACT_LOG"}],
        [{"names": every, "action": "SCMP_ACT_LOG", "args": [{**condition, "value": n}]} for n in range(40)],
        [{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [condition] * 4097}],
    ):
        try:
            seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}, "x86_64")
        except InvalidSpec as error:
            assert "4096" in str(error)  # noqa: PT017 - the first is no error
