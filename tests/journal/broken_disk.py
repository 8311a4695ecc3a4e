"""System calls that fail from now on, in one thread: what a disk that breaks looks like to whoever writes to it.

The kernel itself answers them with an error (seccomp), so SQLite's own code deals with it. A thread's filter ends with
the thread: a journal that is opened again has a healthy disk.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from contextlib import suppress
from threading import Thread

NUMBERS = {
    "x86_64": {"pread64": 17, "pwrite64": 18, "fsync": 74, "fdatasync": 75, "ftruncate": 77},
    "aarch64": {"pread64": 67, "pwrite64": 68, "fsync": 82, "fdatasync": 83, "ftruncate": 46},
}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000
_instruction = struct.Struct("HBBI").pack


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def can_break() -> bool:
    """Return whether calls can be made to fail on this machine."""
    if sys.platform != "linux" or platform.machine() not in NUMBERS:
        return False
    taken: list[bool] = []

    def attempt() -> None:
        with suppress(OSError):
            break_calls("ftruncate")
            taken.append(True)

    thread = Thread(target=attempt)
    thread.start()
    thread.join()
    return bool(taken)


def break_calls(*names: str, error: int = errno.EIO) -> None:
    """Have these system calls of this thread fail from now on."""
    numbers = [NUMBERS[platform.machine()][name] for name in names]
    program = _instruction(_LOAD, 0, 0, 0)
    for place, number in enumerate(numbers):
        program += _instruction(_IF_EQUAL, len(numbers) - place, 0, number)  # on to the last instruction
    program += _instruction(_RETURN, 0, 0, _ALLOW) + _instruction(_RETURN, 0, 0, _ERRNO | error)
    instructions = ctypes.create_string_buffer(program, len(program))
    asked = _Program(len(numbers) + 3, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(asked), 0, 0):
        raise OSError(ctypes.get_errno(), "this kernel takes no filter")
