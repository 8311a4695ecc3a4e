"""Which system calls a sandboxed program is refused, as a classic BPF program for the kernel.

Rule 1: refused is what reaches beyond the namespaces (tracing, keys, kernel objects, mounts, new namespaces), what
takes memory that no limit counts (memory files, System V and POSIX queues), and every socket but unix ones. All else is
held by namespaces, limits and the missing rights.
Rule 2: numbers are those of the kernel's own tables; a machine that is not in them gets no filter, which is reported.

Source: linux/arch/x86/entry/syscalls/syscall_64.tbl and linux/include/uapi/asm-generic/unistd.h, version 6.12.
"""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass
from errno import ENOSYS, EPERM

_X86_64 = {
    "shmget": 29, "shmat": 30, "shmctl": 31, "shmdt": 67, "semget": 64, "semop": 65, "semctl": 66, "semtimedop": 220,
    "msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "mq_open": 240, "mq_unlink": 241,
    "ptrace": 101, "syslog": 103, "personality": 135, "modify_ldt": 154, "pivot_root": 155, "chroot": 161, "acct": 163,
    "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170,
    "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175, "delete_module": 176, "quotactl": 179,
    "lookup_dcookie": 212, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
    "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
    "finit_module": 313, "memfd_create": 319, "kexec_load": 246, "kexec_file_load": 320, "bpf": 321,
    "userfaultfd": 323, "vhangup": 153, "settimeofday": 164, "clock_settime": 227,
}  # fmt: skip
_AARCH64 = {
    "lookup_dcookie": 18, "quotactl": 60, "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "vhangup": 58,
    "acct": 89, "personality": 92, "unshare": 97, "kexec_load": 104, "init_module": 105, "delete_module": 106,
    "clock_settime": 112, "syslog": 116, "ptrace": 117, "reboot": 142, "sethostname": 161, "setdomainname": 162,
    "settimeofday": 170, "mq_open": 180, "mq_unlink": 181, "msgget": 186, "msgctl": 187, "msgrcv": 188, "msgsnd": 189,
    "semget": 190, "semctl": 191, "semtimedop": 192, "semop": 193, "shmget": 194, "shmctl": 195, "shmat": 196,
    "shmdt": 197, "add_key": 217, "request_key": 218, "keyctl": 219, "swapon": 224, "swapoff": 225, "move_pages": 239,
    "perf_event_open": 241, "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268,
    "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "memfd_create": 279,
    "bpf": 280, "userfaultfd": 282, "kexec_file_load": 294,
}  # fmt: skip
_NEWER = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447, "open_tree_attr": 467,
}  # fmt: skip
"""The same numbers on every machine."""
_CLONE3 = 435
_NEW_NAMESPACES = 0x7E02_0000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX = 1
_X32 = 0x4000_0000

_LOAD, _EQUAL, _AT_LEAST, _ANY_OF, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
"""Where the kernel puts what a call is about; of an argument, its lower half."""


@dataclass(frozen=True, slots=True)
class _Machine:
    audit: int
    refused: dict[str, int]
    socket: int
    clone: int
    ioctl: int


_MACHINES = {
    "x86_64": _Machine(0xC000_003E, _X86_64, 41, 56, 16),
    "aarch64": _Machine(0xC000_00B7, _AARCH64, 198, 220, 29),
}


def _step(code: int, operand: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("HBBI", code, then, otherwise, operand)


def seccomp_program(machine: str | None = None) -> bytes | None:
    """Return the filter for a machine (this one), or None where its numbers are not known."""
    known = _MACHINES.get(machine or platform.machine())
    if known is None:
        return None
    refuse = _step(_ANSWER, _ERROR | EPERM)
    allow = _step(_ANSWER, _ALLOW)
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, known.audit, 1, 0),
        _step(_ANSWER, _KILL),
        _step(_LOAD, _NUMBER),
        _step(_AT_LEAST, _X32, 0, 1),
        _step(_ANSWER, _ERROR | ENOSYS),
        _step(_EQUAL, _CLONE3, 0, 1),  # its flags lie where a filter cannot look; without it clone is used
        _step(_ANSWER, _ERROR | ENOSYS),
    ]
    for number in sorted({*known.refused.values(), *_NEWER.values()}):
        steps += [_step(_EQUAL, number, 0, 1), refuse]
    steps += [
        _step(_EQUAL, known.socket, 0, 4),
        _step(_LOAD, _FIRST),
        _step(_EQUAL, _AF_UNIX, 1, 0),
        refuse,
        allow,
        _step(_EQUAL, known.clone, 0, 4),
        _step(_LOAD, _FIRST),
        _step(_ANY_OF, _NEW_NAMESPACES, 0, 1),
        refuse,
        allow,
        _step(_EQUAL, known.ioctl, 0, 5),
        _step(_LOAD, _SECOND),
        _step(_EQUAL, _TIOCSTI, 1, 0),
        _step(_EQUAL, _TIOCLINUX, 0, 1),
        refuse,
        allow,
        allow,
    ]
    return b"".join(steps)
