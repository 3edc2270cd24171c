"""The machine outside of the sandbox, for programs to attack: a secret, a port, a process, sockets; and whether all is well."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

SECRET = "canary-4f1d"
NOBODY = 65534


class Outside:
    """Things that nobody in the sandbox may reach. `places` names them as attempts.py does."""

    def __enter__(self) -> Outside:
        self._folder = tempfile.TemporaryDirectory(dir="/var/tmp")  # no program has a /var
        root = Path(self._folder.name)
        root.chmod(0o755)
        self._secret, self._open = root / "secret.txt", root / "open"
        self._secret.write_text(SECRET)
        self._secret.chmod(0o644)
        self._open.mkdir()
        self._open.chmod(0o777)
        self._tcp = socket.create_server(("127.0.0.1", 0))
        name = f"canary-{os.getpid()}"
        self._abstract, self._letters = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._abstract.bind("\0" + name)
        self._abstract.listen()
        self._letters.bind(f"\0{name}-letters")
        for listener in (self._tcp, self._abstract, self._letters):
            listener.setblocking(False)
        # a process of the user whom the programs would be, were there no namespace of users: it could be signalled
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        self._process = subprocess.Popen(["sleep", "1000"], **user)  # type: ignore[call-overload]
        os.environ["CANARY"] = SECRET
        self.places = {
            "secret": str(self._secret),
            "folder": str(self._open),
            "port": str(self._tcp.getsockname()[1]),
            "pid": str(self._process.pid),
            "abstract": name,
        }
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del os.environ["CANARY"]
        self._process.kill()
        self._process.wait()
        for listener in (self._tcp, self._abstract, self._letters):
            listener.close()
        self._folder.cleanup()

    def harm(self) -> list[str]:
        """What is not as it was."""
        harm = []
        if self._secret.read_text() != SECRET or self._secret.stat().st_mode & 0o777 != 0o644:
            harm.append("the secret was changed")
        if list(self._open.iterdir()):
            harm.append(f"written: {list(self._open.iterdir())}")
        if self._process.poll() is not None:
            harm.append("the process was killed")
        elif Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt":
            harm.append("the process was stopped")
        for name, listener in (("tcp", self._tcp), ("abstract socket", self._abstract), ("letter", self._letters)):
            try:
                listener.recv(10) if listener is self._letters else listener.accept()
            except BlockingIOError:
                continue
            harm.append(f"reached: {name}")
        if (Path(os.__file__).parent / "sitecustomize.py").exists():
            harm.append("written: beside the interpreter")
        return harm


def survivors(owner: int | None = None) -> list[int]:
    """Fork servers that a process (this one) has started, and programs, which are forks of them with the same command line."""
    mark = re.compile(rb'"owner": %d[,}]' % (owner or os.getpid()))
    alive = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(map(mark.search, words)):
            alive.append(int(path.parent.name))
    return alive
