"""One program in Monty: the process it runs in, and the thread that talks to it.

Rule 1: one thread drives one program and owns its pool; nobody else calls Monty. (Its pool for asyncio is left alone:
an earlier one could take Python down with it at exit.)
Rule 2: no thread is in Monty's library when Python shuts down: by then every process is killed and every thread joined.
A thread that comes back from it later takes Python down with it.
Rule 3: the process gets nothing of this one's environment, and cannot write to our terminal.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from collections import deque
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from planloom.core.code import ErrorType
from planloom.errors import NoSandboxError, OutputError
from planloom.sandbox.ending import MAX_ERROR
from planloom.sandbox.program import NAMESPACES, WORK, bounded, is_async

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from types import ModuleType

    from planloom.core.code import Program

NAME = "monty"
NAME_OF_LIBRARY = "pydantic_monty"
SPARE_MEMORY = 48 * 10**6
"""Bytes that the process may have beyond the program's own: the interpreter, its stack, a message under way."""
_SLEEPS = ("system.sleep", "system.async_sleep")
_MAX_DEPTH = 400
"""Calls inside each other; each takes some of the process's own stack."""
_INSTALL = "pip install 'planloom[sandbox]'"

_live: set[Drive] = set()
_live_lock = threading.Lock()


def monty_library() -> ModuleType:
    try:
        import pydantic_monty
    except ImportError:
        raise _not_installed() from None
    return pydantic_monty


def missing() -> NoSandboxError | None:
    """Return why programs cannot run here, without importing anything."""
    return None if NAME_OF_LIBRARY in sys.modules or find_spec(NAME_OF_LIBRARY) is not None else _not_installed()


def _not_installed() -> NoSandboxError:
    return NoSandboxError("`runtime: monty` needs the package pydantic-monty", remedy=_INSTALL, backend=NAME)


class _Starter:
    """A script that starts Monty without this process's environment, and without its complaints on our terminal."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._path: str | None = None

    def path(self) -> str | None:
        """Return the script, made where it is not there; None: there can be none, and Monty finds its own way."""
        with self._lock:
            if self._path is None or not os.path.exists(self._path):
                self._path = self._made()
            return self._path

    def _made(self) -> str | None:
        beside = Path(sys.executable).with_name("monty")
        monty = os.environ.get("MONTY_BIN") or (str(beside) if beside.exists() else shutil.which("monty"))
        if monty is None or sys.platform == "win32":
            return None
        folder = tempfile.mkdtemp(prefix="planloom-monty-")
        atexit.register(_remove, folder, os.getpid())
        script = Path(folder, "monty")
        tied = shutil.which("setpriv")  # a process that is held back could not end by itself if this one is killed
        ties = f"{shlex.quote(tied)} --pdeathsig KILL " if tied is not None else ""
        line = f'exec env -i {ties}{shlex.quote(monty)} "$@" 2>/dev/null'
        script.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        script.chmod(0o700)
        return str(script) if os.access(script, os.X_OK) else None  # a folder that nothing can be run from


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a fork of it
        shutil.rmtree(folder, ignore_errors=True)


_starter = _Starter()


class Asker(Protocol):
    """Whom a program's thread tells of it."""

    def tell(self, what: str, *told: Any) -> None:
        """Have `what` done with these, on the event loop."""
        ...


class _Namespace:
    """What `tools` and `functions` are in a program: a thing without anything, whose every call comes to the host."""


class Drive:
    """The thread of one program: it is the only one that talks to Monty.

    Attributes:
        answers: What calls of tools came to, by number; None: give up.
    """

    def __init__(self, program: Program, library: ModuleType, running: Asker) -> None:
        self._program = program
        self._library = library
        self._running = running
        self._is_async = False
        self._given_up = False
        self._pidfd = -1
        self._process = 0
        self._lock = threading.Lock()
        self.answers: SimpleQueue[tuple[int, dict[str, Any]] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="planloom-monty", daemon=True)
        self._inputs: dict[str, Any] = {}
        self._printed = 0
        self._asked = 0
        self._called_for: set[int] = set()
        """Calls of tools whose answers have not been taken."""
        self._early: deque[tuple[int, dict[str, Any]]] = deque()
        """Answers that came while another was waited for."""

    def begin(self, inputs: dict[str, Any]) -> None:
        self._inputs = inputs
        self._is_async = is_async(self._program.source)
        with _live_lock:
            _live.add(self)
        self.thread.start()

    def processes(self) -> list[int]:
        return [self._process] if self._process else []

    def end(self) -> None:
        """Have the thread come back: kill its process, and tell it to wait for nothing more."""
        self.answers.put(None)
        with self._lock:
            self._given_up = True
            self._kill()

    def _kill(self) -> None:
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        elif self._process:  # not Linux
            with suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)

    # --- in the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        library = self._library
        try:
            self._in_session()
        except _GivenUp:
            pass
        except library.MontySyntaxError as error:
            self._running.tell("failed", ErrorType.SYNTAX, f"SyntaxError: {error}{_line_of(error)}")
        except library.MontyRuntimeError as error:
            self._running.tell("failed", *_told(error))
        except library.MontyCrashedError as error:
            self._running.tell("failed", ErrorType.CRASHED, f"its process died: {error}")
        except library.MontyError as error:
            self._running.tell("failed", ErrorType.RUNTIME, f"{type(error).__name__}: {error}")
        except (ValueError, TypeError, OverflowError, OutputError) as error:  # what it gave has no form here
            text = error.message if isinstance(error, OutputError) else str(error)[:MAX_ERROR]
            self._running.tell("failed", ErrorType.RESULT, text)
        except (OSError, RuntimeError, TimeoutError) as error:
            self._running.tell("raises", NoSandboxError(f"Monty cannot be started: {error}", remedy=_INSTALL))
        finally:
            with self._lock:
                if self._pidfd >= 0:
                    os.close(self._pidfd)
                self._pidfd, self._process = -1, 0
            with _live_lock:
                _live.discard(self)
            self._running.tell("has_stopped")

    def _in_session(self) -> None:
        program, library, limits = self._program, self._library, self._program.limits
        starter = _starter.path()
        options: dict[str, Any] = {} if starter is None else {"binary_path": starter}
        with ExitStack() as stack:
            pool = stack.enter_context(library.Monty(min_processes=1, max_processes=1, **options))
            session = stack.enter_context(
                pool.checkout(
                    script_name="program.py",
                    limits={
                        "max_memory": limits.memory_bytes,
                        "max_feed_duration_secs": limits.wall_s,
                        "max_recursion_depth": _MAX_DEPTH,
                        # Names of functions are looked up, too, so there is room beyond the calls themselves.
                        "max_suspensions": 4 * limits.tool_calls + 100_000,
                    },
                )
            )
            self._hold(session.worker_pid)
            started = session.feed_start(
                program.source,
                inputs=self._inputs | self._namespaces(),
                print_callback=self._print,
                mount=self._files(stack),
                cwd=WORK if limits.disk_bytes else None,
            )
            value = self._driven(started)
        self._running.tell("done", bounded(value, limits.result_bytes)[0])

    def _hold(self, process: int | None) -> None:
        """Take hold of the process before the program has begun: by a descriptor, and with limits of the kernel's."""
        if process is None:
            raise RuntimeError("it has no process")
        with self._lock:
            if hasattr(os, "pidfd_open"):
                self._pidfd = os.pidfd_open(process)
            self._process = process
            if self._given_up:
                self._kill()
                raise _GivenUp
        if sys.platform == "linux":
            # What the interpreter's own limits miss, e.g. a message that it puts together.
            most = self._program.limits.memory_bytes + SPARE_MEMORY
            limits = {resource.RLIMIT_DATA: most, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
            for kind, value in limits.items():
                with suppress(OSError, ValueError):
                    resource.prlimit(process, kind, (value, value))

    def _namespaces(self) -> dict[str, Any]:
        if not self._program.tools:
            return {}
        made = self._library.ClassInstance(_Namespace(), allowed_methods=set())
        return {name: made for name in NAMESPACES if name not in self._inputs}

    def _files(self, stack: ExitStack) -> Any:
        limits = self._program.limits
        if not limits.disk_bytes:
            return None
        folder = tempfile.mkdtemp(prefix="planloom-empty-")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        mounted = stack.enter_context(
            self._library.MountDir(
                host_path=folder,
                virtual_path=WORK,
                mode="overlay",
                write_bytes_limit=limits.disk_bytes,
                memory_usage_limit=limits.disk_bytes,
            )
        )
        with suppress(OSError):  # Monty has it open, and needs no name for it: nothing is left if we are killed
            os.rmdir(folder)
        return mounted

    def _print(self, stream: str, text: str) -> None:
        """Pass on a piece of output; what is beyond the limit, or nothing, does not even wait to be looked at."""
        most = self._program.limits.output_bytes
        if text and self._printed <= most:
            self._printed += len(text)
            self._running.tell("printed", stream, text[: most + 1])

    def _driven(self, snapshot: Any) -> Any:
        """Answer whatever the program asks until it is done; return its value."""
        library = self._library
        while not isinstance(snapshot, library.MontyComplete):
            if self._given_up:
                raise _GivenUp
            if isinstance(snapshot, library.FunctionSnapshot):
                snapshot = self._called(snapshot)
            elif isinstance(snapshot, library.NameLookupSnapshot):
                snapshot = self._looked_up(snapshot)
            else:
                number, told = self._early.popleft() if self._early else self._heard()
                self._takes(number)
                snapshot = snapshot.resume({number: _settled(told)})
        return snapshot.output

    def _takes(self, number: int) -> None:
        """Say that an answer goes to the program."""
        if number in self._called_for:
            self._called_for.discard(number)
            self._running.tell("took")

    def _looked_up(self, snapshot: Any) -> Any:
        name = snapshot.variable_name
        if name not in self._program.tools:
            if snapshot.object_id is not None or self._program.forbids(name):
                self._running.tell("failed", ErrorType.DENIED, f"there is no tool {name!r:.200}")
                raise _GivenUp
            return snapshot.resume()

        def stands_for_it() -> None:
            """Never called: it is the name that a call comes back with."""

        stands_for_it.__name__ = name
        return snapshot.resume(value=stands_for_it)

    def _called(self, snapshot: Any) -> Any:
        name = snapshot.function_name
        if name in _SLEEPS and snapshot.is_os_function:
            return self._slept(snapshot)
        if snapshot.is_os_function:
            return snapshot.resume_auto()
        tools = self._program.tools
        if name not in tools and snapshot.object_id is None and not self._program.forbids(name):
            return snapshot.resume({"exc_type": "NameError", "message": f"name {name!r} is not defined"})
        limit = self._program.limits.result_bytes
        (args, size), (kwargs, more) = bounded(snapshot.args, limit), bounded(snapshot.kwargs, limit)
        number = snapshot.call_id
        self._asked += 1
        if self._asked > self._program.limits.tool_calls + 1:  # one more is refused with words
            raise _GivenUp
        self._running.tell("call", number, name, tuple(args), kwargs, size + more)
        self._called_for.add(number)
        if self._is_async and name in tools:
            return snapshot.resume({"future": ...})
        return snapshot.resume(_settled(self._heard_of(number)))

    def _slept(self, snapshot: Any) -> Any:
        """Have the event loop say when a sleep is over, so that it ends with the program."""
        number = snapshot.call_id
        self._running.tell("sleep", number, float(snapshot.args[0]))
        if snapshot.function_name == _SLEEPS[1]:
            return snapshot.resume({"future": ...})
        return snapshot.resume(_settled(self._heard_of(number)))

    def _heard_of(self, number: int) -> dict[str, Any]:
        while True:
            found, told = self._heard()
            if found == number:
                self._takes(number)
                return told
            self._early.append((found, told))

    def _heard(self) -> tuple[int, dict[str, Any]]:
        heard = self.answers.get()
        if heard is None:
            raise _GivenUp
        return heard


class _GivenUp(Exception):  # noqa: N818 - never leaves this file
    """Nobody waits for the program any more."""


def _settled(told: dict[str, Any]) -> dict[str, Any]:
    if "error" in told:
        return {"exc_type": "TypeError", "message": told["error"]}
    return {"return_value": told["value"]}


_KINDS = (
    (MemoryError, ErrorType.MEMORY),
    (SyntaxError, ErrorType.SYNTAX),
    ((PermissionError, ImportError), ErrorType.DENIED),
)
_BY_INTERPRETER = ("limit exceeded", "sleep limit")


def _told(error: Any) -> tuple[ErrorType, str]:
    """Return the kind of an exception of the program, and its text."""
    inner = error.exception()
    kind = next((found for types, found in _KINDS if isinstance(inner, types)), ErrorType.RUNTIME)
    text = str(error)[:MAX_ERROR]
    if isinstance(inner, TimeoutError) and any(word in text for word in _BY_INTERPRETER):
        kind = ErrorType.TIMEOUT
    elif isinstance(inner, RuntimeError) and "is not supported in this environment" in text:
        kind = ErrorType.DENIED
    elif "disk write limit" in text or "mount memory usage limit" in text:
        kind = ErrorType.DISK
    return kind, f"{text}{_line_of(error)}"


def _line_of(error: Any) -> str:
    frames = error.traceback()
    return f" (line {frames[-1].line})" if frames else ""


@atexit.register
def _leave_nothing() -> None:
    """Rule 2."""
    with _live_lock:
        drives = list(_live)
    for drive in drives:
        drive.end()
    for drive in drives:
        drive.thread.join(timeout=2.0)
