"""What a Ray cluster has on this machine: processes, shared memory and ports, found by what the kernel tells."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import time


@dataclasses.dataclass
class Belongings:
    """Of one cluster, at one moment. The names of its sockets and of its memory carry the cluster's id."""

    # Head, raylets, zygotes, workers: their commands by pid.
    processes: dict[int, str]
    # Pieces of shared memory that any process has open or mapped, executors' and driver's too.
    memory: set[str]
    # Ports that its processes listen on.
    ports: set[int]

    @classmethod
    def find(cls, cluster_id: str) -> Belongings:
        """Looks at every process of this machine that may be looked at."""
        names, listening = _unix_sockets(f"@sparkray-{cluster_id[:8]}"), _listening_ports()
        variable = f"SPARKRAY_CLUSTER_ID={cluster_id}".encode()
        found = cls({}, set(), set())
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            pid = int(entry.name)
            with contextlib.suppress(OSError):
                inodes, files = _open_files(entry)
                mapped = (entry / "maps").read_text(errors="replace")
                pattern = rf"/memfd:sparkray-{cluster_id}\S*"
                found.memory.update(re.findall(pattern, "\n".join(files)), re.findall(pattern, mapped))
                # Workers carry the variable, head and raylets own the sockets.
                if pid == os.getpid() or not (names & inodes or variable in (entry / "environ").read_bytes()):
                    continue
                found.processes[pid] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.ports.update(listening[inode] for inode in inodes & listening.keys())
        return found

    def left(self, cluster_id: str) -> list[str]:
        """What of it is still there, in words; also what came since."""
        now = Belongings.find(cluster_id)
        left = [f"process {pid}: {command}" for pid, command in now.processes.items()]
        left += [f"process {pid}" for pid in self.processes.keys() - now.processes.keys() if _runs(pid)]
        left += [f"shared memory {name}" for name in sorted(now.memory)]
        left += [f"a listener on port {port}" for port in sorted(self.ports & set(_listening_ports().values()))]
        return left

    def wait_until_gone(self, cluster_id: str, seconds: float) -> list[str]:
        """What is left at the deadline: nothing, when all is gone before."""
        deadline = time.monotonic() + seconds
        while (left := self.left(cluster_id)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left


def _runs(pid: int) -> bool:
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def _open_files(process: pathlib.Path) -> tuple[set[int], list[str]]:
    """Inodes of sockets, and names of other files."""
    inodes, files = set(), []
    for file in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(file)
            if target.startswith("socket:["):
                inodes.add(int(target[len("socket:[") : -1]))
            else:
                files.append(target)
    return inodes, files


def _unix_sockets(prefix: str) -> set[int]:
    """Inodes of the Unix sockets whose names begin so."""
    rows = [line.split() for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {int(row[6]) for row in rows if len(row) == 8 and row[7].startswith(prefix)}


def _listening_ports() -> dict[int, int]:
    """TCP ports by inode."""
    found = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                row = line.split()
                if row[3] == "0A":
                    found[int(row[9])] = int(row[1].rpartition(":")[2], 16)
    return found
