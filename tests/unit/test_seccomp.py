"""Seccomp profiles are compiled, then run by an interpreter: what counts is what the kernel would decide."""

import struct

import pytest

from berth.engine.seccomp_default import default_profile
from berth.errors import InvalidSpec
from berth.linux import seccomp, syscall_tables
from bpf import AUDIT_AARCH64, AUDIT_ARM, AUDIT_I386, AUDIT_X86_64, X32_BIT, run_classic

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
X86_64, X86, AARCH64 = syscall_tables.X86_64, syscall_tables.X86, syscall_tables.AARCH64
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
    x32 = {name: number | X32_BIT for name, number in syscall_tables.X32.items()}
    assert run_classic(program, AUDIT_X86_64, x32["read"]) == ALLOW
    assert run_classic(program, AUDIT_X86_64, x32["mount"]) == EPERM
    assert run_classic(program, AUDIT_X86_64, x32["personality"], 0x0040000) == EPERM
    arm = compiled("aarch64")
    assert run_classic(arm, AUDIT_AARCH64, AARCH64["read"]) == ALLOW
    assert run_classic(arm, AUDIT_AARCH64, AARCH64["mount"]) == EPERM
    assert run_classic(arm, AUDIT_ARM, syscall_tables.ARM["read"]) == ALLOW
    assert run_classic(arm, AUDIT_ARM, syscall_tables.ARM["mount"]) == EPERM


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


def test_calls_newer_than_the_tables_do_not_exist() -> None:
    for machine, arch, table, bit in (
        ("x86_64", AUDIT_X86_64, X86_64, 0), ("x86_64", AUDIT_I386, X86, 0),
        ("x86_64", AUDIT_X86_64, syscall_tables.X32, X32_BIT), ("aarch64", AUDIT_AARCH64, AARCH64, 0),
    ):  # fmt: skip
        top = max(table.values())
        assert run_classic(compiled(machine), arch, bit | top + 1) == ENOSYS
        assert run_classic(compiled(machine), arch, bit | 0x0FFFFFFF) == ENOSYS
        assert run_classic(compiled(machine), arch, bit | top) in (ALLOW, EPERM)


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
    for name, number in table.items():
        if name not in special:
            assert run_classic(program, arch, number) == (ALLOW if name in plain else EPERM), name


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


def test_the_first_rule_that_holds_decides() -> None:
    rules = [
        {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": [{"index": 0, "value": 3, "op": "SCMP_CMP_GE"}]},
        {"names": ["read", "write"], "action": "SCMP_ACT_LOG"},
    ]
    program = seccomp.compile_profile({"defaultAction": "SCMP_ACT_KILL", "syscalls": rules}, "x86_64")
    assert run_classic(program, AUDIT_X86_64, 0, 3) == 0x00050005
    assert run_classic(program, AUDIT_X86_64, 0, 2) == 0x7FFC0000
    assert run_classic(program, AUDIT_X86_64, 1, 3) == 0x7FFC0000
    assert run_classic(program, AUDIT_X86_64, 2) == 0


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
        for n in range(1000)
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
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000}, r"linux\.seccomp\.defaultAction: errnoRet 70000"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["x86"]}, r"linux\.seccomp\.architectures: 'x86'"),
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


def test_flags() -> None:
    assert seccomp.filter_flags({}) == 0
    assert seccomp.filter_flags({"flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}) == 6
    with pytest.raises(InvalidSpec, match=r"linux\.seccomp\.flags: 'X'"):
        seccomp.filter_flags({"flags": ["X"]})
