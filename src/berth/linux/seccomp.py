"""Compiles an OCI `linux.seccomp` section to classic BPF: pure, no I/O.

The program first branches on the architecture of the call, then walks a binary tree over the
call's number; leaves return an action or test arguments. Trees are built bottom-up, so every jump
goes forward over code whose length is already known.

Source: OCI runtime specification, config-linux.md#seccomp; linux/seccomp.h, linux/audit.h.
"""

import struct

from berth.errors import InvalidSpec
from berth.linux import syscall_tables

Code = list[tuple[int, int, int, int]]  # (code, jt, jf, k) of struct sock_filter

_LD_ABS, _JMP_JA, _JEQ, _JGT, _JGE, _RET, _AND = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06, 0x54
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGS = 0, 4, 16  # of struct seccomp_data

_X32_BIT = 0x40000000
_AUDIT_ARCH = {
    "SCMP_ARCH_X86_64": 0xC000003E, "SCMP_ARCH_X86": 0x40000003, "SCMP_ARCH_X32": 0xC000003E,
    "SCMP_ARCH_AARCH64": 0xC00000B7, "SCMP_ARCH_ARM": 0x40000028,
}  # fmt: skip
_TABLES = {
    "SCMP_ARCH_X86_64": syscall_tables.X86_64,
    "SCMP_ARCH_X86": syscall_tables.X86,
    "SCMP_ARCH_X32": syscall_tables.X32,
    "SCMP_ARCH_AARCH64": syscall_tables.AARCH64,
    "SCMP_ARCH_ARM": syscall_tables.ARM,
}
NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}

_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
_ACTIONS = {
    "SCMP_ACT_KILL": 0, "SCMP_ACT_KILL_THREAD": 0, "SCMP_ACT_KILL_PROCESS": _KILL_PROCESS,
    "SCMP_ACT_TRAP": 0x00030000, "SCMP_ACT_ERRNO": _ERRNO, "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000, "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_ALLOW": 0x7FFF0000,
}  # fmt: skip
_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4, "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}  # fmt: skip
_EPERM, _ENOSYS = 1, 38
_MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS


def filter_flags(profile: dict) -> int:
    """The flags for seccomp(2); raises InvalidSpec for one that is not known."""
    value = 0
    for name in profile.get("flags") or ():
        if name not in _FLAGS:
            raise InvalidSpec(f"linux.seccomp.flags: {name!r} is not a seccomp flag; known: {', '.join(_FLAGS)}")
        value |= _FLAGS[name]
    return value


def compile_profile(profile: dict, machine: str) -> bytes:
    """An OCI seccomp section -> array of struct sock_filter for `machine` (as `uname -m` says it).

    Calls whose number is above every known one get ENOSYS where the default would be EPERM: a newer
    libc then falls back to the older call instead of failing. Architectures the section does not
    list are killed. Raises InvalidSpec with the JSON path.
    """
    if machine not in NATIVE:
        raise InvalidSpec(f"linux.seccomp: berth has no system call table for {machine}")
    default = _action(profile.get("defaultAction"), profile.get("defaultErrnoRet"), "linux.seccomp.defaultAction")
    rules = [(i, rule) for i, rule in enumerate(profile.get("syscalls") or ())]
    names = list(profile.get("architectures") or ()) or [NATIVE[machine]]
    for name in names:
        if not isinstance(name, str) or not name.startswith("SCMP_ARCH_"):
            raise InvalidSpec(f"linux.seccomp.architectures: {name!r} is not an architecture")
    own = {"x86_64": ("X86_64", "X32", "X86"), "aarch64": ("AARCH64", "ARM")}[machine]
    trees = {
        arch: _arch_tree(_TABLES[arch], rules, default)
        for arch in (f"SCMP_ARCH_{short}" for short in own)
        if arch in names or arch == NATIVE[machine]
    }
    code = _dispatch(trees, machine)
    if len(code) > _MAX_INSTRUCTIONS:
        raise InvalidSpec(f"linux.seccomp: compiles to {len(code)} instructions, the kernel takes {_MAX_INSTRUCTIONS}")
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _dispatch(trees: dict[str, Code], machine: str) -> Code:
    load_nr: Code = [(_LD_ABS, 0, 0, _OFFSET_NR)]
    code: Code = [(_RET, 0, 0, _KILL_PROCESS)]
    for arch in ("SCMP_ARCH_ARM", "SCMP_ARCH_X86", NATIVE[machine]):
        if arch not in trees:
            continue
        body = trees[arch]
        if arch == "SCMP_ARCH_X86_64":
            body = _branch(_JGE, _X32_BIT, body, trees.get("SCMP_ARCH_X32") or [(_RET, 0, 0, _KILL_PROCESS)])
        code = _branch(_JEQ, _AUDIT_ARCH[arch], code, load_nr + body)
    return [(_LD_ABS, 0, 0, _OFFSET_ARCH), *code]


def _branch(test: int, value: int, otherwise: Code, then: Code) -> Code:
    """if test(value): then; else: otherwise. Conditional jumps reach 255, so far ones take two."""
    if len(otherwise) <= 255:
        return [(test, len(otherwise), 0, value), *otherwise, *then]
    return [(test, 0, 1, value), (_JMP_JA, 0, 0, len(otherwise)), *otherwise, *then]


def _arch_tree(table: dict[str, int], rules: list[tuple[int, dict]], default: int) -> Code:
    bit = _X32_BIT if table is syscall_tables.X32 else 0
    leaves: dict[int, Code] = {}
    ret_default: Code = [(_RET, 0, 0, default)]
    # Later rules are tested after earlier ones, so leaves are built from the last rule to the first.
    for index, rule in reversed(rules):
        path = f"linux.seccomp.syscalls[{index}]"
        if not isinstance(rule, dict):
            raise InvalidSpec(f"{path}: expected an object, got {rule!r}")
        action = _action(rule.get("action"), rule.get("errnoRet"), f"{path}.action")
        for name in rule.get("names") or ():
            if name not in table:
                continue  # of another architecture, or of a newer kernel
            number = table[name] | bit
            leaves[number] = _rule(rule.get("args"), action, leaves.get(number, ret_default), path)
    top = max(table.values()) | bit
    ranges: list[tuple[int, Code]] = [(0, ret_default)]
    for number in sorted(leaves):
        ranges += [(number, leaves[number]), (number + 1, ret_default)]
    if default == _ERRNO | _EPERM:
        ranges = [r for r in ranges if r[0] <= top] + [(top + 1, [(_RET, 0, 0, _ERRNO | _ENOSYS)])]
    return _tree(_merged(ranges))


def _merged(ranges: list[tuple[int, Code]]) -> list[tuple[int, Code]]:
    """Drops a range that starts where the next does or that does what the one before it does."""
    kept: list[tuple[int, Code]] = []
    for start, code in ranges:
        if kept and kept[-1][0] == start:
            kept.pop()
        if not kept or kept[-1][1] != code:
            kept.append((start, code))
    return kept


def _tree(ranges: list[tuple[int, Code]]) -> Code:
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    return _branch(_JGE, ranges[middle][0], _tree(ranges[:middle]), _tree(ranges[middle:]))


def _rule(conditions: list[dict] | None, action: int, otherwise: Code, path: str) -> Code:
    """All conditions true -> action, else `otherwise`. Two on one argument are alternatives (as libseccomp's)."""
    ret: Code = [(_RET, 0, 0, action)]
    conditions = conditions or []
    indices = [c.get("index") for c in conditions]
    if len(indices) != len(set(indices)):
        for condition in reversed(conditions):
            otherwise = _rule([condition], action, otherwise, path)
        return otherwise
    code = ret
    for number, condition in reversed(list(enumerate(conditions))):
        code = _condition(condition, len(code), f"{path}.args[{number}]") + code
    return code + otherwise if conditions else ret


def _condition(condition: dict, to_fail: int, path: str) -> Code:
    """Falls through when true, else jumps over the `to_fail` instructions that follow."""
    index, value, operator = condition.get("index"), condition.get("value", 0), condition.get("op")
    if not isinstance(index, int) or not 0 <= index <= 5:
        raise InvalidSpec(f"{path}.index: {index!r} is not an argument number from 0 to 5")
    if not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise InvalidSpec(f"{path}.value: {value!r} is not an unsigned 64-bit number")
    low: Code = [(_LD_ABS, 0, 0, _OFFSET_ARGS + 8 * index)]  # both architectures are little-endian
    high: Code = [(_LD_ABS, 0, 0, _OFFSET_ARGS + 8 * index + 4)]
    high_value, low_value = value >> 32, value & 0xFFFFFFFF
    if operator == "SCMP_CMP_MASKED_EQ":
        want = condition.get("valueTwo") or 0
        if not isinstance(want, int) or not 0 <= want < 1 << 64:
            raise InvalidSpec(f"{path}.valueTwo: {want!r} is not an unsigned 64-bit number")
        want &= value  # as libseccomp does: a bit outside the mask could never match
        return [
            *high, (_AND, 0, 0, high_value), (_JEQ, 0, to_fail + 3, want >> 32),
            *low, (_AND, 0, 0, low_value), (_JEQ, 0, to_fail, want & 0xFFFFFFFF),
        ]  # fmt: skip
    if operator == "SCMP_CMP_EQ":
        return [*high, (_JEQ, 0, to_fail + 2, high_value), *low, (_JEQ, 0, to_fail, low_value)]
    if operator == "SCMP_CMP_NE":
        return [*high, (_JEQ, 0, 2, high_value), *low, (_JEQ, to_fail, 0, low_value)]
    if operator in ("SCMP_CMP_GT", "SCMP_CMP_GE"):
        test = _JGT if operator == "SCMP_CMP_GT" else _JGE
        return [
            *high, (_JGT, 3, 0, high_value), (_JEQ, 0, to_fail + 2, high_value),
            *low, (test, 0, to_fail, low_value),
        ]  # fmt: skip
    if operator in ("SCMP_CMP_LT", "SCMP_CMP_LE"):
        test = _JGE if operator == "SCMP_CMP_LT" else _JGT
        return [
            *high, (_JGT, to_fail + 3, 0, high_value), (_JEQ, 0, 2, high_value),
            *low, (test, to_fail, 0, low_value),
        ]  # fmt: skip
    raise InvalidSpec(f"{path}.op: {operator!r} is not a comparison")


def _action(name: object, errno_ret: object, path: str) -> int:
    if name not in _ACTIONS:
        raise InvalidSpec(f"{path}: {name!r} is not a seccomp action; known: {', '.join(_ACTIONS)}")
    value = _ACTIONS[name]
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        data = _EPERM if errno_ret is None else errno_ret
        if not isinstance(data, int) or not 0 <= data <= 0xFFFF:
            raise InvalidSpec(f"{path}: errnoRet {data!r} is not a number from 0 to 65535")
        value |= data
    return value
