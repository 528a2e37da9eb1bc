"""What this machine is, and what its processes use of it, as the kernel counts (proc(5))."""

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

TICKS_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and with which commit figures were measured.

    `load` is the number of runnable processes in the minute before: above 0, others disturbed.
    """

    processor: str
    cores: int
    memory_mib: int
    system: str
    python: str
    commit: str
    load: float


def describe() -> Machine:
    """Of the machine that this runs on, now."""
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_mib=memory // MIB,
        system=platform.system() + " " + platform.release(),
        python=platform.python_version(),
        commit=_commit(),
        load=round(os.getloadavg()[0], 1),
    )


def cpu_s(pid: int) -> float:
    """Processor seconds, user and system, that a process has taken so far."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text.rpartition(")")[2].split()  # a name may hold spaces and brackets
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def rss_mib(pid: int) -> float:
    """Memory that a process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * PAGE_BYTES / MIB, 1)


def own_mib(pid: int) -> float:
    """The same without pages of files, which the system takes back where memory is short."""
    resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    return round((int(resident) - int(shared)) * PAGE_BYTES / MIB, 1)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _commit() -> str:
    """The commit of this tree; a plus behind it where files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    folder = Path(__file__).parent
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
