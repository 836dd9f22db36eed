"""The walls around a worker: bubblewrap namespaces, a read-only root without the course's secrets, and limits.

Level `full` is not claimed before a system-call filter is in place; `partial` names what is missing; `none` is a plain process.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import sysconfig
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

INSIDE = Path("/grader")
TMP_BYTES = 256 * 1024 * 1024
SYSTEM_PATHS = (
    "/usr",
    "/lib",
    "/lib64",
    "/lib32",
    "/bin",
    "/sbin",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/alternatives",
    "/opt/pyenv",
)
CGROUP_V1 = Path("/sys/fs/cgroup")
MAX_PROCESSES = 128
OPEN_FILES = 512


@dataclass(frozen=True)
class Walls:
    """What one worker may see and use.

    `packages` maps an importable package name to its folder on this machine; `files` are shown in the worker's import path
    (a lab's baseline); `forbidden` are top-level packages of the environment that are hidden.
    """

    packages: dict[str, Path] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    forbidden: tuple[str, ...] = ()
    memory_mb: int = 2048
    cpu_seconds: int = 600


@dataclass(frozen=True)
class Isolation:
    """What separates a worker from this machine: `level` is full, partial or none, `reason` says what is missing."""

    level: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.level} ({self.reason})" if self.reason else self.level


LEVELS = ("none", "partial", "full")


@functools.cache
def probe() -> Isolation:
    """Find out, by trying, what this machine can give a worker."""
    if shutil.which("bwrap") is None:
        return Isolation("none", "bubblewrap is not installed; on Debian: apt-get install bubblewrap")
    attempt = subprocess.run(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True, text=True, timeout=20)
    if attempt.returncode != 0:
        return Isolation("none", f"bubblewrap can't make namespaces here: {attempt.stderr.strip()[:200]}")
    missing = ["no system-call filter"]
    if not _can_group():
        missing.append("memory is limited for each process, not for all together")
    return Isolation("partial", "; ".join(missing))


class MemoryGroup:
    """A cgroup (v1 memory and pids) that limits all of a worker's processes together; absent where it can't be made."""

    def __init__(self, memory_mb: int) -> None:
        name = f"classroom-{uuid.uuid4().hex[:12]}"
        self.folders = [CGROUP_V1 / controller / name for controller in ("memory", "pids")]
        for folder in self.folders:
            folder.mkdir()
        (self.folders[0] / "memory.limit_in_bytes").write_text(str(memory_mb * 1024 * 1024))
        (self.folders[1] / "pids.max").write_text(str(MAX_PROCESSES))

    def ran_out(self) -> bool:
        """Whether the kernel ended a process of the group because memory ran out."""
        try:
            control = (self.folders[0] / "memory.oom_control").read_text()
        except OSError:
            return False
        return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in control.splitlines())

    def remove(self) -> None:
        """Delete the group, waiting up to a second until the kernel has reaped its processes."""
        for folder in self.folders:
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except OSError:
                    time.sleep(0.01)


@functools.cache
def _can_group() -> bool:
    try:
        MemoryGroup(64).remove()
    except OSError:
        return False
    return True


def make_group(memory_mb: int) -> MemoryGroup | None:
    """Return a fresh memory group, or None where this machine doesn't let us make one."""
    return MemoryGroup(memory_mb) if _can_group() else None


def command(walls: Walls, arguments: list[str], group: MemoryGroup | None, info_fd: int | None) -> tuple[list[str], dict[str, str]]:
    """Return the command line and environment that start `python -m graders.worker.main *arguments` behind `walls`."""
    inside = probe().level != "none"
    limits = [f"ulimit -c 0; ulimit -n {OPEN_FILES}; ulimit -t {walls.cpu_seconds}"]
    if group is None:
        limits.append(f"ulimit -v {walls.memory_mb * 1024}")
    else:
        limits.extend(f"echo $$ > {folder}/cgroup.procs" for folder in group.folders)
    program = [sys.executable, "-P", "-B", "-m", "graders.worker.main", *arguments]
    namespaces = _bubblewrap(walls, info_fd) if inside else []
    return ["sh", "-c", "; ".join([*limits, 'exec "$@"']), "worker", *namespaces, *program], _environment(walls, inside)


def _environment(walls: Walls, inside: bool) -> dict[str, str]:
    if inside:
        import_path = [str(INSIDE), str(INSIDE / "files")]
    else:
        package_roots = {str(folder.parent) for folder in walls.packages.values()}
        import_path = [str(Path(__file__).parents[2]), *sorted(package_roots), *sorted({str(file.parent) for file in walls.files})]
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "MPLBACKEND": "agg",
        "MPLCONFIGDIR": "/tmp/matplotlib",
        "IPYTHONDIR": "/tmp/ipython",
        "NUMBA_CACHE_DIR": "/tmp/numba",
        # One thread: what is compared is work, and every thread's time counts.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": ":".join(import_path),
    }


def _bubblewrap(walls: Walls, info_fd: int | None) -> list[str]:
    size = str(TMP_BYTES)
    words = [
        "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--as-pid-1",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--hostname",
        "worker",
    ]
    words += ["--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    words += ["--size", size, "--tmpfs", "/tmp", "--chdir", "/tmp"]
    # After /tmp: the environment may lie in it.
    for path in sorted({*SYSTEM_PATHS, sys.prefix, sys.base_prefix}):
        words += ["--ro-bind-try", path, path]
    words += ["--ro-bind", str(Path(__file__).parent), str(INSIDE / "graders" / "worker")]
    for name, folder in walls.packages.items():
        words += ["--ro-bind", str(folder), str(INSIDE / name)]
    for file in walls.files:
        words += ["--ro-bind", str(file), str(INSIDE / "files" / file.name)]
    for hidden in _forbidden_paths(walls.forbidden):
        words += ["--tmpfs", str(hidden)] if hidden.is_dir() else ["--ro-bind", "/dev/null", str(hidden)]
    words += ["--remount-ro", "/"]
    if info_fd is not None:
        words += ["--info-fd", str(info_fd)]
    return words


def _forbidden_paths(names: tuple[str, ...]) -> list[Path]:
    folders = {Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))}
    found = []
    for folder in sorted(folders):
        for name in names:
            found += [folder / name, *folder.glob(f"{name}.*"), *folder.glob(f"{name}-*.dist-info"), folder / f"{name}.libs"]
    return [path for path in found if path.exists()]
