"""What runs inside the cpython sandbox: takes a program from the host, runs it, and tells the host what it came to.

It is the text of this file that is run there, with nothing of planloom beside it: the standard library only.

Rule 1: it gives up every right and sets every limit before it reads a byte of the program.
Rule 2: the program shares this process and may do to it what it likes; the host believes nothing that comes from here.
Rule 3: messages are lines of JSON: the program in; calls of tools out, their answers in; one last line out.
"""

import ast
import builtins
import errno
import json
import os
import resource
import select
import sys
from collections.abc import Callable
from types import CodeType, CoroutineType, FunctionType, ModuleType
from typing import Any

_FROM_HOST, _TO_HOST = (int(number) for number in sys.argv[1:3])
_NO_MEMORY = b'{"t":"error","kind":"memory","text":"MemoryError: it needs more memory than it may have"}\n'
_NAME = "program.py"
_MAX_TEXT = 4_000
_RESULT = "__planloom_result__"
_AWAITS = 0x80
"""CO_COROUTINE: the code awaits at its top level."""


def _read_line() -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(_FROM_HOST, 65_536)
        if not piece:
            os._exit(1)
        line += piece
    return bytes(line)


def _give_up_rights(uid: int | None) -> None:
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if os.geteuid() == 0 or os.getuid() == 0:
        os._exit(99)


def _set_limits(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            resource.setrlimit(kind, (value, value))


def _begin() -> dict[str, Any]:
    """Become nobody, and return what the host has to say."""
    _give_up_rights(int(sys.argv[3]) if sys.argv[3] else None)
    _set_limits({name: int(value) for name, _, value in (given.partition("=") for given in sys.argv[4:])})
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    os.set_blocking(_TO_HOST, False)
    _send({"t": "ready"})
    told: dict[str, Any] = json.loads(_read_line())
    return told


def _send(message: dict[str, Any], hear: Callable[[], None] | None = None) -> None:
    """Send a message; while there is no room for it, hear what the host has to say, which may wait for that."""
    line = memoryview(json.dumps(message, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    while line:
        try:
            line = line[os.write(_TO_HOST, line) :]
        except BlockingIOError:
            if select.select([] if hear is None else [_FROM_HOST], [_TO_HOST], [])[0] and hear is not None:
                hear()


class _Tools:
    """The one way out: asks the host for a call and waits for what it came to."""

    def __init__(self) -> None:
        import threading

        self._lock = threading.Lock()
        self._last = 0
        self._waiting: dict[int, Any] = {}
        self._heard = b""
        self._loop: Any = None

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._lock:
            number = self._ask(name, args, kwargs)
            answer = json.loads(_read_line())
            if answer["id"] != number:
                raise RuntimeError("an answer to another call")
        return _answered(answer)

    async def call_later(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        import asyncio

        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.add_reader(_FROM_HOST, self._hear)
        future = loop.create_future()
        self._waiting[self._last + 1] = future
        self._ask(name, args, kwargs, self._hear)
        return _answered(await future)

    def _ask(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], hear: Callable[[], None] | None = None
    ) -> int:
        self._last += 1
        number = self._last
        try:
            _send({"t": "call", "id": number, "name": name, "args": args, "kwargs": kwargs}, hear)
        except (TypeError, ValueError) as error:
            raise TypeError(f"arguments of {name} must be JSON: {error}") from None
        return number

    def _hear(self) -> None:
        piece = os.read(_FROM_HOST, 65_536)
        if not piece:
            os._exit(1)
        *lines, self._heard = (self._heard + piece).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            future = self._waiting.pop(answer["id"], None)
            if future is not None and not future.done():
                future.set_result(answer)


def _answered(answer: dict[str, Any]) -> Any:
    if "error" in answer:
        raise TypeError(answer["error"])
    return answer["value"]


def _function(tools: _Tools, name: str, is_async: bool) -> FunctionType:
    if is_async:

        async def later(*args: Any, **kwargs: Any) -> Any:
            return await tools.call_later(name, args, kwargs)

        made: Any = later
    else:

        def now(*args: Any, **kwargs: Any) -> Any:
            return tools.call(name, args, kwargs)

        made = now
    made.__name__ = made.__qualname__ = name
    return made  # type: ignore[no-any-return]


class _Namespace:
    """`tools` and `functions`: whatever name is called goes to the host, which says no where it has to."""

    def __init__(self, tools: _Tools, is_async: bool) -> None:
        self._tools = tools
        self._is_async = is_async

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _function(self._tools, name, self._is_async)

    __getitem__ = __getattr__


def _guard_imports(allowed: list[str]) -> None:
    """Refuse other modules to whoever imports them by name; whoever gets round this is in the sandbox still."""
    real, names = builtins.__import__, frozenset(allowed)

    def guarded(name: str, globals: Any = None, *rest: Any, **more: Any) -> Any:
        asker = (globals or {}).get("__name__")
        parts = name.split(".")
        if asker == "__main__" and not any(".".join(parts[: count + 1]) in names for count in range(len(parts))):
            raise PermissionError(f"module {name!r} may not be imported here")
        return real(name, globals, *rest, **more)

    builtins.__import__ = guarded


def _holds(body: list[Any], kinds: tuple[type, ...]) -> bool:
    """Return whether one of these stands outside of any function."""
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, kinds):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return False


def _compiled(source: str) -> tuple[CodeType, bool]:
    """Return the program as code, and whether that defines a function: so it does if it returns from its top level."""
    tree = ast.parse(source, _NAME)
    body = tree.body
    is_function = _holds(body, (ast.Return,))
    last = body[-1] if body else None
    if is_function:
        if isinstance(last, ast.Expr):
            body[-1] = ast.copy_location(ast.Return(last.value), last)
        names = _variables(body)
        tree.body = [_function_of([ast.Global(names), *body] if names else body)]
    elif isinstance(last, ast.Expr):
        target = ast.copy_location(ast.Name(_RESULT, ast.Store()), last)
        body[-1] = ast.copy_location(ast.Assign([target], last.value), last)
    ast.fix_missing_locations(tree)
    return compile(tree, _NAME, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), is_function


def _function_of(body: list[Any]) -> Any:
    awaits = _holds(body, (ast.Await, ast.AsyncFor, ast.AsyncWith))
    nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    made: Any = (ast.AsyncFunctionDef if awaits else ast.FunctionDef)(_RESULT, nothing, body, [])
    made.type_params = []
    return made


def _variables(body: list[Any]) -> list[str]:
    """Return the names that would be variables of the function that the program is put into: they are to be global."""
    trial = compile(ast.fix_missing_locations(ast.Module([_function_of(body)], [])), _NAME, "exec")
    inner = next(const for const in trial.co_consts if isinstance(const, CodeType))
    return sorted({name for name in (*inner.co_varnames, *inner.co_cellvars) if name.isidentifier()})


def _run(code: CodeType, is_function: bool, main: dict[str, Any]) -> Any:
    if not code.co_flags & _AWAITS:
        exec(code, main)  # noqa: S102 - that is what this is for
        value = main.pop(_RESULT, None)
        if not is_function:
            return value
        value = value()
        return _awaited(value) if type(value) is CoroutineType and value.cr_code.co_name == _RESULT else value
    _awaited(FunctionType(code, main)())
    return main.pop(_RESULT, None)


def _awaited(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def _kind(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno in _DISK:
        return "disk"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "memory"
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        return "denied"
    return "runtime"


def _unreadable(error: BaseException) -> dict[str, Any]:
    """Return what to say of a program that is none; a parser that gives up says so in many ways."""
    text = "too deeply nested" if isinstance(error, MemoryError | RecursionError) else str(error)
    return {"t": "error", "kind": "syntax", "text": f"SyntaxError: {text}"[:_MAX_TEXT]}


def _told(error: BaseException) -> dict[str, Any]:
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _NAME:
            line = trace.tb_lineno
        trace = trace.tb_next
    error.__traceback__ = error.__context__ = error.__cause__ = None  # what they hold may be all the memory there is
    text = f"{type(error).__name__}: {_words(error)}"[:_MAX_TEXT]
    where = f" (line {line})" if line is not None else ""
    name = error.name if isinstance(error, NameError) else None
    return {"t": "error", "kind": _kind(error), "text": text + where, "name": name}


def _words(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "it needs more memory than it may have"
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - the program's own exceptions may do anything when they are looked at
        return "it cannot be shown"


def _main() -> None:
    told = _begin()
    main = ModuleType("__main__")
    main.__dict__.update(told["inputs"])
    if told["tools"] or told["namespaces"]:
        tools = _Tools()
        for name in told["namespaces"]:
            main.__dict__.setdefault(name, _Namespace(tools, told["is_async"]))
        main.__dict__.update({name: _function(tools, name, told["is_async"]) for name in told["tools"]})
    sys.modules["__main__"] = main
    sys.argv = [_NAME]
    if told["imports"] is not None:
        _guard_imports(told["imports"])
    try:
        code, is_function = _compiled(told["source"])
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        _send(_unreadable(error))
        return
    try:
        message = {"t": "done", "result": _run(code, is_function, main.__dict__)}
    except BaseException as error:  # noqa: BLE001 - a program may raise whatever it likes
        if isinstance(error, MemoryError):
            main.__dict__.clear()
        message = _told(error)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        _send(message)
    except (TypeError, ValueError, RecursionError) as error:
        _send({"t": "error", "kind": "result", "text": f"what it returned is no JSON: {error}"[:_MAX_TEXT]})


try:
    _main()
except MemoryError:
    os.set_blocking(_TO_HOST, True)
    os.write(_TO_HOST, _NO_MEMORY)
finally:
    os._exit(0)
