"""Which system calls a sandboxed program is refused, as a classic BPF program for the kernel.

Rule 1: refused is what reaches beyond the namespaces (tracing, keys, kernel objects, mounts, new namespaces), what
takes memory of the kernel's that no limit counts (memory files, System V and POSIX queues, queues of file events and of
asynchronous input and output, rules of Landlock, larger socket buffers, locks of open files), what keeps every disk of
the machine busy (`sync`), what hides a child's processor time (SIGCHLD not minded), and every socket but unix ones. All
else is held by namespaces, limits and the missing rights.
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
    "inotify_init": 253, "inotify_init1": 294, "io_setup": 206, "sync": 162, "syncfs": 306, "setsockopt": 54,
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
    "inotify_init1": 26, "io_setup": 0, "sync": 81, "syncfs": 267, "setsockopt": 208,
}  # fmt: skip
_NEWER = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "quotactl_fd": 443, "landlock_create_ruleset": 444, "memfd_secret": 447, "statmount": 457,
    "listmount": 458, "open_tree_attr": 467,
}  # fmt: skip
"""The same numbers on every machine."""
_CLONE3 = 435
_NEW_NAMESPACES = 0x7E02_0000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX = 1
_SIGCHLD = 17
_LOCKS_OF_OPEN_FILES = (37, 38)
"""F_OFD_SETLK and F_OFD_SETLKW, of which `/proc/locks` does not say whose they are."""
_X32 = 0x4000_0000

_LOAD, _EQUAL, _AT_LEAST, _ANY_OF, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
"""Where the kernel puts what a call is about; of an argument, its lower half."""


@dataclass(frozen=True, slots=True)
class _Machine:
    audit: int
    refused: dict[str, int]
    sockets: tuple[int, int]
    """`socket` and `socketpair`."""
    clone: int
    ioctl: int
    sigaction: int
    fcntl: int


_MACHINES = {
    "x86_64": _Machine(0xC000_003E, _X86_64, (41, 53), 56, 16, 13, 72),
    "aarch64": _Machine(0xC000_00B7, _AARCH64, (198, 199), 220, 29, 134, 25),
}


def _step(code: int, operand: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("HBBI", code, then, otherwise, operand)


_REFUSE = _step(_ANSWER, _ERROR | EPERM)
_LET = _step(_ANSWER, _ALLOW)


def seccomp_program(machine: str | None = None) -> bytes | None:
    """Return the filter for a machine (this one), or None where its numbers are not known."""
    known = _MACHINES.get(machine or platform.machine())
    if known is None:
        return None
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
        steps += [_step(_EQUAL, number, 0, 1), _REFUSE]
    for number in known.sockets:
        steps += _unless(number, _FIRST, (_AF_UNIX,))
    steps += [
        _step(_EQUAL, known.clone, 0, 4),
        _step(_LOAD, _FIRST),
        _step(_ANY_OF, _NEW_NAMESPACES, 0, 1),
        _REFUSE,
        _LET,
    ]
    steps += _where(known.ioctl, _SECOND, (_TIOCSTI, _TIOCLINUX))
    steps += _where(known.fcntl, _SECOND, _LOCKS_OF_OPEN_FILES)
    steps += _where(known.sigaction, _FIRST, (_SIGCHLD,))
    return b"".join([*steps, _LET])


def _where(number: int, argument: int, values: tuple[int, ...]) -> list[bytes]:
    """Refuse a call where one of its arguments is one of these."""
    tests = [_step(_EQUAL, value, len(values) - place, 0) for place, value in enumerate(values)]
    return [_step(_EQUAL, number, 0, len(values) + 3), _step(_LOAD, argument), *tests, _LET, _REFUSE]


def _unless(number: int, argument: int, values: tuple[int, ...]) -> list[bytes]:
    """Refuse a call where one of its arguments is none of these."""
    tests = [_step(_EQUAL, value, len(values) - place, 0) for place, value in enumerate(values)]
    return [_step(_EQUAL, number, 0, len(values) + 3), _step(_LOAD, argument), *tests, _REFUSE, _LET]
