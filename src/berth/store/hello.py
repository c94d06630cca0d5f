"""The image that berth carries: one static program of a few hundred bytes, assembled here.

It writes a greeting and ends; the two handfuls of instructions are spelled out below for each machine.
"""

import struct

from berth.linux import elf

GREETING = b"""
Hello from berth!

This text was written by a program in a container, so your installation works.
What just happened:
 1. The berth command asked the engine to run the image "hello".
 2. The engine mounted the image's one layer, in which this program of a few
    hundred bytes is the only file, beneath a fresh writable layer.
 3. The launcher forked a monitor, which started the program in namespaces and
    a cgroup of its own, with few capabilities and a system call filter.
 4. The monitor passed this output on to the engine, the engine to your terminal.

Next, give it a whole system (as root, with debootstrap installed):
 $ debootstrap --variant=minbase bookworm debian
 $ tar -C debian -c . | berth import - debian
 $ berth run -it debian bash

"""

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}


def program(machine: str) -> bytes:
    """The ELF file for `machine` (x86_64 or aarch64); KeyError for any other."""
    code = {"x86_64": _code_x86_64, "aarch64": _code_aarch64}[machine](len(GREETING))
    return elf.executable(machine, code + GREETING)


def _code_x86_64(length: int) -> bytes:
    code = b"\xb8\x01\x00\x00\x00"  # mov eax, 1 (write)
    code += b"\xbf\x01\x00\x00\x00"  # mov edi, 1
    lea_end = len(code) + 7
    tail = b"\xba" + struct.pack("<I", length)  # mov edx, length
    tail += b"\x0f\x05"  # syscall
    tail += b"\xb8\x3c\x00\x00\x00"  # mov eax, 60 (exit)
    tail += b"\x31\xff"  # xor edi, edi
    tail += b"\x0f\x05"  # syscall
    text_at = lea_end + len(tail)
    return code + b"\x48\x8d\x35" + struct.pack("<i", text_at - lea_end) + tail  # lea rsi, [rip + text]


def _code_aarch64(length: int) -> bytes:
    def movz(register: int, value: int) -> int:
        return 0xD2800000 | value << 5 | register

    svc = 0xD4000001
    instructions = [
        movz(0, 1),
        0,  # adr x1, text: its distance is known below
        movz(2, length),
        movz(8, 64),  # write
        svc,
        movz(0, 0),
        movz(8, 93),  # exit
        svc,
    ]
    distance = 4 * (len(instructions) - 1)
    instructions[1] = 0x10000000 | (distance & 3) << 29 | (distance >> 2) << 5 | 1
    return struct.pack(f"<{len(instructions)}I", *instructions)
