"""Several hosts on this machine: network namespaces that a bridge joins, and cuts between them that nobody is told of.

A host is a process that holds a network and a mount namespace of its own. Nothing has a name outside: when the holders
end, which the kernel sees to when this process does, everything is gone, whatever became of the tests.

A cut is silent, as a broken switch is: the sender's neighbour entry leads to an address that nobody has, so frames
leave without an error and arrive nowhere; no connection is reset, no interface goes down.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from process.helpers import alive, wait_until

WITHOUT = "SPARKRAY_TESTS_WITHOUT_NETWORKS"
# Of a private range, and inside the namespaces only.
SUBNET = "10.77.0"
_CLONE_NEWNET = 0x40000000
_NOBODY = "02:00:00:00:ff:ff"
_TOOLS = ("ip", "unshare", "nsenter", "setpriv")
_END_SECONDS = 20.0

_libc = ctypes.CDLL(None, use_errno=True)


def need_networks() -> None:
    """Whoever may not make network namespaces says so, lest nobody notices that these tests do not run."""
    if os.environ.get(WITHOUT) == "1":
        pytest.skip(f"{WITHOUT}=1")
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.fail(f"not installed: {', '.join(missing)} (util-linux, iproute2): or set {WITHOUT}=1 to go without")
    done = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(
            f"network namespaces cannot be made here ({done.stderr.strip()}): run the tests as root, for instance by "
            f"`unshare --user --map-root-user --mount make test`, or set {WITHOUT}=1 to go without several hosts"
        )


class Host:
    """One host. Processes that are started on it end with the process that started them, or with the host."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"{SUBNET}.{number}"
        self.mac = f"02:00:00:00:00:{number:02x}"
        self._outside = os.readlink("/proc/self/ns/net")
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
        )
        self.pid = self._holder.pid
        wait_until(self._is_there, 20, f"the namespaces of {name}")
        self.inode = os.readlink(f"/proc/{self.pid}/ns/net")
        self.run("ip", "link", "set", "lo", "up")

    def _is_there(self) -> bool:
        assert self._holder.poll() is None, f"{self.name} ended with {self._holder.returncode}"
        # `unshare` becomes `sleep` when both namespaces are there.
        return pathlib.Path(f"/proc/{self.pid}/comm").read_text().strip() == "sleep"

    def command(self, *words: str) -> list[str]:
        """The command that runs these words on the host."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", f"--mount=/proc/{self.pid}/ns/mnt", "--", *words]

    def run(self, *words: str, **arguments: Any) -> str:
        """Runs a command to its end; what it prints."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False, **arguments)
        assert done.returncode == 0, f"{self.name}: {' '.join(words)}: {done.stdout}{done.stderr}"
        return str(done.stdout)

    def start(self, *words: str, environment: Mapping[str, str] | None = None, **arguments: Any) -> subprocess.Popen:
        """Starts a process, which the kernel ends with the thread that calls this."""
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *self.command(*words)],
            env={**os.environ, **(environment or {})},
            stdin=arguments.pop("stdin", subprocess.DEVNULL),
            **arguments,
        )

    def names(self, lines: Iterable[str]) -> None:
        """Gives the host an /etc/hosts of its own: this machine's with these lines after them."""
        text = "\n".join([pathlib.Path("/etc/hosts").read_text(), *lines, ""])
        self.run("mount", "--make-rprivate", "/")
        script = 'file=$(mktemp) && cat >"$file" && mount --bind "$file" /etc/hosts && rm "$file"'
        self.run("sh", "-c", script, input=text)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and the threads and processes that it starts inside, are on the host. /etc/hosts is not the
        host's: only a process of its own sees that."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(f"/proc/{self.pid}/ns/net")
            yield
        finally:
            _set_namespace(before)
            os.close(before)

    def processes(self) -> list[int]:
        """All processes on the host but its holder and this one."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                pid = int(entry)
                if os.readlink(f"/proc/{pid}/ns/net") == self.inode and pid not in (self.pid, os.getpid()):
                    found.append(pid)
        return [pid for pid in found if alive(pid)]

    def end(self) -> None:
        """Ends all processes on the host, and then the host."""
        deadline = time.monotonic() + _END_SECONDS
        while left := self.processes():
            assert time.monotonic() < deadline, f"{self.name}: {left} do not end"
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        self._holder.kill()
        self._holder.wait()


def _enter(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _set_namespace(descriptor)
    finally:
        os.close(descriptor)


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Network:
    """Hosts that all reach each other, until cuts are made."""

    def __init__(self, *names: str) -> None:
        need_networks()
        self.hosts: list[Host] = []
        self.switch = Host("switch", 254)
        try:
            self.switch.run("ip", "link", "add", "bridge", "type", "bridge")
            self.switch.run("ip", "link", "set", "bridge", "up")
            for number, name in enumerate(names, 1):
                self.hosts.append(Host(name, number))
                self._plug_in(self.hosts[-1])
            # Nobody asks who has an address: a question during a cut would mend it.
            for host in self.hosts:
                for other in self.hosts:
                    _lead(host, other, other.mac)
        except BaseException:
            self.close()
            raise

    def _plug_in(self, host: Host) -> None:
        port = f"to-{host.address.rpartition('.')[2]}"
        self.switch.run(*f"ip link add {port} type veth peer name eth0 address {host.mac} netns {host.pid}".split())
        self.switch.run("ip", "link", "set", port, "master", "bridge", "up")
        host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def at(self, address: str) -> Host:
        """The host with an address; a port after it does not matter."""
        return next(host for host in self.hosts if host.address == address.partition(":")[0])

    def others(self, *hosts: Host) -> list[Host]:
        """All hosts but these."""
        return [host for host in self.hosts if host not in hosts]

    def cut(self, one: Host, *others: Host) -> None:
        """From now on nothing gets from the one to the others, nor from them to it."""
        for other in others:
            _lead(one, other, _NOBODY)
            _lead(other, one, _NOBODY)

    def heal(self) -> None:
        """All hosts reach each other again."""
        for host in self.hosts:
            for other in self.hosts:
                _lead(host, other, other.mac)

    @contextlib.contextmanager
    def cut_between(self, one: Host, *others: Host) -> Iterator[None]:
        """A cut that is healed at the end, however that is reached."""
        try:
            self.cut(one, *others)
            yield
        finally:
            self.heal()

    def black_hole(self, host: Host) -> contextlib.AbstractContextManager[None]:
        """Nobody reaches the host, and it reaches nobody."""
        return self.cut_between(host, *self.others(host))

    def close(self) -> None:
        """Ends all hosts and what runs on them."""
        for host in [*self.hosts, self.switch]:
            host.end()


def _lead(host: Host, other: Host, mac: str) -> None:
    """Where the host sends what is for the other."""
    if host is not other:
        host.run(*f"ip neighbour replace {other.address} lladdr {mac} nud permanent dev eth0".split())


def python_on(host: Host, script: Sequence[str], **arguments: Any) -> subprocess.Popen:
    """Starts this Python on the host, with the same modules."""
    search = os.pathsep.join(entry for entry in sys.path if entry)
    return host.start(sys.executable, "-u", *script, environment={"PYTHONPATH": search}, **arguments)
