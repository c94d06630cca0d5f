"""What the beginning of a program file says of how the kernel would run it: script or ELF, interpreter, machine. Pure.

Source: execve(2), elf(5).
"""

HEAD_BYTES = 4096  # where both say all of it: the kernel itself reads 256 bytes of a script, and linkers put PT_INTERP first
_MACHINES = {2: "sparc", 3: "i386", 8: "mips", 20: "ppc", 21: "ppc64", 22: "s390x", 40: "arm", 43: "sparc64", 62: "x86_64", 183: "aarch64",
             243: "riscv64", 258: "loongarch64"}  # fmt: skip
_PT_INTERP = 3


def script_interpreter(head: bytes) -> str:
    """The program that a `#!` line names, a carriage return at its end included; '' where there is no such line."""
    if not head.startswith(b"#!"):
        return ""
    return head[2:].partition(b"\n")[0].strip(b" \t").partition(b" ")[0].partition(b"\t")[0].decode(errors="replace")


def is_elf(head: bytes) -> bool:
    return head.startswith(b"\x7fELF") and len(head) >= 20


def elf_machine(head: bytes) -> str:
    """In uname's words; only for what `is_elf`."""
    number = _number(head, 18, 2)
    name = _MACHINES.get(number, f"another machine (number {number})")
    if name == "ppc64" and head[5] == 1:
        return "ppc64le"
    return "x32" if name == "x86_64" and head[4] == 1 else name


def elf_interpreter(head: bytes) -> str:
    """The dynamic loader that PT_INTERP names; '' for a static program, or where the file is cut off or lies."""
    wide = head[4] == 2
    table, size, count = (_number(head, 32, 8), _number(head, 54, 2), _number(head, 56, 2)) if wide else (
        _number(head, 28, 4), _number(head, 42, 2), _number(head, 44, 2)
    )  # fmt: skip
    for index in range(count):
        at = table + index * size
        if at + size > len(head) or size < 32:
            return ""
        if _number(head, at, 4) == _PT_INTERP:
            offset, length = (_number(head, at + 8, 8), _number(head, at + 32, 8)) if wide else (
                _number(head, at + 4, 4), _number(head, at + 16, 4)
            )  # fmt: skip
            return head[offset : offset + length].partition(b"\0")[0].decode(errors="replace")
    return ""


def _number(head: bytes, at: int, length: int) -> int:
    return int.from_bytes(head[at : at + length], "big" if head[5] == 2 else "little")
