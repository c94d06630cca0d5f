"""Compiles an OCI `linux.seccomp` section to classic BPF: pure, no I/O.

    arch? -> number < 0x40000000? -> binary tree over the number -> an action, or tests of arguments

What a profile means is what libseccomp makes of it in runc's hands, since that is what profiles are
written for; tests/unit/test_seccomp_libseccomp.py holds the two against each other:

- A rule without conditions decides its call alone, wherever it stands; the first such one counts.
- All conditions of a rule must hold; two on one argument make each condition a rule of its own.
- Where rules with different actions hold for one call, the one on the higher argument goes first, then
  equality, masked equality, the lowest upper bound, the highest lower bound.
- A rule whose action is the default's is left out. A name that is not a call of an architecture is left
  out there. i386's socketcall(2) and ipc(2) follow the rules of the calls that they stand for.
- Where the default denies, a number above all that the profile names gives ENOSYS: a newer libc then
  falls back to the older call instead of failing.

Programs are assembled from their end, so every jump goes forward over code whose length is known.

Source: OCI runtime specification, config-linux.md#seccomp; linux/seccomp.h, linux/audit.h; libseccomp 2.5.
"""

import struct

from berth.errors import InvalidSpec
from berth.linux import syscall_tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

Condition = tuple[int, str, int, int]  # index, operator, value (the mask of MASKED_EQ), valueTwo
Rule = tuple[tuple[Condition, ...], int]  # all of the conditions -> action

_LD_ABS, _JA, _JEQ, _JGT, _JGE, _JSET, _RET, _AND = 0x20, 0x05, 0x15, 0x25, 0x35, 0x45, 0x06, 0x54
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGS = 0, 4, 16  # of struct seccomp_data
_LOW_32 = 0xFFFFFFFF
_MAX_64 = (1 << 64) - 1
_ARGUMENTS = 6

_X32_BIT = 0x40000000
_SKIPPED = 0xFFFFFFFF
_AUDIT_ARCH = {
    "SCMP_ARCH_X86_64": 0xC000003E, "SCMP_ARCH_X86": 0x40000003, "SCMP_ARCH_X32": 0xC000003E,
    "SCMP_ARCH_AARCH64": 0xC00000B7, "SCMP_ARCH_ARM": 0x40000028,
}  # fmt: skip
# Their calls never reach this kernel, so a profile that lists them for other machines is right here too.
_FOREIGN = frozenset(
    f"SCMP_ARCH_{name}"
    for name in "MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X PARISC PARISC64"
    " RISCV64 LOONGARCH64 M68K SH SHEB".split()
)
ARCHITECTURES = (*_AUDIT_ARCH, *sorted(_FOREIGN))
NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_FAMILIES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_X86"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}
# libseccomp compares the low word alone on these; x32 is one of them, though its registers have 64 bits.
_ILP32 = frozenset({"SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM"})

_KILL_PROCESS, _KILL_THREAD, _ERRNO, _NOTIFY = 0x80000000, 0, 0x00050000, 0x7FC00000
ACTIONS = {
    "SCMP_ACT_KILL": _KILL_THREAD, "SCMP_ACT_KILL_THREAD": _KILL_THREAD, "SCMP_ACT_KILL_PROCESS": _KILL_PROCESS,
    "SCMP_ACT_TRAP": 0x00030000, "SCMP_ACT_ERRNO": _ERRNO, "SCMP_ACT_NOTIFY": _NOTIFY,
    "SCMP_ACT_TRACE": 0x7FF00000, "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_ALLOW": 0x7FFF0000,
}  # fmt: skip
# The largest errnoRet of those that take one: MAX_ERRNO of the kernel, and the 16 bits a tracer is given.
_MAX_ERRNO_RET = {"SCMP_ACT_ERRNO": 4095, "SCMP_ACT_TRACE": 0xFFFF}
_LETS_PASS = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
_EPERM, _ENOSYS = 1, 38

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4, "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}  # fmt: skip
_TSYNC, _NEW_LISTENER, _TSYNC_ESRCH, _WAIT_KILLABLE_RECV = 1, 8, 16, 32

OPERATORS = tuple(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))
_MASKED_EQ = "SCMP_CMP_MASKED_EQ"
_UPPER_BOUND, _LOWER_BOUND = 2, 3
_RANK = {"SCMP_CMP_EQ": 0, "SCMP_CMP_NE": 0, _MASKED_EQ: 1, "SCMP_CMP_LT": _UPPER_BOUND, "SCMP_CMP_LE": _UPPER_BOUND}
# Calls that init makes between installing the filter and handing its listener over: nobody could answer them yet.
_NOT_NOTIFIED = ("write", "sendmsg")

# What socketcall(2) and ipc(2) of i386 call each by its first argument (linux/net.h, linux/ipc.h).
_SOCKETCALL, _IPC = 102, 117
_MULTIPLEXED = {
    name: (number, first)
    for number, names in (
        (_SOCKETCALL, "- socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom"
         " shutdown setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg"),
        (_IPC, "- semop semget semctl semtimedop - - - - - - msgsnd msgrcv msgget msgctl - - - - - - shmat shmdt shmget"
         " shmctl"),
    )
    for first, name in enumerate(names.split()) if name != "-"
}  # fmt: skip

_MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
_MAX_CONDITIONS = 4096  # more cannot fit; without a limit a hostile profile would take minutes to say so


def wants_listener(profile: dict | None) -> bool:
    """True if a rule has SCMP_ACT_NOTIFY: installing the filter then gives a descriptor to hand over."""
    rules = (profile or {}).get("syscalls")
    return isinstance(rules, list) and any(isinstance(rule, dict) and rule.get("action") == "SCMP_ACT_NOTIFY" for rule in rules)


def filter_flags(profile: dict) -> int:
    """The flags for seccomp(2), NEW_LISTENER among them if `wants_listener`; InvalidSpec for one that is not known."""
    value = 0
    for index, name in enumerate(_list(profile, "flags", "linux.seccomp")):
        if not isinstance(name, str) or name not in FLAGS:
            raise InvalidSpec(f"linux.seccomp.flags[{index}]: {name!r} is not a seccomp flag; known: {', '.join(FLAGS)}")
        value |= FLAGS[name]
    if wants_listener(profile):
        # Both TSYNC and the listener would be the call's return value; TSYNC_ESRCH settles it.
        return value | _NEW_LISTENER | (_TSYNC_ESRCH if value & _TSYNC else 0)
    if value & _WAIT_KILLABLE_RECV:
        raise InvalidSpec(
            "linux.seccomp.flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is about SCMP_ACT_NOTIFY, which no rule here has"
        )
    return value


def check_kernel(profile: dict, has_action: "Callable[[int], bool]", has_flag: "Callable[[int], bool]") -> None:
    """Raises InvalidSpec that names an action or a flag of a valid profile that this kernel does not have.

    has_action, has_flag: `libc.seccomp_has_action` and `libc.seccomp_has_flag`.
    """
    used = {("linux.seccomp.defaultAction", profile["defaultAction"])}
    used |= {(f"linux.seccomp.syscalls[{i}].action", rule["action"]) for i, rule in enumerate(profile.get("syscalls") or ())}
    missing = {name for name in {name for _, name in used} if not has_action(ACTIONS[name])}
    for path, name in sorted(used):
        if name in missing:
            raise InvalidSpec(f"{path}: this kernel does not have {name}")
    for index, name in enumerate(profile.get("flags") or ()):
        if not has_flag(FLAGS[name]):
            raise InvalidSpec(f"linux.seccomp.flags[{index}]: this kernel does not have {name}")


def compile_profile(profile: dict, machine: str) -> bytes:
    """An OCI seccomp section -> array of struct sock_filter for `machine` (as `uname -m` says it).

    Architectures that the section does not list are killed. Raises InvalidSpec with the JSON path.
    """
    if machine not in NATIVE:
        raise InvalidSpec(f"linux.seccomp: berth has no system call table for {machine}")
    native = NATIVE[machine]
    default_name = profile.get("defaultAction")
    default = _action(default_name, profile.get("defaultErrnoRet"), "linux.seccomp.defaultAction", "defaultErrnoRet")
    if default == _NOTIFY:
        raise InvalidSpec(
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY would hold the calls that hand the listener over; name the "
            "calls to be notified of in syscalls"
        )
    listed = _architectures(profile)
    rules = _rules(profile, default)
    _check_listener(profile)
    program = _Program()
    trees = {}
    for arch in reversed(_FAMILIES[machine]):
        if arch == native or arch in listed:
            with_enosys = arch in listed and default_name not in _LETS_PASS
            trees[arch] = _arch_tree(program, arch, rules, default, with_enosys)
    _dispatch(program, trees, native, default)
    if len(program.code) > _MAX_INSTRUCTIONS:
        raise _too_long(len(program.code))
    return program.to_bytes()


# -- reading the profile ------------------------------------------------------------------------------


def _list(owner: dict, key: str, path: str) -> list:
    value = owner.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidSpec(f"{path}.{key}: expected a list, got {value!r}")
    return value


def _architectures(profile: dict) -> list[str]:
    names = _list(profile, "architectures", "linux.seccomp")
    for index, name in enumerate(names):
        if not isinstance(name, str) or (name not in _AUDIT_ARCH and name not in _FOREIGN):
            raise InvalidSpec(
                f"linux.seccomp.architectures[{index}]: {name!r} is not an architecture; known: {', '.join(ARCHITECTURES)}"
            )
    return names


def _check_listener(profile: dict) -> None:
    for key in ("listenerPath", "listenerMetadata"):
        value = profile.get(key)
        if value is not None and (not isinstance(value, str) or "\0" in value):
            raise InvalidSpec(f"linux.seccomp.{key}: expected a string, got {value!r}")
    if profile.get("listenerMetadata") and not profile.get("listenerPath"):
        raise InvalidSpec("linux.seccomp.listenerMetadata: is for the listener, and listenerPath is not set")
    if wants_listener(profile) and not profile.get("listenerPath"):
        raise InvalidSpec("linux.seccomp.listenerPath: is not set, and SCMP_ACT_NOTIFY needs who answers: a unix socket's path")


def _rules(profile: dict, default: int) -> list[tuple[list[str], list[Rule], str]]:
    """What the section's rules say, checked: the names, what decides for them, the path."""
    found: list[tuple[list[str], list[Rule], str]] = []
    conditions = 0
    for index, rule in enumerate(_list(profile, "syscalls", "linux.seccomp")):
        path = f"linux.seccomp.syscalls[{index}]"
        if not isinstance(rule, dict):
            raise InvalidSpec(f"{path}: expected an object, got {rule!r}")
        action = _action(rule.get("action"), rule.get("errnoRet"), f"{path}.action", "errnoRet")
        names = _names(rule, path)
        if action == _NOTIFY:
            _check_notified(names, path)
        arguments = _list(rule, "args", path)
        conditions += len(arguments)
        if conditions > _MAX_CONDITIONS:
            raise InvalidSpec(f"{path}.args: the section has more than {_MAX_CONDITIONS} conditions")
        parts = [_condition(argument, f"{path}.args[{number}]") for number, argument in enumerate(arguments)]
        if action == default:
            found.append((names, [], path))  # their numbers count for ENOSYS
        elif len({part[0] for part in parts}) < len(parts):
            found.append((names, [((part,), action) for part in parts], path))
        else:
            found.append((names, [(tuple(sorted(parts)), action)], path))
    return found


def _names(rule: dict, path: str) -> list[str]:
    names = _list(rule, "names", path)
    if not names:
        raise InvalidSpec(f"{path}.names: expected the names of system calls, got {rule.get('names')!r}")
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise InvalidSpec(f"{path}.names[{number}]: {name!r} is not the name of a system call")
    return names


def _check_notified(names: list[str], path: str) -> None:
    for number, name in enumerate(names):
        if name in _NOT_NOTIFIED:
            raise InvalidSpec(
                f"{path}.names[{number}]: SCMP_ACT_NOTIFY cannot be used for {name}: the runtime itself calls it to hand "
                "the listener over, and nobody could answer yet"
            )


def _action(name: object, errno_ret: object, path: str, errno_key: str) -> int:
    if not isinstance(name, str) or name not in ACTIONS:
        raise InvalidSpec(f"{path}: {name!r} is not a seccomp action; known: {', '.join(ACTIONS)}")
    largest = _MAX_ERRNO_RET.get(name)
    if largest is None:
        if errno_ret is not None:
            # config-linux.md: "When the action doesn't support an errno, the runtime MUST print and error and fail."
            raise InvalidSpec(
                f"{path}: {errno_key} {errno_ret!r} is given, and {name} takes none; only {' and '.join(_MAX_ERRNO_RET)} do"
            )
        return ACTIONS[name]
    data = _EPERM if errno_ret is None else errno_ret
    if type(data) is not int or not 0 <= data <= largest:
        raise InvalidSpec(f"{path}: {errno_key} {data!r} is not a number from 0 to {largest}")
    return ACTIONS[name] | data


def _condition(argument: object, path: str) -> Condition:
    if not isinstance(argument, dict):
        raise InvalidSpec(f"{path}: expected an object, got {argument!r}")
    index, operator = argument.get("index"), argument.get("op")
    if type(index) is not int or not 0 <= index < _ARGUMENTS:
        raise InvalidSpec(f"{path}.index: {index!r} is not an argument number from 0 to 5")
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise InvalidSpec(f"{path}.op: {operator!r} is not a comparison; known: {', '.join(OPERATORS)}")
    # Go's encoding leaves a value of 0 out in places, so runc and crun take its absence for 0.
    value, two = (_number(argument, key, path) for key in ("value", "valueTwo"))
    # A bit outside the mask could never match; libseccomp leaves it out of the comparison.
    return index, operator, value, two & value if operator == _MASKED_EQ else 0


def _number(argument: dict, key: str, path: str) -> int:
    value = argument.get(key)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= _MAX_64:
        raise InvalidSpec(f"{path}.{key}: {value!r} is not an unsigned 64-bit number")
    return value


# -- what each number of an architecture gets ---------------------------------------------------------


def _arch_tree(
    program: "_Program", arch: str, rules: list[tuple[list[str], list[Rule], str]], default: int, with_enosys: bool
) -> int:
    table = syscall_tables.numbers(arch.removeprefix("SCMP_ARCH_"))
    bit = _X32_BIT if arch == "SCMP_ARCH_X32" else 0
    decided: dict[int, int] = {}  # by a rule without conditions
    asked: dict[int, dict[tuple[Condition, ...], int]] = {}
    top = 0
    for names, parts, path in rules:
        numbers = {number for name in names if (number := table.get(name)) is not None}
        if numbers:
            top = max(top, max(numbers) | bit)
        for conditions, action in parts:
            kept = _narrowed(conditions) if arch in _ILP32 else tuple(c for c in conditions if not _always(c))
            for number in numbers:
                _add(decided, asked, number | bit, kept, action, path)
            if arch == "SCMP_ARCH_X86":
                _add_multiplexed(decided, asked, names, conditions, action, path)
    targets: dict[int, int] = {number: ~action for number, action in decided.items()}
    for number, chain in asked.items():
        if number not in decided:
            targets[number] = _chain(program, chain, default, arch in _ILP32)
    # socketcall and ipc may be above all that is named: their rules must not be cut off.
    return _tree(program, _ranges(targets, default, max(top, *targets, 0) if top and with_enosys else 0))


def _add(
    decided: dict[int, int], asked: dict[int, dict[tuple[Condition, ...], int]],
    number: int, conditions: tuple[Condition, ...], action: int, path: str,
) -> None:  # fmt: skip
    if not conditions or number in decided:
        decided.setdefault(number, action)
        return
    chain = asked.setdefault(number, {})
    if chain.setdefault(conditions, action) != action:
        raise InvalidSpec(f"{path}.args: an earlier rule has another action for the same call under the same conditions")


def _add_multiplexed(
    decided: dict[int, int], asked: dict[int, dict[tuple[Condition, ...], int]],
    names: list[str], conditions: tuple[Condition, ...], action: int, path: str,
) -> None:  # fmt: skip
    """The first argument says which call is meant, and so takes the place of a condition on it, as libseccomp has it."""
    rest = tuple(c for c in _narrowed(conditions) if c[0])
    for name in set(names) & _MULTIPLEXED.keys():
        number, first = _MULTIPLEXED[name]
        chain = asked.setdefault(number, {})
        chain.setdefault(((0, "SCMP_CMP_EQ", first, 0), *rest), action)


def _narrowed(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
    """For 32-bit calls: what libseccomp compares is the low word."""
    low = ((index, operator, value & _LOW_32, two & _LOW_32) for index, operator, value, two in conditions)
    return tuple(c for c in low if not _always(c))


def _always(condition: Condition) -> bool:
    return condition[1] == _MASKED_EQ and not condition[2]


def _ranges(targets: dict[int, int], default: int, top: int) -> list[tuple[int, int]]:
    """[(first number, target)] in order; neighbours differ. top: what is above gets ENOSYS, 0 for no such end."""
    found = [(0, ~default)]
    following = 0
    for number in sorted(targets):
        if number > following and found[-1][1] != ~default:
            found.append((following, ~default))
        target = targets[number]
        if number == 0:
            found[0] = (0, target)
        elif found[-1][1] != target:
            found.append((number, target))
        following = number + 1
    if top:
        if top + 1 > following and found[-1][1] != ~default:
            found.append((following, ~default))
        if found[-1][1] != ~(_ERRNO | _ENOSYS):
            found.append((top + 1, ~(_ERRNO | _ENOSYS)))
    elif found[-1][1] != ~default:
        found.append((following, ~default))
    return found


# -- instructions -------------------------------------------------------------------------------------


class _Program:
    """Instructions in reverse. A target is the position of an instruction here, or ~action for a return of it."""

    __slots__ = ("_returns", "code")

    def __init__(self) -> None:
        self.code: list[tuple[int, int, int, int]] = []  # (code, jt, jf, k) of struct sock_filter
        self._returns: dict[int, int] = {}

    def load(self, offset: int) -> int:
        """A load whose next instruction is the one added last."""
        self.code.append((_LD_ABS, 0, 0, offset))
        return len(self.code) - 1

    def jump(self, test: int, k: int, true: int, false: int) -> int:
        """Adds `if test(k): true, else: false`; what is farther than a conditional jump reaches gets a stop on the way."""
        true, false = self._near(true), self._near(false)
        code = self.code
        at = len(code)
        code.append((test, at - true - 1, at - false - 1, k))
        return at

    def _near(self, target: int) -> int:
        code = self.code
        if target < 0:
            at = self._returns.get(target, -1)
            if at < 0 or len(code) - at > 250:  # of 255, less what _near adds for the other branch
                code.append((_RET, 0, 0, ~target))
                at = self._returns[target] = len(code) - 1
            return at
        if len(code) - target > 250:
            code.append((_JA, 0, 0, len(code) - target - 1))
            return len(code) - 1
        return target

    def after_load(self, target: int, offset: int) -> int:
        """The same target, past its load if that would load what the accumulator already holds."""
        if target > 0 and self.code[target] == (_LD_ABS, 0, 0, offset):
            return target - 1
        return target

    def enter(self, target: int) -> None:
        """Makes the instruction added last the one that runs on to `target`."""
        code = self.code
        if target < 0:
            code.append((_RET, 0, 0, ~target))
        elif target != len(code) - 1:
            code.append((_JA, 0, 0, len(code) - target - 1))

    def to_bytes(self) -> bytes:
        flat: list[int] = []
        for instruction in reversed(self.code):
            flat += instruction
        return struct.pack("=" + "HBBI" * len(self.code), *flat)


def _dispatch(program: _Program, trees: dict[str, int], native: str, default: int) -> None:
    kill = ~_KILL_PROCESS
    target = kill
    # The native architecture is asked for first; each section begins with the load of the number.
    for arch in sorted(trees, key=lambda name: name == native):
        if arch == "SCMP_ARCH_X32":
            continue  # a branch of X86_64's
        if arch == "SCMP_ARCH_X86_64":
            x32 = trees.get("SCMP_ARCH_X32")
            if x32 is None:
                # A tracer that skips a call makes its number -1: no x32 call, and nothing to kill for.
                x32 = program.jump(_JEQ, _SKIPPED, ~default, kill)
            program.jump(_JGE, _X32_BIT, x32, trees[arch])
        else:
            program.enter(trees[arch])
        section = program.load(_OFFSET_NR)
        target = program.jump(_JEQ, _AUDIT_ARCH[arch], section, target)
    program.load(_OFFSET_ARCH)


def _tree(program: _Program, ranges: list[tuple[int, int]]) -> int:
    """A binary search; three ranges of which the middle one is a single call take one comparison."""
    count = len(ranges)
    if count == 1:
        return ranges[0][1]
    if count == 3 and ranges[0][1] == ranges[2][1] and ranges[1][0] + 1 == ranges[2][0]:
        return program.jump(_JEQ, ranges[1][0], ranges[1][1], ranges[0][1])
    middle = count // 2
    right = _tree(program, ranges[middle:])
    left = _tree(program, ranges[:middle])
    return program.jump(_JGE, ranges[middle][0], right, left)


def _chain(program: _Program, chain: dict[tuple[Condition, ...], int], default: int, narrow: bool) -> int:
    target = ~default
    for conditions in reversed(sorted(chain, key=_precedence)):  # of equals the first in the profile stays first
        if len(program.code) > _MAX_INSTRUCTIONS:
            raise _too_long(len(program.code))
        failed, target = target, ~chain[conditions]
        for condition in reversed(conditions):
            target = _test(program, condition, target, failed, narrow)
    return target


def _precedence(conditions: tuple[Condition, ...]) -> list[tuple[int, int, int]]:
    order = []
    for index, operator, value, two in conditions:
        rank = _RANK.get(operator, _LOWER_BOUND)
        datum = two if operator == _MASKED_EQ else value
        order.append((-index, rank, datum if rank == _UPPER_BOUND else -datum))
    return order


def _test(program: _Program, condition: Condition, holds: int, fails: int, narrow: bool) -> int:
    """Adds the comparison of one argument; both architectures are little-endian."""
    index, operator, value, two = condition
    low = _OFFSET_ARGS + 8 * index
    high = low + 4
    if operator == _MASKED_EQ:
        words = ((low, value & _LOW_32, two & _LOW_32), (high, value >> 32, two >> 32))
        for offset, mask, want in words:
            if mask:
                holds = _masked(program, offset, mask, want, holds, fails)
        return holds
    if operator in ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE"):
        holds, fails = fails, holds
    if operator in ("SCMP_CMP_EQ", "SCMP_CMP_NE"):
        program.jump(_JEQ, value & _LOW_32, holds, fails)
        at = program.load(low)
        if narrow:
            return at
        program.jump(_JEQ, value >> 32, at, program.after_load(fails, high))
        return program.load(high)
    program.jump(_JGT if operator in ("SCMP_CMP_GT", "SCMP_CMP_LE") else _JGE, value & _LOW_32, holds, fails)
    at = program.load(low)
    if narrow:
        return at
    equal = program.jump(_JEQ, value >> 32, at, program.after_load(fails, high))
    program.jump(_JGT, value >> 32, program.after_load(holds, high), equal)
    return program.load(high)


def _masked(program: _Program, offset: int, mask: int, want: int, holds: int, fails: int) -> int:
    if not want:
        program.jump(_JSET, mask, fails, holds)
    elif mask == _LOW_32:
        program.jump(_JEQ, want, holds, fails)
    else:
        program.jump(_JEQ, want, holds, fails)
        program.code.append((_AND, 0, 0, mask))
    return program.load(offset)


def _too_long(count: int) -> InvalidSpec:
    return InvalidSpec(f"linux.seccomp: compiles to {count} instructions, the kernel takes {_MAX_INSTRUCTIONS}")
