"""A program of 300 bytes that starts a sealed interpreter at once, so that Python need not start twice.

`berth-oci` runs `sealer INTERPRETER ARGUMENTS...`: INTERPRETER is copied into a memfd, which is sealed and
executed with the arguments. That is what `sealed.ensure` does, 6 ms faster: a quarter of a cold start.
Whatever fails, the interpreter is executed as it is, and `sealed.ensure` sees to it (and writes this
program, where it may, beside the byte code of the package: what may be written there runs anyway).

x86-64 only; elsewhere Python starts twice.
"""

import os

from berth.linux import elf

_CODE = (
    ("488b1c24", "mov rbx, [rsp]           ; argc"),
    ("4c8d642410", "lea r12, [rsp+16]        ; &argv[1]"),
    ("4c8d6cdc10", "lea r13, [rsp+rbx*8+16]  ; envp"),
    ("b83f010000", "mov eax, 319             ; memfd_create("),
    ("488d3d93000000", "lea rdi, [name]"),
    ("be03000000", "mov esi, 3               ; MFD_CLOEXEC | MFD_ALLOW_SEALING)"),
    ("0f05", "syscall"),
    ("85c0", "test eax, eax"),
    ("786b", "js fallback"),
    ("4189c6", "mov r14d, eax            ; the copy"),
    ("b802000000", "mov eax, 2               ; open("),
    ("498b3c24", "mov rdi, [r12]           ; argv[1],"),
    ("be00000800", "mov esi, 0x80000         ; O_RDONLY | O_CLOEXEC)"),
    ("0f05", "syscall"),
    ("85c0", "test eax, eax"),
    ("7854", "js fallback"),
    ("4189c7", "mov r15d, eax            ; the source"),
    ("b828000000", "copy: mov eax, 40        ; sendfile("),
    ("4489f7", "mov edi, r14d            ; the copy,"),
    ("4489fe", "mov esi, r15d            ; the source,"),
    ("31d2", "xor edx, edx             ; NULL,"),
    ("41ba00f0ff7f", "mov r10d, 0x7ffff000     ; as much as goes)"),
    ("0f05", "syscall"),
    ("4885c0", "test rax, rax"),
    ("7837", "js fallback"),
    ("75e4", "jne copy"),
    ("b848000000", "mov eax, 72              ; fcntl("),
    ("4489f7", "mov edi, r14d            ; the copy,"),
    ("be09040000", "mov esi, 1033            ; F_ADD_SEALS,"),
    ("ba0f000000", "mov edx, 15              ; SEAL | SHRINK | GROW | WRITE)"),
    ("0f05", "syscall"),
    ("85c0", "test eax, eax"),
    ("781d", "js fallback"),
    ("b842010000", "mov eax, 322             ; execveat("),
    ("4489f7", "mov edi, r14d            ; the copy,"),
    ("488d3537000000", 'lea rsi, [empty]         ; "",'),
    ("4c89e2", "mov rdx, r12             ; argv + 1,"),
    ("4d89ea", "mov r10, r13             ; envp,"),
    ("41b800100000", "mov r8d, 0x1000          ; AT_EMPTY_PATH)"),
    ("0f05", "syscall"),
    ("b83b000000", "fallback: mov eax, 59    ; execve("),
    ("498b3c24", "mov rdi, [r12]           ; argv[1],"),
    ("4c89e6", "mov rsi, r12             ; argv + 1,"),
    ("4c89ea", "mov rdx, r13             ; envp)"),
    ("0f05", "syscall"),
    ("b83c000000", "mov eax, 60              ; exit("),
    ("bf7d000000", "mov edi, 125             ; 125)"),
    ("0f05", "syscall"),
)
_PATH = os.path.join(os.path.dirname(__file__), "__pycache__", "sealer")


def program(name: str) -> bytes:
    """The ELF file; `name` is what the copy is called (/proc/PID/exe shows it)."""
    code = bytes.fromhex("".join(code for code, _ in _CODE))
    return elf.executable("x86_64", code + name.encode() + b"\0")


def keep(name: str) -> None:
    """Writes it where `berth-oci` looks for it, whole or not at all; silent where that cannot be."""
    if os.uname().machine != "x86_64" or os.path.exists(_PATH):
        return
    temporary = f"{_PATH}.{os.getpid()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755)
        try:
            os.fchmod(fd, 0o755)
            os.write(fd, program(name))
        finally:
            os.close(fd)
        os.rename(temporary, _PATH)
    except OSError:
        pass
