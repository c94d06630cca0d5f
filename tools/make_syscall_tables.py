"""Writes src/berth/linux/syscall_tables.py from the kernel headers of Debian's linux-libc-dev packages.

    python tools/make_syscall_tables.py X86_INCLUDE ARM64_INCLUDE ARMHF_INCLUDE

Each argument is an `asm` parent directory: for x86 `/usr/include/x86_64-linux-gnu`, for the others
the include directory of linux-libc-dev-arm64-cross and linux-libc-dev-armhf-cross.

A table is written as runs of names in the order of their numbers: a few long strings are read from
a .pyc file in a tenth of the time that two thousand pairs take, and only those asked for become a dict.
"""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

# Newer than Debian 12's headers; one number everywhere (include/uapi/asm-generic/unistd.h of Linux 6.19).
NEWER = """cachestat fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue statmount listmount
 lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal setxattrat getxattrat listxattrat removexattrat
 open_tree_attr file_getattr file_setattr listns""".split()
FIRST_NEWER = 451
ONLY_X86_64 = {"uretprobe": 335, "uprobe": 336}  # arch/x86/entry/syscalls/syscall_64.tbl, abi "64"
HEAD = '''"""System call numbers by architecture. Written by tools/make_syscall_tables.py; do not edit.

Each run is (number of the first name, names one number apart; "-" is a number without a call).
"""

'''
TAIL = '''

def numbers(arch: str) -> dict[str, int]:
    """Name -> number for one of RUNS. x32 is without its bit 30."""
    return {name: number for first, names in RUNS[arch] for number, name in enumerate(names.split(), first) if name != "-"}
'''
OUT = Path(__file__).parent.parent / "src/berth/linux/syscall_tables.py"


def numbers(header: str, *flags: str) -> dict[str, int]:
    """Runs the preprocessor over `header` and evaluates every __NR_ macro."""
    out = subprocess.run(
        ["gcc", "-E", "-dM", *flags, "-"], input=f"#include <{header}>\n", capture_output=True, text=True, check=True
    ).stdout
    macros = {"__X32_SYSCALL_BIT": "0"} | dict(re.findall(r"^#define (\w+) (.+)$", out, re.M))
    table = {}
    for name, value in macros.items():
        if not name.startswith(("__NR_", "__ARM_NR_")):
            continue
        name = re.sub(r"^__(ARM_)?NR_", "", name)
        for _ in range(8):
            value = re.sub(r"\b__\w+\b", lambda m: macros.get(m[0], m[0]), value)
        if re.fullmatch(r"[()0-9a-fx+ |]+", value, re.I):
            table[name] = int(eval(value)) & ~0x40000000  # x32's bit is added by the filter
    table.update({name: FIRST_NEWER + i for i, name in enumerate(NEWER)})
    for absent in ("syscalls", "SYSCALL_BASE", "OABI_SYSCALL_BASE", "SYSCALL_MASK", "BASE"):
        table.pop(absent, None)
    return table


def runs(table: dict[str, int]) -> list[tuple[int, str]]:
    """Splits where more than a few numbers in a row are free; a second name of one number is a run of its own."""
    found: list[tuple[int, list[str]]] = []
    for name, number in sorted(table.items(), key=lambda item: item[1]):
        if found and 0 <= number - found[-1][0] - len(found[-1][1]) < 8:
            first, names = found[-1]
            names += ["-"] * (number - first - len(names)) + [name]
        else:
            found.append((number, [name]))
    return [(first, " ".join(names)) for first, names in found]


def main() -> None:
    x86, arm64, armhf = (Path(argument) for argument in sys.argv[1:])
    tables = {
        "X86_64": numbers("asm/unistd_64.h", f"-I{x86}") | ONLY_X86_64,
        "X86": numbers("asm/unistd_32.h", f"-I{x86}"),
        "X32": numbers("asm/unistd_x32.h", f"-I{x86}"),
        "AARCH64": numbers("asm/unistd.h", "-nostdinc", f"-I{arm64}", "-D__aarch64__", "-D__LP64__", "-U__x86_64__"),
        "ARM": numbers("asm/unistd.h", "-nostdinc", f"-I{armhf}", "-D__arm__", "-D__ARM_EABI__"),
    }
    lines = [HEAD + "RUNS: dict[str, tuple[tuple[int, str], ...]] = {"]
    for arch, table in tables.items():
        lines.append(f'    "{arch}": (')
        for first, names in runs(table):
            wrapped = textwrap.wrap(names, 108, break_long_words=False, break_on_hyphens=False)
            lines.append(f"        ({first},")
            lines += [f'         "{line} "' for line in wrapped[:-1]] + [f'         "{wrapped[-1]}"),']
        lines.append("    ),")
    lines.append("}  # fmt: skip\n")
    OUT.write_text("\n".join(lines) + TAIL)
    print({arch: len(table) for arch, table in tables.items()})


main()
