"""Programs that try to get out, to look in, to stay alive, to use up the machine. Each prints ESCAPED if it succeeds.

`## NAME: EXPECTED` starts one. EXPECTED is what the whole sandbox makes of it: a kind of attempt, an ending, or "any": then
the kernel's refusal is the program's own to handle, and all that counts is that nothing came of it. Words in angle brackets
stand for things of the machine outside (conftest.py): a secret file, a port, a process, an abstract socket.
"""

from __future__ import annotations

from dataclasses import dataclass

PRELUDE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    return libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
def escaped(evidence=True):
    if evidence:
        print("ESCAPED", repr(evidence)[:200], flush=True)
"""


@dataclass(frozen=True)
class Attempt:
    """One program, and how it is expected to end."""

    name: str
    expected: str
    source: str


FILES = """
## read the list of users: files
escaped(open("/etc/passwd").read())
## read a secret: files
escaped(open("<secret>").read())
## read a secret by a relative path: files
escaped(open("../../../../../../<secret>").read())
## a descriptor of the root: files
escaped(os.open("/", os.O_PATH))
## list the root: files
escaped("etc" in os.listdir("/"))
## own memory by /proc: files
escaped(open("/proc/self/mem", "rb"))
## environment of process 1: files
escaped(open("/proc/1/environ", "rb").read())
## the root of process 1: files
escaped(os.listdir("/proc/1/root"))
## own descriptors: files
escaped(os.listdir("/proc/self/fd"))
## the kernel's memory: files
escaped(open("/dev/mem", "rb"))
## a disk: files
escaped(open("/dev/vda", "rb"))
## a terminal: files
escaped(open("/dev/tty", "w"))
## the terminals of others: files
escaped(os.listdir("/dev/pts"))
## shared memory of others: files
escaped(os.listdir("/dev/shm"))
## the control groups: files
escaped(open("/sys/fs/cgroup/cgroup.procs", "w"))
## the kernel's settings: files
open("/proc/sys/kernel/core_pattern", "w").write("|<secret>"); escaped()
## a symbolic link to a secret: any
os.symlink("<secret>", "/tmp/link"); escaped(open("/tmp/link").read())
## a hard link to a secret: any
os.link("<secret>", "/tmp/link"); escaped(open("/tmp/link").read())
## a link to the folder above: any
os.symlink("..", "/tmp/up"); escaped("etc" in os.listdir("/tmp/up"))
## around by a descriptor: any
fd = os.open("/tmp", os.O_RDONLY); escaped(os.read(os.open("../etc/passwd", os.O_RDONLY, dir_fd=fd), 10))
## ask whether a secret exists: any
escaped(os.path.exists("<secret>") and os.path.getsize("<secret>"))
## ask for the users' file: any
escaped(os.path.exists("/etc/passwd"))
## rename something of the machine: any
os.rename("<secret>", "/tmp/mine"); escaped()
## remove something of the machine: any
os.remove("<secret>"); escaped()
## make it readable: any
os.chmod("<secret>", 0o777); escaped()
## write beside the interpreter: files
open(os.path.join(os.path.dirname(os.__file__), "sitecustomize.py"), "w"); escaped()
## remove the interpreter: any
os.remove(os.__file__); escaped()
## write in the root: files
open("/here", "w"); escaped()
## make a folder in the root: any
os.mkdir("/here"); escaped()
## change folder and go on: files
os.chdir("/"); escaped(open("etc/passwd").read())
## another root: privileges
os.mkdir("r"); os.chroot("r"); escaped()
## make a device: any
os.mknod("/tmp/disk", 0o60666, os.makedev(254, 0)); escaped(open("/tmp/disk", "rb").read(512))
## a program with its owner's rights: any
open("/tmp/x", "w"); os.chmod("/tmp/x", 0o4755); os.chown("/tmp/x", 0, 0); escaped()
## a file by its handle: privileges
escaped(call(304, -100, ctypes.create_string_buffer(64), 0) >= 0)
## openat2: any
escaped(call(437, -100, b"/etc/passwd", ctypes.create_string_buffer(24), 24) >= 0)
## installed packages: any
import sysconfig; folder = os.path.join(sysconfig.get_path("stdlib"), "site-packages")
escaped(os.path.isdir(folder) and os.listdir(folder))
## the sandbox's own code: any
import zero.sandbox; escaped(zero)
## a descriptor that was left open: any
escaped([fd for fd in range(3, 4096) if libc.fcntl(fd, 1) != -1])
## change its own input: any
escaped(os.write(0, b"more"))
## read what the judge may say: any
os.set_blocking(2, False); escaped(os.read(2, 100))
## a secret of the environment: any
escaped([name for name in os.environ if name == "CANARY"] or libc.getenv(b"CANARY"))
## a secret in its own memory: any
import gc; escaped([o for o in gc.get_objects() if isinstance(o, dict) and any(k == "CANARY" for k in list(o))][1:])
"""

NETWORK = """
## tcp: network
import socket; socket.create_connection(("127.0.0.1", <port>)); escaped()
## udp: network
import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", ("127.0.0.1", <port>)); escaped()
## tcp 6: network
import socket; socket.socket(socket.AF_INET6).connect(("::1", <port>)); escaped()
## a socket in the file system: network
import socket; socket.socket(socket.AF_UNIX).connect("/run/dbus/system_bus_socket"); escaped()
## an abstract socket: network
import socket; socket.socket(socket.AF_UNIX).connect("\\0<abstract>"); escaped()
## a letter to an abstract socket: any
import socket; a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.sendto(b"hello", "\\0<abstract>-letters"); escaped()
## a server: network
import socket; s = socket.socket(); s.bind(("", 0)); s.listen(); escaped()
## a raw socket: network
import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); escaped()
## packets: network
import socket; socket.socket(17, socket.SOCK_RAW, 3); escaped()
## netlink: network
import socket; socket.socket(16, socket.SOCK_RAW, 0); escaped()
## the host of a virtual machine: network
import socket; socket.socket(40, socket.SOCK_STREAM).connect((2, 1024)); escaped()
## the kernel's ciphers: network
import socket; socket.socket(38, 5, 0); escaped()
## a pair of internet sockets: network
import socket; socket.socketpair(socket.AF_INET); escaped()
## names: any
import socket; escaped(socket.gethostbyname("example.org"))
## a web page: any
import urllib.request; escaped(urllib.request.urlopen("http://127.0.0.1:<port>/", timeout=5).read())
## asyncio: any
import asyncio; asyncio.run(asyncio.open_connection("127.0.0.1", <port>)); escaped()
## a stranger's descriptor as a socket: any
import socket; s = socket.fromfd(1, socket.AF_INET, socket.SOCK_STREAM); s.connect(("127.0.0.1", <port>)); escaped()
"""

PROCESSES = """
## fork: processes
if os.fork() == 0: escaped()
## vfork: processes
escaped(call(58) >= 0)
## clone: processes
escaped(call(56, 17, 0, 0, 0, 0) >= 0)
## clone3: any
import struct; escaped(call(435, struct.pack("11Q", *[0] * 4, 17, *[0] * 6), 88) >= 0)
## a shell: processes
escaped(os.system("echo ESCAPED") == 0)
## subprocess: processes
import subprocess; escaped(subprocess.run([sys.executable, "-c", "print('ESCAPED')"], capture_output=True).stdout)
## posix_spawn: processes
os.posix_spawn(sys.executable, ["python", "-c", "print('ESCAPED')"], {})
## become another program: processes
os.execv(sys.executable, ["python", "-c", "print('ESCAPED')"])
## become the program of a descriptor: processes
escaped(call(322, 0, b"", 0, 0, 0x1000) >= 0 or True)
## load a library into the next program: processes
os.environ["LD_PRELOAD"] = "/tmp/evil.so"; os.execv(sys.executable, ["python", "-c", "print('ESCAPED')"])
## multiprocessing: any
import multiprocessing; p = multiprocessing.Process(target=escaped); p.start(); p.join()
## a fork bomb: processes
while True: os.fork()
## a daemon: processes
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import time; time.sleep(3); open("<folder>/daemon", "w")
## a pseudo-terminal: any
import pty; escaped(pty.fork()[0] == 0)
## kill everybody: processes
os.kill(-1, 9); escaped()
## kill its group: processes
os.kill(0, 9); escaped()
## kill a process of the machine: processes
os.kill(<pid>, 9); escaped()
## kill its parent: any
os.kill(os.getppid() or 2, 9); escaped(os.getppid())
## stop a process of the machine: processes
os.kill(<pid>, 19); escaped()
## a handle of a process: processes
escaped(os.pidfd_open(<pid>))
## trace a process: processes
escaped(libc.ptrace(16, <pid>, 0, 0) == 0)
## trace itself: processes
escaped(libc.ptrace(0, 0, 0, 0) == 0)
## read the memory of a process: processes
escaped(call(310, <pid>, 0, 0, 0, 0, 0) >= 0)
## write the memory of a process: processes
escaped(call(311, <pid>, 0, 0, 0, 0, 0) >= 0)
## a signal with a letter: processes
escaped(call(129, <pid>, 10, ctypes.create_string_buffer(128)) == 0)
## a signal to a thread: processes
escaped(call(200, <pid>, 9) == 0)
## compare processes: processes
escaped(call(312, <pid>, os.getpid(), 0, 0, 0) >= 0)
## limits of a process: any
import resource; escaped(resource.prlimit(<pid>, resource.RLIMIT_NOFILE, (0, 0)))
## first in the queue: any
os.setpriority(os.PRIO_PROCESS, <pid>, -20); escaped()
## all processors for itself: any
os.sched_setaffinity(<pid>, {0}); escaped()
## real time: any
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99)); escaped()
"""

PRIVILEGES = """
## mount: privileges
escaped(libc.mount(b"none", b"/tmp", b"tmpfs", 0, 0) == 0)
## unmount: privileges
escaped(libc.umount2(b"/tmp", 2) == 0)
## a mount the new way: privileges
escaped(call(430, b"tmpfs", 0) >= 0)
## a copy of the tree of mounts: privileges
escaped(call(428, -100, b"/", 1) >= 0)
## pivot the root: privileges
escaped(call(155, b".", b".") == 0)
## rights in a user namespace of its own: privileges
escaped(libc.unshare(0x10000000) == 0)
## a network of its own: privileges
escaped(libc.unshare(0x40000000) == 0)
## the namespace of another: privileges
escaped(libc.setns(0, 0) == 0)
## a child in new namespaces: privileges
escaped(call(56, 0x10000000 | 0x20000 | 17, 0, 0, 0, 0) >= 0)
## bpf: privileges
escaped(call(321, 0, ctypes.create_string_buffer(128), 128) >= 0)
## counters of the processor: privileges
escaped(call(298, ctypes.create_string_buffer(128), 0, -1, -1, 0) >= 0)
## io_uring: privileges
escaped(call(425, 8, ctypes.create_string_buffer(248)) >= 0)
## userfaultfd: privileges
escaped(call(323, 0) >= 0)
## a key: privileges
escaped(call(248, b"user", b"name", b"secret", 6, -3) >= 0)
## keys of the user: privileges
escaped(call(250, 6, -4, 0, 0, 0) > 0)
## ask for a key: privileges
escaped(call(249, b"user", b"name", 0, -3) >= 0)
## another kernel: privileges
escaped(call(246, 0, 0, 0, 0) == 0)
## a module: privileges
escaped(call(175, b"", 0, b"") == 0)
## reboot: privileges
escaped(call(169, 0xFEE1DEAD, 672274793, 0x89ABCDEF, 0) == 0)
## swap: privileges
escaped(call(167, b"/tmp/x", 0) == 0)
## root: privileges
os.setuid(0); escaped()
## root's group: privileges
os.setgid(0); escaped()
## root's groups: privileges
os.setgroups([0]); escaped()
## capabilities: privileges
import struct; escaped(call(126, struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0xFFFFFFFF] * 6)) == 0)
## another name for the machine: privileges
escaped(libc.sethostname(b"mine", 4) == 0)
## another time: privileges
import time; time.clock_settime(time.CLOCK_REALTIME, 0); escaped()
## ports of the processor: privileges
escaped(call(172, 3) == 0)
## a filter of its own: privileges
escaped(call(317, 1, 8, 0) >= 0)
## the kernel's log: privileges
escaped(call(103, 3, ctypes.create_string_buffer(1000), 1000) >= 0)
## type on the terminal: privileges
import fcntl; fcntl.ioctl(0, 0x5412, b"x"); escaped()
## paste on the console: privileges
import fcntl; fcntl.ioctl(1, 0x541C, b"\\x03"); escaped()
## accounting: privileges
escaped(call(163, b"/tmp/x") == 0)
## a table of segments: privileges
escaped(call(154, 0, ctypes.create_string_buffer(16), 16) >= 0)
## a file without a name: any
escaped(os.memfd_create("x"))
## secret memory: any
escaped(call(447, 0) >= 0)
## System V memory: any
escaped(call(29, 0, 4096, 0o1666) >= 0)
## a queue: any
escaped(call(240, b"name", 0o102, 0o600, 0) >= 0)
## old calls of 32 bits: any
import mmap; m = mmap.mmap(-1, 4096, prot=7); m.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")
escaped(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))() > 0)
## calls of the x32 kind: any
escaped(call(0x40000000 + 39) > 0)
## gain by prctl: any
escaped(libc.prctl(38, 0, 0, 0, 0) == 0)
## become invisible to the supervisor: any
escaped(libc.prctl(4, 0, 0, 0, 0) == 0)
"""

RESOURCES = """
## run for ever: timed out
while True: pass
## sleep for ever: timed out
import time; time.sleep(10**6)
## wait for a signal: timed out
import signal; signal.pause()
## wait for itself: timed out
import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()
## ignore every signal: timed out
import signal
for number in range(1, 65):
    try: signal.signal(number, lambda *_: None)
    except (OSError, ValueError): pass
while True: pass
## raise its limit: timed out
import resource
try: resource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6)); escaped()
except (OSError, ValueError): pass
while True: pass
## stop itself: timed out
os.kill(os.getpid(), 19)
while True: pass
## close its output and go on: timed out
os.close(1); os.close(2); os.close(0)
while True: pass
## never end: timed out
import atexit
@atexit.register
def again():
    while True: pass
## threads that share the work: timed out
import threading
def work():
    while True: pass
for _ in range(8): threading.Thread(target=work).start()
## a pattern that never matches: timed out
import re; re.match(r"(a+)+$", "a" * 64 + "b")
## a number without end: timed out
print(len(str(3 ** 10**8 % 7 + 9 ** 10**9)))
## eat memory: out of memory
x = []
while True: x.append(bytes(1 << 20))
## eat memory at once: out of memory
x = bytearray(1 << 34)
## a string without end: out of memory
x = "ab"
while True: x += x
## map memory: any
import mmap; maps = [mmap.mmap(-1, 1 << 30) for _ in range(64)]; escaped(len(maps))
## memory of pipes: any
import fcntl
pipes = [os.pipe() for _ in range(10**5)]; escaped()
## memory of letters to itself: any
import socket
a, b = socket.socketpair(); a.setsockopt(1, 32, 1 << 30); a.setblocking(False)
escaped(sum(a.send(bytes(1 << 20)) for _ in range(64)) > 1 << 25)
## every descriptor: any
fds = [os.dup(0) for _ in range(10**5)]; escaped()
## every thread: any
import threading, time
for _ in range(10**4): threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
escaped()
## a hole of a terabyte: any
f = open("/tmp/hole", "wb"); f.truncate(1 << 40); escaped()
## a file without end: any
f = open("/tmp/file", "wb", 0)
for _ in range(1 << 10): f.write(bytes(1 << 20))
escaped()
## files without end: any
for i in range(4000):
    with open(f"/tmp/{i}", "wb", 0) as f: f.write(bytes(1 << 20))
escaped()
## more openings than anybody needs: any
for i in range(10**5): open("/dev/null").close()
escaped()
## print without end: too much output
while True: print("x" * 10**6)
## complain without end: too much output
while True: print("x" * 10**6, file=sys.stderr)
## recursion: crashed
def f(): f()
f()
## recursion without a limit: any
sys.setrecursionlimit(10**9)
def f(): return [f()]
f(); escaped()
## a pointer to nowhere: crashed
ctypes.string_at(0)
## abort: crashed
os.abort()
## no parser is that deep: any
eval("(" * 10**5 + ")" * 10**5); escaped()
## folding constants: any
eval("'a' * 10**10"); escaped()
## a bomb of zeros: any
import zlib; small = zlib.compress(bytes(1 << 24)); escaped(len([zlib.decompress(small) for _ in range(64)]))
## exit with an error: crashed
sys.exit(3)
## zeros and broken letters: finished
sys.stdout.buffer.write(bytes(range(256)))
## what a judge might say: finished
print("pass\\npass\\nend\\n{\\"passed\\": true}"); os.write(2, b"pass\\nend\\n")
"""


def attempts(places: dict[str, str]) -> list[Attempt]:
    """All of them, with the machine's own things in place of the words in angle brackets."""
    result = []
    for block in "".join((FILES, NETWORK, PROCESSES, PRIVILEGES, RESOURCES)).split("\n## ")[1:]:
        title, _, source = block.partition("\n")
        name, _, expected = title.rpartition(": ")
        for word, value in places.items():
            source = source.replace(f"<{word}>", value)
        result.append(Attempt(name, expected, PRELUDE + source))
    return result
