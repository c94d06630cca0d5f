"""Two small interpreters, the second tool that the compilers of BPF programs are checked with."""

import struct

AUDIT_X86_64, AUDIT_I386, AUDIT_AARCH64, AUDIT_ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
X32_BIT = 0x40000000
MASK32 = 0xFFFFFFFF


def run_classic(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """What a seccomp filter returns for a call. Refuses programs that the kernel would refuse."""
    code = [struct.unpack_from("=HBBI", program, offset) for offset in range(0, len(program), 8)]
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, k = code[at]
        at += 1
        if operation == 0x20:  # ld [k]
            assert k % 4 == 0
            assert k <= 60
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif operation == 0x54:
            accumulator &= k
        elif operation == 0x05:
            at += k
        elif operation in (0x15, 0x25, 0x35, 0x45):
            holds = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[operation]
            at += if_true if holds else if_false
        elif operation == 0x06:
            return k
        else:
            raise AssertionError(f"operation {operation:#x}")


def run_device(program: bytes, kind: int, access: int, major: int, minor: int) -> bool:
    """What a program of type BPF_PROG_TYPE_CGROUP_DEVICE decides. kind: 1 block, 2 char; access: 1 m, 2 r, 4 w."""
    context = struct.pack("<III", access << 16 | kind, major, minor)
    code = [struct.unpack_from("<BBhi", program, offset) for offset in range(0, len(program), 8)]
    registers: list[int | None] = [None] * 11
    registers[1] = 0  # the context's address

    def value(number: int) -> int:
        found = registers[number]
        assert found is not None, f"r{number} is read before it is written"
        return found

    at = 0
    for _ in range(len(code) + 1):
        operation, both, offset, immediate = code[at]
        destination, source = both & 15, both >> 4
        at += 1
        if operation == 0x61:
            registers[destination] = struct.unpack_from("<I", context, value(source) + offset)[0]
        elif operation == 0xB7:
            registers[destination] = immediate
        elif operation == 0xBC:
            registers[destination] = value(source) & MASK32
        elif operation == 0x54:
            registers[destination] = value(destination) & immediate & MASK32
        elif operation == 0x74:
            registers[destination] = (value(destination) & MASK32) >> immediate
        elif operation in (0x15, 0x55):
            assert offset >= 0, "a loop"
            if (value(destination) == immediate) == (operation == 0x15):
                at += offset
        elif operation == 0x95:
            return bool(value(0))
        else:
            raise AssertionError(f"operation {operation:#x}")
    raise AssertionError("the program does not end")


def device_model(rules: list[dict], kind: str, access: str, major: int, minor: int) -> bool:
    """A request passes if for each letter of `access` the last rule that names it allows it."""
    return all(_allowed(rules, kind, letter, major, minor) for letter in access)


def _allowed(rules: list[dict], kind: str, letter: str, major: int, minor: int) -> bool:
    for rule in reversed(rules):
        if (rule.get("type") or "a") == "a":
            return bool(rule.get("allow"))
        numbers = ((rule.get("major"), major), (rule.get("minor"), minor))
        if (
            rule["type"] == kind
            and letter in (rule.get("access") or "rwm")
            and all(want is None or want < 0 or want == have for want, have in numbers)
        ):
            return bool(rule.get("allow"))
    return False
