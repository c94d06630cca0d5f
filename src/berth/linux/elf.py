"""The smallest ELF file around a few instructions: one loadable segment, no libc, no section headers. Pure.

Source: elf(5).
"""

import struct

_BASE_ADDRESS = 0x400000
_ELF_HEADER_BYTES, _PROGRAM_HEADER_BYTES = 64, 56
_CODE_OFFSET = _ELF_HEADER_BYTES + _PROGRAM_HEADER_BYTES
_MACHINES = {"x86_64": 62, "aarch64": 183}
_READABLE_EXECUTABLE = 5


def executable(machine: str, body: bytes) -> bytes:
    """A static program whose code and data are `body`, entered at its start. KeyError for a machine not known here."""
    size = _CODE_OFFSET + len(body)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, _MACHINES[machine], 1, _BASE_ADDRESS + _CODE_OFFSET, _ELF_HEADER_BYTES, 0, 0,
        _ELF_HEADER_BYTES, _PROGRAM_HEADER_BYTES, 1, 64, 0, 0,
    )  # fmt: skip
    load = struct.pack("<IIQQQQQQ", 1, _READABLE_EXECUTABLE, 0, _BASE_ADDRESS, _BASE_ADDRESS, size, size, 0x1000)
    return header + load + body
