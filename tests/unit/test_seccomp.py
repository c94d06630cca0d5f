"""Seccomp profiles are compiled, then run by an interpreter: what counts is what the kernel would decide."""

import struct

import pytest

from berth.engine.seccomp_default import default_profile
from berth.errors import InvalidSpec
from berth.linux import seccomp, syscall_tables
from bpf import AUDIT_AARCH64, AUDIT_ARM, AUDIT_I386, AUDIT_X86_64, X32_BIT, run_classic

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
X86_64, X86, X32, AARCH64, ARM = (syscall_tables.numbers(arch) for arch in ("X86_64", "X86", "X32", "AARCH64", "ARM"))
USUAL = frozenset({"CAP_CHOWN", "CAP_SYS_CHROOT"})


def compiled(machine: str = "x86_64", capabilities: frozenset[str] = USUAL) -> bytes:
    return seccomp.compile_profile(default_profile(machine, capabilities), machine)


def one_rule(operator: str, value: int, two: int | None = None, index: int = 0) -> bytes:
    argument = {"index": index, "value": value, "op": operator, **({} if two is None else {"valueTwo": two})}
    rule = {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [argument]}
    return seccomp.compile_profile({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}, "x86_64")


@pytest.mark.parametrize(
    ("name", "decision"),
    [
        ("read", ALLOW), ("openat", ALLOW), ("execve", ALLOW), ("futex", ALLOW), ("landlock_create_ruleset", ALLOW),
        ("chroot", ALLOW),  # by its capability
        ("mount", EPERM), ("unshare", EPERM), ("setns", EPERM), ("bpf", EPERM), ("init_module", EPERM), ("reboot", EPERM),
        ("keyctl", EPERM), ("add_key", EPERM), ("io_uring_setup", EPERM), ("kexec_load", EPERM), ("userfaultfd", EPERM),
        ("perf_event_open", EPERM), ("settimeofday", EPERM), ("open_by_handle_at", EPERM), ("iopl", EPERM),
        ("swapon", EPERM), ("pivot_root", EPERM), ("syslog", EPERM), ("clone3", ENOSYS),
    ],
)  # fmt: skip
def test_default_profile_on_x86_64(name: str, decision: int) -> None:
    assert run_classic(compiled(), AUDIT_X86_64, X86_64[name]) == decision


@pytest.mark.parametrize(
    ("capability", "names"),
    [
        ("CAP_SYS_ADMIN", ("mount", "unshare", "setns", "clone3", "bpf", "sethostname")), ("CAP_SYS_MODULE", ("init_module",)),
        ("CAP_BPF", ("bpf",)), ("CAP_SYS_TIME", ("settimeofday",)), ("CAP_SYSLOG", ("syslog",)), ("CAP_SYS_BOOT", ("reboot",)),
    ],
)  # fmt: skip
def test_a_capability_opens_its_calls(capability: str, names: tuple[str, ...]) -> None:
    with_it, without = compiled(capabilities=USUAL | {capability}), compiled()
    for name in names:
        assert run_classic(with_it, AUDIT_X86_64, X86_64[name]) == ALLOW
        assert run_classic(without, AUDIT_X86_64, X86_64[name]) != ALLOW


@pytest.mark.parametrize(
    ("flags", "decision"),
    [
        (0x11, ALLOW),  # SIGCHLD, a fork
        (0x3D0F00, ALLOW),  # a thread of glibc
        (0x10000000, EPERM), (0x00020000, EPERM), (0x02000000, EPERM), (0x04000000, EPERM), (0x08000000, EPERM),
        (0x20000000 | 0x11, EPERM), (0x40000000, EPERM), (0x7E020000 | 0x11, EPERM),
        (1 << 40 | 0x11, ALLOW),
    ],
)  # fmt: skip
def test_clone_makes_no_namespace(flags: int, decision: int) -> None:
    assert run_classic(compiled(), AUDIT_X86_64, X86_64["clone"], flags) == decision
    assert run_classic(compiled("aarch64"), AUDIT_AARCH64, AARCH64["clone"], flags) == decision
    assert run_classic(compiled(capabilities=frozenset({"CAP_SYS_ADMIN"})), AUDIT_X86_64, X86_64["clone"], flags) == ALLOW


@pytest.mark.parametrize(
    ("persona", "decision"),
    [(0, ALLOW), (8, ALLOW), (0x20000, ALLOW), (0x20008, ALLOW), (0xFFFFFFFF, ALLOW), (0x0040000, EPERM), (1, EPERM), (1 << 32, EPERM)],
)
def test_personality_cannot_switch_off_randomization(persona: int, decision: int) -> None:
    assert run_classic(compiled(), AUDIT_X86_64, X86_64["personality"], persona) == decision


def test_vsock_is_not_reached() -> None:
    for family in range(50):
        decision = EPERM if family == 40 else ALLOW
        assert run_classic(compiled(), AUDIT_X86_64, X86_64["socket"], family, 1, 0) == decision
        assert run_classic(compiled(), AUDIT_I386, X86["socket"], family, 1, 0) == decision


def test_other_architectures_of_the_machine_have_their_own_numbers() -> None:
    program = compiled()
    assert X86["mount"] == 21  # which is access on x86_64
    assert run_classic(program, AUDIT_I386, 21) == EPERM
    assert run_classic(program, AUDIT_X86_64, 21) == ALLOW
    x32 = {name: number | X32_BIT for name, number in X32.items()}
    assert run_classic(program, AUDIT_X86_64, x32["read"]) == ALLOW
    assert run_classic(program, AUDIT_X86_64, x32["mount"]) == EPERM
    assert run_classic(program, AUDIT_X86_64, x32["personality"], 0x0040000) == EPERM
    arm = compiled("aarch64")
    assert run_classic(arm, AUDIT_AARCH64, AARCH64["read"]) == ALLOW
    assert run_classic(arm, AUDIT_AARCH64, AARCH64["mount"]) == EPERM
    assert run_classic(arm, AUDIT_ARM, ARM["read"]) == ALLOW
    assert run_classic(arm, AUDIT_ARM, ARM["mount"]) == EPERM


def test_unknown_architectures_are_killed() -> None:
    for arch in (0, AUDIT_AARCH64, AUDIT_ARM, 0x80000016, 0xC00000F3):
        assert run_classic(compiled(), arch, 0) == KILL
    assert run_classic(compiled("aarch64"), AUDIT_X86_64, 0) == KILL


def test_architectures_that_are_not_listed_are_killed() -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": []}
    program = seccomp.compile_profile(profile, "x86_64")
    assert run_classic(program, AUDIT_X86_64, 0) == ALLOW
    assert run_classic(program, AUDIT_X86_64, X32_BIT) == KILL
    assert run_classic(program, AUDIT_I386, 0) == KILL


def test_calls_above_all_that_the_profile_names_do_not_exist() -> None:
    for machine, arch, table, bit in (
        ("x86_64", AUDIT_X86_64, X86_64, 0), ("x86_64", AUDIT_I386, X86, 0),
        ("x86_64", AUDIT_X86_64, X32, X32_BIT), ("aarch64", AUDIT_AARCH64, AARCH64, 0), ("aarch64", AUDIT_ARM, ARM, 0),
    ):  # fmt: skip
        named = {name for rule in default_profile(machine, USUAL)["syscalls"] for name in rule["names"]}
        top = max(number for name, number in table.items() if name in named)
        assert run_classic(compiled(machine), arch, bit | top + 1) == ENOSYS
        assert run_classic(compiled(machine), arch, bit | 0x0FFFFFFF) == ENOSYS
        assert run_classic(compiled(machine), arch, bit | top) in (ALLOW, EPERM)


@pytest.mark.parametrize(
    ("default", "above"),
    [
        ("SCMP_ACT_ERRNO", ENOSYS), ("SCMP_ACT_KILL", ENOSYS), ("SCMP_ACT_KILL_PROCESS", ENOSYS), ("SCMP_ACT_TRAP", ENOSYS),
        ("SCMP_ACT_ALLOW", ALLOW), ("SCMP_ACT_LOG", 0x7FFC0000), ("SCMP_ACT_TRACE", 0x7FF00001),
    ],
)  # fmt: skip
def test_enosys_is_for_defaults_that_deny(default: str, above: int) -> None:
    rules = [{"names": ["read", "futex"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7}]
    profile = {"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules}
    program = seccomp.compile_profile(profile, "x86_64")
    assert run_classic(program, AUDIT_X86_64, X86_64["futex"]) == 0x00050007
    assert run_classic(program, AUDIT_X86_64, X86_64["futex"] + 1) == above
    without = seccomp.compile_profile({**profile, "architectures": []}, "x86_64")  # as runc: only for those listed
    assert run_classic(without, AUDIT_X86_64, 5000) == run_classic(without, AUDIT_X86_64, X86_64["futex"] - 1)


def test_a_default_that_is_not_eperm_stays_for_unknown_calls() -> None:
    program = seccomp.compile_profile({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13}, "x86_64")
    assert run_classic(program, AUDIT_X86_64, 5000) == 0x0005000D


@pytest.mark.parametrize(
    ("machine", "arch", "table"),
    [("x86_64", AUDIT_X86_64, X86_64), ("x86_64", AUDIT_I386, X86), ("aarch64", AUDIT_AARCH64, AARCH64)],
)
def test_every_call_without_conditions_gets_what_the_profile_says(machine: str, arch: int, table: dict[str, int]) -> None:
    profile, program = default_profile(machine, USUAL), compiled(machine)
    plain = {n for r in profile["syscalls"] if "args" not in r and r["action"] == "SCMP_ACT_ALLOW" for n in r["names"]}
    special = {"clone", "clone3", "socket", "personality"}
    top = max(table[name] for name in plain & table.keys())
    for name, number in table.items():
        if name not in special:
            denied = ENOSYS if number > top else EPERM
            assert run_classic(program, arch, number) == (ALLOW if name in plain else denied), name


BIG = 0x1_0000_0002
CASES = [
    ("SCMP_CMP_EQ", lambda a, v: a == v), ("SCMP_CMP_NE", lambda a, v: a != v), ("SCMP_CMP_LT", lambda a, v: a < v),
    ("SCMP_CMP_LE", lambda a, v: a <= v), ("SCMP_CMP_GT", lambda a, v: a > v), ("SCMP_CMP_GE", lambda a, v: a >= v),
]  # fmt: skip
EDGES = (0, 1, 2, 3, 0xFFFFFFFF, 1 << 32, BIG - 1, BIG, BIG + 1, 0x2_0000_0001, (1 << 64) - 1)


@pytest.mark.parametrize(("operator", "model"), CASES, ids=lambda case: case if isinstance(case, str) else "")
@pytest.mark.parametrize("value", EDGES)
def test_comparisons_of_64_bits(operator: str, model, value: int) -> None:
    for index in (0, 5):
        program = one_rule(operator, value, index=index)
        for argument in EDGES:
            arguments = [7] * index + [argument]
            got = run_classic(program, AUDIT_X86_64, X86_64["personality"], *arguments)
            assert got == (ALLOW if model(argument, value) else EPERM), (operator, value, argument)


@pytest.mark.parametrize("want", [0, 2, BIG, 1 << 63])
def test_masked_comparison(want: int) -> None:
    mask = BIG | 1 << 63
    program = one_rule("SCMP_CMP_MASKED_EQ", mask, want)
    for argument in EDGES:
        expected = ALLOW if argument & mask == want else EPERM
        assert run_classic(program, AUDIT_X86_64, X86_64["personality"], argument) == expected


def test_bits_outside_the_mask_do_not_count() -> None:
    program = one_rule("SCMP_CMP_MASKED_EQ", 0xF0, 0xFF)
    assert run_classic(program, AUDIT_X86_64, X86_64["personality"], 0xF3) == ALLOW


def test_all_conditions_must_hold_unless_they_are_of_one_argument() -> None:
    def profile(*conditions: tuple[int, int]) -> bytes:
        args = [{"index": i, "value": v, "op": "SCMP_CMP_EQ"} for i, v in conditions]
        rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args}
        return seccomp.compile_profile({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [rule]}, "x86_64")

    both = profile((0, 1), (1, 2))
    assert run_classic(both, AUDIT_X86_64, 0, 1, 2) == ALLOW
    assert run_classic(both, AUDIT_X86_64, 0, 1, 3) == KILL
    assert run_classic(both, AUDIT_X86_64, 0, 2, 2) == KILL
    either = profile((0, 1), (0, 2))
    assert [run_classic(either, AUDIT_X86_64, 0, n) == ALLOW for n in (0, 1, 2, 3)] == [False, True, True, False]


def rule(action: str, *conditions: tuple, names: tuple[str, ...] = ("read",)) -> dict:
    """conditions: (index, operator without its prefix, value[, valueTwo])"""
    args = [{"index": c[0], "op": f"SCMP_CMP_{c[1]}", "value": c[2], "valueTwo": c[3] if len(c) > 3 else 0} for c in conditions]
    return {"names": list(names), "action": f"SCMP_ACT_{action}", "args": args}


LOG, TRAP = 0x7FFC0000, 0x00030000


def test_a_rule_without_conditions_decides_alone() -> None:
    for rules in ([rule("TRAP", (0, "GE", 3)), rule("LOG"), rule("ALLOW")], [rule("LOG"), rule("TRAP", (0, "GE", 3))]):
        program = seccomp.compile_profile({"defaultAction": "SCMP_ACT_KILL", "syscalls": rules}, "x86_64")
        assert [run_classic(program, AUDIT_X86_64, 0, n) for n in (2, 3)] == [LOG, LOG]
    # One with the default's action is none at all.
    rules = [rule("TRAP", (0, "GE", 3)), rule("ALLOW")]
    program = seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}, "x86_64")
    assert [run_classic(program, AUDIT_X86_64, 0, n) for n in (2, 3)] == [ALLOW, TRAP]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((2, "LT", 9), (1, "EQ", 3)), ((0, "EQ", 3), (0, "MASKED_EQ", 3, 3)), ((0, "MASKED_EQ", 3, 3), (0, "LE", 3)),
        ((0, "LE", 3), (0, "LT", 9)), ((0, "LT", 9), (0, "GE", 1)), ((0, "GE", 3), (0, "GT", 1)), ((0, "NE", 9), (0, "NE", 8)),
    ],
)  # fmt: skip
def test_the_narrower_of_two_rules_goes_first_wherever_it_stands(first: tuple, second: tuple) -> None:
    for rules in ([rule("LOG", first), rule("TRAP", second)], [rule("TRAP", second), rule("LOG", first)]):
        program = seccomp.compile_profile({"defaultAction": "SCMP_ACT_KILL", "syscalls": rules}, "x86_64")
        assert run_classic(program, AUDIT_X86_64, 0, 3, 3, 3) == LOG


def test_of_rules_that_are_as_narrow_the_first_counts() -> None:
    for one, other in (((0, "MASKED_EQ", 1, 0), (0, "MASKED_EQ", 2, 0)), ((0, "GE", 2), (0, "GT", 2)), ((0, "LE", 9), (0, "LT", 9))):
        for first, second in ((one, other), (other, one)):
            rules = [rule("LOG", first), rule("TRAP", second)]
            program = seccomp.compile_profile({"defaultAction": "SCMP_ACT_KILL", "syscalls": rules}, "x86_64")
            assert run_classic(program, AUDIT_X86_64, 0, 4) == LOG


def test_two_actions_for_one_condition_are_a_contradiction() -> None:
    rules = [rule("LOG", (0, "EQ", 3)), rule("TRAP", (0, "EQ", 3))]
    with pytest.raises(InvalidSpec, match=r"linux\.seccomp\.syscalls\[1\]\.args: an earlier rule has another action"):
        seccomp.compile_profile({"defaultAction": "SCMP_ACT_KILL", "syscalls": rules}, "x86_64")


def test_socketcall_and_ipc_follow_the_calls_they_stand_for() -> None:
    rules = [rule("ALLOW", names=("socket", "shmget")), rule("ALLOW", (2, "EQ", 7), names=("msgctl",))]
    profile = {"defaultAction": "SCMP_ACT_KILL_PROCESS", "architectures": ["SCMP_ARCH_X86"], "syscalls": rules}
    program = seccomp.compile_profile(profile, "x86_64")
    for call, arguments, decision in (
        ("socketcall", (1,), ALLOW), ("socketcall", (2,), KILL), ("ipc", (23,), ALLOW), ("ipc", (14, 0, 7), ALLOW),
        ("ipc", (14, 0, 8), KILL), ("socket", (), ALLOW),
    ):  # fmt: skip
        assert run_classic(program, AUDIT_I386, X86[call], *arguments) == decision, (call, arguments)


def test_a_call_that_a_tracer_skips_is_not_killed() -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"]}
    assert run_classic(seccomp.compile_profile(profile, "x86_64"), AUDIT_X86_64, 0xFFFFFFFF) == ALLOW


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ({"action": "SCMP_ACT_KILL"}, 0), ({"action": "SCMP_ACT_KILL_THREAD"}, 0), ({"action": "SCMP_ACT_KILL_PROCESS"}, KILL),
        ({"action": "SCMP_ACT_TRAP"}, TRAP), ({"action": "SCMP_ACT_ERRNO"}, EPERM),
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 0}, 0x00050000), ({"action": "SCMP_ACT_ERRNO", "errnoRet": 4095}, 0x00050FFF),
        ({"action": "SCMP_ACT_TRACE"}, 0x7FF00001), ({"action": "SCMP_ACT_TRACE", "errnoRet": 65535}, 0x7FF0FFFF),
        ({"action": "SCMP_ACT_LOG"}, LOG), ({"action": "SCMP_ACT_NOTIFY"}, 0x7FC00000), ({"action": "SCMP_ACT_ALLOW"}, ALLOW),
    ],
)  # fmt: skip
def test_every_action(given: dict, result: int) -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 99, "listenerPath": "/run/agent.sock"}
    program = seccomp.compile_profile({**profile, "syscalls": [{"names": ["mkdir"], **given}]}, "x86_64")
    assert run_classic(program, AUDIT_X86_64, X86_64["mkdir"]) == result
    assert run_classic(program, AUDIT_X86_64, X86_64["rmdir"]) == 0x00050063
    if given["action"] != "SCMP_ACT_NOTIFY":
        errno_ret = {"defaultErrnoRet": given["errnoRet"]} if "errnoRet" in given else {}
        program = seccomp.compile_profile({"defaultAction": given["action"], **errno_ret}, "x86_64")
        assert run_classic(program, AUDIT_X86_64, X86_64["mkdir"]) == result


def test_architectures_of_other_machines_are_ignored() -> None:
    listed = [*seccomp.ARCHITECTURES]
    for machine, arch, other in (("x86_64", AUDIT_X86_64, AUDIT_AARCH64), ("aarch64", AUDIT_AARCH64, AUDIT_I386)):
        program = seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "architectures": listed}, machine)
        assert run_classic(program, arch, 0) == ALLOW
        assert run_classic(program, other, 0) == KILL


def test_far_jumps_over_many_conditions() -> None:
    rules = [
        {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": n, "args": [{"index": 0, "value": n, "op": "SCMP_CMP_EQ"}]}
        for n in range(200)
    ]
    program = seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}, "x86_64")
    for n in (0, 1, 100, 199):
        assert run_classic(program, AUDIT_X86_64, X86_64["personality"], n) == 0x00050000 | n
    assert run_classic(program, AUDIT_X86_64, X86_64["personality"], 200) == ALLOW
    assert run_classic(program, AUDIT_X86_64, X86_64["personality"] + 1) == ALLOW


def test_a_program_the_kernel_would_refuse_is_an_error() -> None:
    rules = [
        {"names": ["personality"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": n, "op": "SCMP_CMP_EQ"}]}
        for n in range(1100)
    ]
    with pytest.raises(InvalidSpec, match=r"the kernel takes 4096"):
        seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}, "x86_64")


def test_jumps_stay_inside_and_every_way_returns() -> None:
    for machine in ("x86_64", "aarch64"):
        code = list(struct.iter_unpack("=HBBI", compiled(machine)))
        assert code[-1][0] == 0x06
        for at, (operation, if_true, if_false, k) in enumerate(code):
            reach = k if operation == 0x05 else max(if_true, if_false)
            assert at + 1 + reach < len(code) or operation == 0x06


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({}, r"linux\.seccomp\.defaultAction: None is not a seccomp action"),
        ({"defaultAction": "SCMP_ACT_NO"}, r"linux\.seccomp\.defaultAction: 'SCMP_ACT_NO'"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000}, r"linux\.seccomp\.defaultAction: defaultErrnoRet 70000"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}, r"defaultErrnoRet 4096 is not a number from 0 to 4095"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": True}, r"defaultErrnoRet True"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}, r"defaultAction: defaultErrnoRet 1 is given, and SCMP_ACT_ALLOW"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, r"linux\.seccomp\.defaultAction: SCMP_ACT_NOTIFY would hold"),
        ({"defaultAction": ["SCMP_ACT_ALLOW"]}, r"linux\.seccomp\.defaultAction: \['SCMP_ACT_ALLOW'\] is not"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "x86"]}, r"architectures\[1\]: 'x86' is not"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}, r"architectures\[0\]: 'SCMP_ARCH_Z80' is not"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": "SCMP_ARCH_X86"}, r"architectures: expected a list"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}, r"linux\.seccomp\.syscalls: expected a list, got {}"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": 3}, r"linux\.seccomp\.listenerPath: expected a string, got 3"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}, r"linux\.seccomp\.listenerMetadata: .* listenerPath is not set"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": ["read"]}, r"linux\.seccomp\.syscalls\[0\]: expected an object"),
    ],
)
def test_mistakes_are_named_by_path(profile: dict, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        seccomp.compile_profile(profile, "x86_64")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"index": 6, "op": "SCMP_CMP_EQ"}, r"syscalls\[1\]\.args\[0\]\.index: 6"),
        ({"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}, r"syscalls\[1\]\.args\[0\]\.value: -1"),
        ({"index": 0, "value": 1 << 64, "op": "SCMP_CMP_EQ"}, r"args\[0\]\.value"),
        ({"index": 0, "value": 1, "valueTwo": -1, "op": "SCMP_CMP_MASKED_EQ"}, r"args\[0\]\.valueTwo: -1"),
        ({"index": 0, "value": 1, "valueTwo": "1", "op": "SCMP_CMP_MASKED_EQ"}, r"args\[0\]\.valueTwo: '1'"),
        ({"index": 0, "value": 1, "op": "SCMP_CMP_XX"}, r"args\[0\]\.op: 'SCMP_CMP_XX'"),
    ],
)
def test_wrong_arguments_are_named_by_path(argument: dict, message: str) -> None:
    rules = [{"names": ["write"], "action": "SCMP_ACT_KILL"}, {"names": ["read"], "action": "SCMP_ACT_KILL", "args": [argument]}]
    with pytest.raises(InvalidSpec, match=message):
        seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}, "x86_64")


def test_machines_without_a_table_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="riscv64"):
        seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW"}, "riscv64")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"action": "SCMP_ACT_KILL", "errnoRet": 1}, r"syscalls\[0\]\.action: errnoRet 1 is given, and SCMP_ACT_KILL takes none"),
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": -1}, r"syscalls\[0\]\.action: errnoRet -1"),
        ({"action": "SCMP_ACT_TRACE", "errnoRet": 65536}, r"syscalls\[0\]\.action: errnoRet 65536"),
        ({"action": "SCMP_ACT_LOG", "names": []}, r"syscalls\[0\]\.names: expected the names of system calls, got \[\]"),
        ({"action": "SCMP_ACT_LOG", "names": "read"}, r"syscalls\[0\]\.names: expected a list, got 'read'"),
        ({"action": "SCMP_ACT_LOG", "names": ["read", ""]}, r"syscalls\[0\]\.names\[1\]: ''"),
        ({"action": "SCMP_ACT_LOG", "names": ["read", 3]}, r"syscalls\[0\]\.names\[1\]: 3"),
        ({"action": "SCMP_ACT_LOG", "args": {}}, r"syscalls\[0\]\.args: expected a list, got {}"),
        ({"action": "SCMP_ACT_LOG", "args": [[]]}, r"syscalls\[0\]\.args\[0\]: expected an object, got \[\]"),
        ({"action": "SCMP_ACT_LOG", "args": [{"index": True, "op": "SCMP_CMP_EQ"}]}, r"args\[0\]\.index: True"),
        ({"action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 1.0, "op": "SCMP_CMP_EQ"}]}, r"args\[0\]\.value: 1\.0"),
        ({"action": "SCMP_ACT_LOG", "args": [{"index": 0, "op": "SCMP_CMP_EQ"}] * 5000}, r"args: the section has more than 4096"),
        ({"action": "SCMP_ACT_NOTIFY"}, r"linux\.seccomp\.listenerPath: is not set"),
        ({"action": "SCMP_ACT_NOTIFY", "names": ["open", "write"]}, r"syscalls\[0\]\.names\[1\]: SCMP_ACT_NOTIFY cannot be used for write"),
        ({"action": "SCMP_ACT_NOTIFY", "names": ["sendmsg"]}, r"names\[0\]: SCMP_ACT_NOTIFY cannot be used for sendmsg"),
    ],
)  # fmt: skip
def test_wrong_rules_are_named_by_path(given: dict, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], **given}]}, "x86_64")


NOTIFY = {"syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}


def test_flags() -> None:
    assert seccomp.filter_flags({}) == 0
    assert seccomp.filter_flags({"flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}) == 6
    assert seccomp.filter_flags({"flags": ["SECCOMP_FILTER_FLAG_TSYNC"]}) == 1
    assert seccomp.filter_flags(NOTIFY) == 8
    assert seccomp.filter_flags({**NOTIFY, "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC"]}) == 57
    for flags, message in (
        (["X"], r"linux\.seccomp\.flags\[0\]: 'X'"), ("X", r"linux\.seccomp\.flags: expected a list"), ([[]], r"flags\[0\]: \[\]"),
        (["SECCOMP_FILTER_FLAG_NEW_LISTENER"], r"flags\[0\]: 'SECCOMP_FILTER_FLAG_NEW_LISTENER'"),
        (["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], r"WAIT_KILLABLE_RECV is about SCMP_ACT_NOTIFY"),
    ):  # fmt: skip
        with pytest.raises(InvalidSpec, match=message):
            seccomp.filter_flags({"flags": flags})


def test_who_wants_a_listener() -> None:
    assert seccomp.wants_listener(NOTIFY)
    for profile in (None, {}, {"syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_LOG"}]}, {"syscalls": 3}, {"syscalls": [3]}):
        assert not seccomp.wants_listener(profile)


def test_what_a_kernel_lacks_is_named() -> None:
    profile = {"defaultAction": "SCMP_ACT_LOG", **NOTIFY, "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}
    seccomp.check_kernel(profile, lambda action: True, lambda flag: True)
    for actions, flags, message in (
        ({0x7FFC0000}, {2, 4}, r"linux\.seccomp\.syscalls\[0\]\.action: this kernel does not have SCMP_ACT_NOTIFY"),
        ({0x7FC00000}, {2, 4}, r"linux\.seccomp\.defaultAction: this kernel does not have SCMP_ACT_LOG"),
        ({0x7FFC0000, 0x7FC00000}, {2}, r"linux\.seccomp\.flags\[1\]: this kernel does not have SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
    ):
        with pytest.raises(InvalidSpec, match=message):
            seccomp.check_kernel(profile, actions.__contains__, flags.__contains__)
