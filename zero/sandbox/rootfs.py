"""The read-only root that all programs share: the interpreter, its libraries, four devices, an empty /tmp. No /proc, no /etc.

Built once for each fork server, in namespaces of its own, from bind mounts on a small tmpfs; where bubblewrap is installed
it does the same from the same list (`bubblewrap_options`).
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from zero.sandbox import kernel

HOME = "/tmp"  # every program's own
NOBODY = 65534
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
LOADERS = ("/lib64", "/usr/lib64")  # where programs of machine code expect the dynamic loader
TOOLCHAIN = ("/usr/include", "/usr/local/include", "/usr/lib/gcc", "/usr/libexec/gcc", "/usr/lib64/gcc")
_MOUNT_POINTS = ("/sys", "/mnt", "/tmp")  # a folder to build on, that nothing is taken from


def interpreter_paths() -> list[str]:
    """Of the interpreter that runs this: its standard library, and the folders of the libraries that it has loaded."""
    paths = {sys.executable, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    with open("/proc/self/maps") as maps:
        libraries = {line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line}
    paths |= {os.path.dirname(path) for path in libraries if os.path.exists(path)}
    return _outermost([*paths, *LOADERS])


def compiler_paths(compiler: str) -> list[str]:
    """What a C++ compiler needs beside them."""
    return _outermost([os.path.dirname(compiler), os.path.dirname(os.path.realpath(compiler)), *TOOLCHAIN])


def hidden_paths() -> list[str]:
    """Packages that happen to be installed beside the standard library: no program needs them, and some are secrets."""
    stdlib = sysconfig.get_path("stdlib")
    return [path for name in ("site-packages", "dist-packages") if os.path.isdir(path := os.path.join(stdlib, name))]


def _outermost(paths: list[str]) -> list[str]:
    """Without what does not exist or lies below another of the paths."""
    there = sorted({os.path.realpath(path) for path in paths if os.path.exists(path)})
    return [path for path in there if not any(path.startswith(other + "/") for other in there)]


def links_to(paths: list[str]) -> dict[str, str]:
    """Symbolic links at the root of the machine, such as /lib -> usr/lib, by which programs may name the paths."""
    folders = ("/lib", "/lib64", "/bin", "/usr/lib64")
    links = {folder: os.readlink(folder) for folder in folders if os.path.islink(folder)}
    return {link: target for link, target in links.items() if link not in paths}


def with_aliases(paths: list[str]) -> tuple[str, ...]:
    """The paths, and the names by which links at the root of the machine lead to them: /usr/lib/x is /lib/x."""
    aliases = [
        link + path.removeprefix(folder)
        for link, target in links_to(paths).items()
        for path in paths
        if (folder := os.path.normpath(os.path.join(os.path.dirname(link), target))) and path.startswith(folder)
    ]
    return (*paths, *aliases)


def enter(paths: list[str], proc: int, in_parent: Callable[[], None]) -> None:
    """New namespaces with the root in them: as root by right, and as nobody from then on; as anybody by a user namespace.

    Returns in a child, process 1 of its namespace; this process waits for it, after `in_parent`, and ends as it does.
    """
    by_right = os.geteuid() == 0 and _knows(NOBODY)
    if by_right:
        try:
            kernel.unshare(kernel.ALL_NAMESPACES & ~kernel.NEW_NAMESPACES["user"])
        except PermissionError:  # root in name alone, as in most containers
            by_right = False
    if not by_right:
        uid, gid = os.geteuid(), os.getegid()
        kernel.unshare(kernel.ALL_NAMESPACES)
        kernel.map_user(proc, (NOBODY, uid), (NOBODY, gid))
    build(paths, hidden_paths())
    pid = os.fork()  # a new pid namespace begins with the next child
    if pid:
        in_parent()
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    if by_right:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def _knows(uid: int) -> bool:
    """Whether this user namespace has such a user."""
    with open("/proc/self/uid_map") as lines:
        ranges = [(int(first), int(count)) for first, _, count in map(str.split, lines)]
    return any(first <= uid < first + count for first, count in ranges)


def build(paths: list[str], hidden: list[str]) -> None:
    """Make a root of the paths and enter it. The caller has a mount namespace of its own and the right to mount."""
    if any(path.startswith(HOME + "/") for path in paths):
        raise OSError(0, f"the interpreter lies in {HOME}, which every program has for itself: use one elsewhere")
    kernel.mount("", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    ground = next(p for p in _MOUNT_POINTS if os.path.isdir(p) and not any((q + "/").startswith(p) for q in paths))
    kernel.mount("tmpfs", ground, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for link, target in links_to(paths).items():
        os.makedirs(os.path.dirname(ground + link), exist_ok=True)
        os.symlink(target, ground + link)
    for path in paths:
        _bind(path, ground + path)
        kernel.make_read_only(ground + path)
    for path in hidden:
        flags = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount("tmpfs", ground + path, "tmpfs", flags, "size=4k,mode=755")
    for device in DEVICES:
        _bind(device, ground + device)
        kernel.make_read_only(ground + device, kernel.MS_NOSUID | kernel.MS_NOEXEC)
    os.mkdir(ground + HOME, 0o755)
    kernel.make_read_only(ground, kernel.MS_RDONLY | kernel.MS_NOSUID)
    kernel.make_root(ground)


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch()
    kernel.mount(source, target, flags=kernel.MS_BIND | kernel.MS_REC)


def bubblewrap_options(paths: list[str], hidden: list[str], own: list[str]) -> list[str]:
    """The same root in bubblewrap's words, and `own` code in it, which Landlock then keeps from every program."""
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    for link, target in links_to(paths).items():
        options += ["--symlink", target, link]
    for path in [*paths, *own]:
        options += ["--ro-bind", path, path]
    for path in hidden:
        options += ["--tmpfs", path, "--remount-ro", path]
    for device in DEVICES:
        options += ["--dev-bind", device, device]
    return [*options, "--setenv", "PYTHONHASHSEED", "0", "--dir", HOME, "--remount-ro", "/"]
