"""Programs that try to get out of a sandbox, or to take more than they may; each says ESCAPED if it could.

`@CANARY@` is a file of the host with a secret in it, `@FOLDER@` its folder, `@PORT@` a port that listens there,
`@SOCKET@` a unix socket, `@ABSTRACT@` an abstract one, `@PARENT@` the process that asks. The environment of that has
`CANARY_SECRET`.
"""

# ruff: noqa: E501 - a program is written as it would be sent

from __future__ import annotations

PROGRAMS: dict[str, str] = {
    # --- walks through Python's own objects ---
    "subclasses walk to an importer": """
for c in ().__class__.__base__.__subclasses__():
    if c.__name__ == 'BuiltinImporter':
        posix = c.load_module('posix')
        return open('@CANARY@').read()
return 'no importer'
""",
    "subclasses walk to a warning's module": """
for c in [].__class__.__mro__[1].__subclasses__():
    if c.__name__ == 'catch_warnings':
        return c()._module.__builtins__['open']('@CANARY@').read()
return 'nothing'
""",
    "subclasses walk to Popen": """
import subprocess
for c in object.__subclasses__():
    if c.__name__ == 'Popen':
        return c(['/bin/sh', '-c', 'cat @CANARY@'], stdout=-1).communicate()[0].decode()
return 'nothing'
""",
    "os through a wrapped class's globals": """
for c in object.__subclasses__():
    found = getattr(getattr(c, '__init__', None), '__globals__', None)
    if found and 'environ' in found:
        return str(dict(found['environ']))
return 'nothing'
""",
    "format string walk": """
class A:
    def __init__(self): pass
return '{0.__init__.__globals__}'.format(A()) + '{0.__class__.__mro__}'.format(1)
""",
    "format_map with attributes": "return '{x.__class__.__init__.__globals__}'.format_map({'x': print})",
    "globals of a function": "def f(): pass\nreturn str(f.__globals__['__builtins__'].open('@CANARY@').read())",
    "builtins of a generator's frame": """
def g(): yield
f = g()
while f.gi_frame is not None:
    return f.gi_frame.f_back.f_globals['__builtins__'].open('@CANARY@').read()
""",
    "frames through a running generator": """
def g():
    global it
    frame = it.gi_frame
    while frame.f_back is not None:
        frame = frame.f_back
        if '_TO_HOST' in frame.f_globals:
            yield str(frame.f_globals['os'].environ) + frame.f_globals['builtins'].open('@CANARY@').read()
it = g()
return next(it)
""",
    "frames of a coroutine": "async def f(): pass\nc = f()\nreturn str(c.cr_frame.f_back.f_globals['os'].environ)",
    "traceback of an exception": """
try:
    1 / 0
except ZeroDivisionError as e:
    f = e.__traceback__.tb_frame
    while f.f_back: f = f.f_back
    return f.f_globals['os'].read(f.f_globals['os'].open('@CANARY@', 0), 1000).decode()
""",
    "AttributeError.obj": """
try:
    ().nothing
except AttributeError as e:
    return e.obj.__class__.__base__.__subclasses__()[0].__name__ + open('@CANARY@').read()
""",
    "NameError through an exception group": """
try:
    raise ExceptionGroup('', [ValueError()])
except* ValueError as e:
    print(e.__traceback__.tb_frame.f_builtins['open']('@CANARY@').read())
""",
    "sys._getframe": "import sys\nreturn str(sys._getframe(1).f_globals['os'].listdir('@FOLDER@'))",
    "code objects made by hand": """
def f(): pass
c = f.__code__.replace(co_code=bytes([0x64, 0xff] * 20), co_consts=())
f.__code__ = c
return str(f())
""",
    "a code object with wild bytecode": """
import types
f = types.FunctionType((lambda: 0).__code__.replace(co_code=b'\\x97\\x00\\x7c\\x7f\\x53\\x00'), {})
return str(f())
""",
    "exec with builtins of its own": """
exec("print(__builtins__.open('@CANARY@').read())", {})
""",
    "eval of a walk": "return eval(\"().__class__.__base__.__subclasses__\" + '()')[0].__name__ + open('@CANARY@').read()",
    "lambda default with builtins": "return (lambda f=__builtins__: f)().__dict__['open']('@CANARY@').read()",
    "the __builtins__ name": "b = __builtins__\nreturn (b['open'] if isinstance(b, dict) else b.open)('@CANARY@').read()",
    "str subclass that lies": """
class S(str):
    def __eq__(self, o): return True
    def __hash__(self): return hash('tools')
return open(S('@CANARY@')).read()
""",
    "descriptors and metaclasses": """
class M(type):
    def __getattribute__(c, n): return type.__getattribute__(c, n)
class X(metaclass=M): pass
return X.__class__.__base__.__subclasses__(type)[0].__name__ + open('@CANARY@').read()
""",
    "gc for objects of the host": """
import gc
return str([o for o in gc.get_objects() if isinstance(o, dict) and 'CANARY_SECRET' in o])
""",
    "audit hooks": "import sys\nsys.addaudithook(lambda *a: print(a))\nreturn open('@CANARY@').read()",
    "sys.modules and its real os": "import sys\nreturn sys.modules['os'].popen('cat @CANARY@').read()",
    "the program's own main module": "import __main__\nreturn str(vars(__main__)) + open('@CANARY@').read()",
    # --- imports ---
    "import os": "import os\nreturn os.listdir('@FOLDER@')",
    "import os.path": "import os.path\nreturn os.path.exists('@CANARY@') and 'ESCAPED'",
    "import subprocess": "import subprocess\nreturn subprocess.check_output(['cat', '@CANARY@']).decode()",
    "importlib": "import importlib\nreturn importlib.import_module('os').stat('@CANARY@').st_size and 'ESCAPED'",
    "__import__": "return str(__import__('os').listdir('@FOLDER@'))",
    "importlib.util from a path": """
import importlib.util
spec = importlib.util.spec_from_file_location('x', '@CANARY@')
return spec.loader.get_data('@CANARY@').decode()
""",
    "a loader's get_data": "return __loader__.get_data('@CANARY@').decode()",
    "codecs.open": "import codecs\nreturn codecs.open('@CANARY@').read()",
    "io.open_code and FileIO": "import io\nreturn io.FileIO('@CANARY@').read().decode() + io.open_code('@CANARY@').read().decode()",
    "linecache": "import linecache\nlines = linecache.getlines('@CANARY@')\nreturn lines or 'nothing'",
    "runpy": "import runpy\nrunpy.run_path('@CANARY@')",
    "pathlib read": "import pathlib\nreturn pathlib.Path('@CANARY@').read_text()",
    "open of a host file": "return open('@CANARY@').read()",
    "glob and walk": "import os\nreturn [f for _, _, files in os.walk('/') for f in files if 'canary' in f]",
    "packages of the host": "import planloom\nreturn planloom.__file__",
    "site-packages of the host": "import pydantic\nreturn pydantic.__file__",
    # --- native code ---
    "ctypes and libc": "import ctypes\nl = ctypes.CDLL(None)\nreturn l.system(b'cat @CANARY@')",
    "ctypes pokes memory": "import ctypes\nctypes.memset(0, 1, 1)",
    "ctypes mounts": "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nreturn ['ESCAPED'][l.mount(b'none', b'/work', b'tmpfs', 0, 0) != 0:]",
    "ctypes makes a user namespace": """
import ctypes
l = ctypes.CDLL(None, use_errno=True)
return 'ESCAPED' if l.unshare(0x10000000) == 0 else l.clone(0, 0, 0x10000000 | 17, 0)
""",
    "ctypes ptrace": "import ctypes\nl = ctypes.CDLL(None)\nreturn ['ESCAPED'][l.ptrace(16, 1, 0, 0) != 0:]",
    "ctypes setuid 0": "import ctypes\nl = ctypes.CDLL(None)\nreturn ['ESCAPED'][l.setuid(0) != 0:]",
    "ctypes keyctl, bpf and io_uring": """
import ctypes
l = ctypes.CDLL(None)
return [n for n in (250, 321, 425, 298, 310, 304, 308) if l.syscall(n, 0, 0, 0, 0, 0) >= 0] and 'ESCAPED'
""",
    "ctypes memfd, shm and message queues": """
import ctypes
l = ctypes.CDLL(None)
return [n for n, a in ((319, b'x'), (29, 0), (68, 0), (447, 0)) if l.syscall(n, a, 1 << 30, 0o1600) >= 0] and 'ESCAPED'
""",
    "ctypes vsock, netlink, packet and alg": """
import ctypes
l = ctypes.CDLL(None)
return [f for f in (40, 16, 17, 38, 31) if l.socket(f, 1, 0) >= 0] and 'ESCAPED'
""",
    "int 0x80 by the other architecture": """
import ctypes, mmap
m = mmap.mmap(-1, 4096, prot=7)
m.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')
f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))
return ['ESCAPED'] if f() > 0 else 'no'
""",
    "ctypes inotify, landlock, io_setup and sync": """
import ctypes
l = ctypes.CDLL(None)
n = ctypes.c_ulong(0)
return [c for c, a, b in ((253, 0, 0), (294, 0, 0), (444, 0, 0), (206, 8, ctypes.byref(n)), (162, 0, 0), (306, 0, 0)) if l.syscall(c, a, b, 1) >= 0] and 'ESCAPED'
""",
    "socket pairs of other families": """
import socket, errno
for family in (2, 10, 16, 30, 40):
    try: socket.socketpair(family, 1)
    except OSError as e:
        if e.errno != errno.EPERM: return 'ESCAPED'
""",
    "larger buffers of sockets": "import socket\na, b = socket.socketpair()\na.setsockopt(1, 7, 1 << 24)\nreturn 'ESCAPED'",
    # --- processes and signals ---
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "quiet fork bomb": "import os\nfor _ in range(50):\n    os.fork()",
    "daemonised child": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3): os.close(fd)
        while True: time.sleep(0.1)
    os._exit(0)
return 'left one'
""",
    "a child that prints for ever": "import os\nif os.fork() == 0:\n    while True: print('x' * 1000)\nreturn 'left one'",
    "threads without end": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()",
    "thread that outlives the program": "import threading\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()\nreturn 1",
    "signals to the parent": """
import os, signal
for p in (@PARENT@, os.getppid(), 0, -1, 1):
    for s in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        try: os.kill(p, s)
        except OSError: pass
""",
    "signals to the group": "import os\nos.killpg(os.getpgid(0), 15)\nos.killpg(0, 15)",
    "pidfd of the parent": "import os\nf = os.pidfd_open(@PARENT@)\nimport signal\nsignal.pidfd_send_signal(f, signal.SIGUSR1)\nreturn 'ESCAPED'",
    "exec of a shell": "import os\nos.execv('/bin/sh', ['sh', '-c', 'cat @CANARY@'])",
    "exec of another Python": "import os, sys\nos.execv(sys.executable, ['p', '-c', 'print(open(\"@CANARY@\").read())'])",
    "ignores every signal": "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
    "stops itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nos.kill(os.getppid(), signal.SIGSTOP)",
    "raises its own limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nresource.setrlimit(resource.RLIMIT_NPROC, (-1, -1))\nreturn 'ESCAPED'",
    "multiprocessing": "import multiprocessing as m\nreturn m.Pool(50).map(abs, range(50))",
    # --- files ---
    "procfs": "return open('/proc/@PARENT@/environ').read() + open('/proc/1/environ').read()",
    "proc 1 root": "return open('/proc/1/root@CANARY@').read()",
    "proc self mem and fds": "import os\nreturn str(os.listdir('/proc/self/fd')) + open('/proc/self/mem', 'rb').read(10).hex()",
    "open descriptors left by the host": """
import os
for fd in range(3, 64):
    try:
        os.fchdir(fd)
        return 'ESCAPED'
    except OSError: pass
return 'none'
""",
    "symlink out": "import os\nos.symlink('@CANARY@', 'x')\nreturn open('x').read()",
    "path of dots": "return open('../../../../../../..@CANARY@').read()",
    "hard link out": "import os\nos.link('@CANARY@', 'x')\nreturn open('x').read()",
    "writing outside": "open('@FOLDER@/escaped', 'w').write('ESCAPED')",
    "writing to /tmp, /dev/shm, /usr": """
for f in ('/tmp/escaped', '/dev/shm/escaped', '/usr/escaped', '/escaped', '/dev/escaped'):
    try:
        open(f, 'w').write('x')
        print('ESCAPED to', f)
    except OSError: pass
""",
    "overwriting the interpreter": "import sys\nopen(sys.executable, 'r+b').write(b'x')\nreturn 'ESCAPED'",
    "overwriting the library": "import json\nopen(json.__file__, 'a').write('x')\nreturn 'ESCAPED'",
    "devices": "return str([len(open('/dev/' + d, 'rb').read(1)) for d in ('sda', 'mem', 'kmsg', 'tty', 'pts/0', 'fuse', 'kvm')])",
    "mknod": "import os\nos.mknod('d', 0o060666, os.makedev(8, 0))\nreturn 'ESCAPED'",
    "chroot and chmod": "import os\nos.mkdir('d')\nos.chroot('d')\nreturn 'ESCAPED'",
    "setuid file": "import os\nopen('s', 'w').write('#!/bin/sh')\nos.chmod('s', 0o6777)\nos.chown('s', 0, 0)\nreturn 'ESCAPED'",
    "environment": "import os\nreturn str(dict(os.environ)) + str(os.getenv('CANARY_SECRET'))",
    "injected environment through posix": "import posix\nreturn str(posix.environ)",
    # --- the network ---
    "socket to the host": "import socket\ns = socket.create_connection(('127.0.0.1', @PORT@), 1)\ns.send(b'x')\nreturn 'ESCAPED'",
    "socket outside": "import socket\ns = socket.create_connection(('1.1.1.1', 53), 0.5)\nreturn 'ESCAPED'",
    "udp and names": "import socket\nsocket.getaddrinfo('localhost', 80)\nsocket.socket(2, 2).sendto(b'x', ('127.0.0.1', @PORT@))\nreturn 'ESCAPED'",
    "unix socket": "import socket\ns = socket.socket(1)\ns.connect('@SOCKET@')\nreturn 'ESCAPED'",
    "abstract unix socket": "import socket\ns = socket.socket(1)\ns.connect('\\0@ABSTRACT@')\nreturn 'ESCAPED'",
    "urllib": "import urllib.request\nreturn urllib.request.urlopen('http://127.0.0.1:@PORT@/', timeout=1).read().decode() + 'ESCAPED'",
    "raw and bound sockets": "import socket\nsocket.socket(2, 3, 1)\nreturn 'ESCAPED'",
    "asyncio server": "import asyncio\ns = await asyncio.start_server(lambda r, w: None, '0.0.0.0', 0)\nreturn 'ESCAPED' if s.sockets else 'no'",
    # --- bombs ---
    "endless loop": "while True: pass",
    "endless loop that catches everything": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "endless sleep": "import time\ntime.sleep(1000)",
    "endless await": "import asyncio\nawait asyncio.sleep(1000)",
    "deep recursion": "def f(n): return f(n + 1)\nreturn f(0)",
    "deep recursion without a limit": "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1)\nreturn f(0)",
    "deep repr": "l = []\nfor _ in range(200000): l = [l]\nreturn repr(l)",
    "deep source": "return " + "(" * 3000 + ")" * 3000,
    "deep unary source": "return " + "-" * 30000 + "1",
    "wide source": "x = " + "+".join(["1"] * 20000) + "\nreturn x",
    "huge integer": "return 9**9**9",
    "huge integer as text": "return str(1 << 10**7)",
    "long text": "return 'a' * 10**10",
    "list without end": "l = []\nwhile True: l.append('a' * 10**6)",
    "doubling list": "l = [0]\nwhile True: l = l + l",
    "memory by bytearray": "b = bytearray(600 * 10**6)\nreturn len(b)",
    "memory by threads": "import threading\n[threading.Thread(target=lambda: bytearray(30 * 10**6) and [0 for _ in iter(int, 1)]).start() for _ in range(6)]",
    "memory by children": "import os\nfor _ in range(4):\n    if os.fork() == 0:\n        b = bytearray(40 * 10**6)\n        while True: pass\nwhile True: pass",
    "memory by shared mapping": "import mmap\nm = mmap.mmap(-1, 400 * 10**6)\nfor i in range(0, 400 * 10**6, 4096): m[i] = 1\nwhile True: pass",
    "memory caught and tried again": "while True:\n    try:\n        l = []\n        while True: l.append('a' * 10**6)\n    except MemoryError: pass",
    "shared lists without end": "a = [0] * 1000\nb = [a] * 1000\nc = [b] * 1000\nreturn [c] * 1000",
    "a list that holds itself": "l = []\nl.append(l)\nreturn l",
    "regular expression bomb": "import re\nreturn bool(re.match('(a|a)*$', 'a' * 60 + 'b'))",
    "format width bomb": "return '{:>9999999999}'.format(1)",
    "percent width bomb": "return '%9999999999d' % 1",
    "sum of ranges": "return sum(range(10**12))",
    "sorted without end": "return sorted(range(10**10))",
    "pickle bomb": "import pickle\nreturn str(pickle.loads(b\"cos\\nsystem\\n(S'cat @CANARY@'\\ntR.\"))",
    "decompression bomb": "import zlib\nd = zlib.compressobj()\nb = b''.join(d.compress(bytes(10**6)) for _ in range(500)) + d.flush()\nreturn len(zlib.decompress(b))",
    "json depth bomb": "import json\nreturn json.loads('[' * 100000)",
    "xml bomb": """
import xml.etree.ElementTree as E
e = ''.join(f'<!ENTITY a{i} "{("&a%d;" % (i - 1)) * 10}">' for i in range(1, 30))
return E.fromstring('<!DOCTYPE x [<!ENTITY a0 "aaaaaaaaaa">' + e + ']><x>&a29;</x>').text
""",
    "disk bomb": "f = open('x', 'wb')\nwhile True: f.write(b'x' * 10**6)",
    "file bomb": "i = 0\nwhile True:\n    i += 1\n    open(f'f{i}', 'w').close()",
    "folder bomb": "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')",
    "attributes of files without end": "import os\nopen('f', 'w').close()\ni = 0\nwhile True:\n    os.setxattr('f', f'user.{i}', b'x' * 60000)\n    i += 1",
    "locks without end": "import fcntl\nf = open('f', 'wb')\ni = 0\nwhile True:\n    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, i)\n    i += 2",
    "locks of open files": "import fcntl, struct\nfcntl.fcntl(open('f', 'wb'), 37, struct.pack('hhqqi4x', 1, 0, 0, 1, 0))\nreturn 'ESCAPED'",
    "nothing printed without end": "while True: print(end='')",
    "children that nobody counts": "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nreturn 'ESCAPED'",
    "descriptor bomb": "import os\nl = []\nwhile True: l.append(os.pipe())",
    "output bomb": "while True: print('x' * 1000)",
    "long line": "print('x' * 3_000_000)",
    "standard error bomb": "import sys\nwhile True: sys.stderr.write('x' * 1000)",
    "large value": "return 'x' * 2_000_000",
    "a value that is no JSON": "return {1, 2}.__class__",
    "raising an exception that cannot be shown": "class E(Exception):\n    def __str__(self): raise E\nraise E",
    "a large exception": "raise ValueError('x' * 10**7)",
    "exit": "import os\nos._exit(0)",
    "sys.exit": "import sys\nsys.exit(7)",
    "reading standard input": "import sys\nreturn sys.stdin.read() + input()",
    "terminal input (TIOCSTI)": "import fcntl, termios\nfor fd in (0, 1, 2):\n    try:\n        fcntl.ioctl(fd, termios.TIOCSTI, b'x')\n        print('ESCAPED')\n    except OSError: pass\nopen('/dev/tty', 'w')",
    # --- the sandbox's own messages ---
    "its own messages, malformed": "import os\nfor fd in range(3, 500):\n    try: os.write(fd, b'{{{\\n')\n    except OSError: pass",
    "its own messages, without end": "import os\nwhile True:\n    for fd in range(3, 500):\n        try: os.write(fd, b'x' * 65536)\n        except OSError: pass",
    "its own messages, a forged tool": 'import os\nfor fd in range(3, 500):\n    try: os.write(fd, b\'{"t":"call","id":1,"name":"secret","args":[],"kwargs":{}}\\n\')\n    except OSError: pass',
    "its own messages, deep": "import os\nfor fd in range(3, 500):\n    try: os.write(fd, b'[' * 60000 + b'\\n')\n    except OSError: pass",
    "its own messages, closed": "import os\nos.closerange(0, 64)\nwhile True: pass",
    "its own messages, ready without end": 'import os\nwhile True:\n    for fd in range(3, 64):\n        try: os.write(fd, b\'{"t":"ready"}\\n\' * 4000)\n        except OSError: pass',
    "its own messages, a call numbered infinity": 'import os\nfor fd in range(3, 500):\n    try: os.write(fd, b\'{"t":"call","id":1e999,"name":"echo","args":[],"kwargs":{}}\\n\')\n    except OSError: pass\nwhile True: pass',
    "its own messages, an end that is not its to say": 'import os\nfor fd in range(3, 500):\n    try: os.write(fd, b\'{"t":"error","kind":"timeout","text":"x"}\\n\')\n    except OSError: pass\nwhile True: pass',
    "its own messages, half a character": 'import os\nfor fd in range(3, 500):\n    try: os.write(fd, b\'{"t":"error","kind":"runtime","text":"\\\\ud800"}\\n\')\n    except OSError: pass\nwhile True: pass',
    "its own messages, a tool called half a character": 'import os\nfor fd in range(3, 500):\n    try: os.write(fd, b\'{"t":"call","id":1,"name":"\\\\ud800","args":[],"kwargs":{}}\\n\')\n    except OSError: pass\nwhile True: pass',
    "its own messages, a hundred thousand values": """
import os
line = b'{"t":"call","id":1,"name":"echo","args":[[' + b'{},' * 300_000 + b'0]],"kwargs":{}}\\n'
for fd in range(3, 500):
    try:
        os.set_blocking(fd, True)
        os.write(fd, line)
    except OSError: pass
while True: pass
""",
    "tools by other names": "return tools.secret() or functions.secret()",
    "a tool called without end": "while True: tools.echo(1)",
    "a tool given too much": "return tools.echo('x' * 5_000_000)",
}
