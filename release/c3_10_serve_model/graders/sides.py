"""The other sides of a comparison: the reference and the baseline, run in workers of the same kind as the student's."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from graders.budgets import LabBudgets
from graders.subject import Handle, Subject
from graders.worker.client import WorkerProcess
from graders.worker.sandbox import Walls

SETUP_SECONDS = 60.0


def walls_of(budgets: LabBudgets, baseline: Path | None, packages: dict[str, Path] | None = None) -> Walls:
    """The walls around a worker of this lab; `packages` are shown to it in addition (the reference's worker only)."""
    return Walls(
        packages=packages or {},
        files=(baseline.resolve(),) if baseline is not None and baseline.exists() else (),
        forbidden=tuple(budgets.forbidden),
        memory_mb=budgets.limits.memory_mb,
        cpu_seconds=int(2 * budgets.limits.seconds) + 60,
    )


class WorkerSides:
    """Starts a worker for the reference and one for the baseline when first asked, and keeps them, frozen between uses.

    `reference` is the folder of the reference package, None where it is not shipped. `locks` is a folder for the lock files that keep
    two graders on one host from timing at once.
    """

    def __init__(self, budgets: LabBudgets, baseline: Path | None, reference: Path | None, locks: Path) -> None:
        self._budgets, self._baseline, self._reference = budgets, baseline, reference
        self._locks = HostLocks(locks)
        self._workers: dict[str, tuple[WorkerProcess, Subject]] = {}

    @property
    def has_reference(self) -> bool:
        """Whether the reference is on this machine."""
        return self._reference is not None and self._budgets.reference is not None

    def other(self, against: str) -> Subject:
        """Return the subject of `against`: reference or baseline."""
        if against not in self._workers:
            self._workers[against] = self._start(against)
        worker, subject = self._workers[against]
        worker.thaw()
        return subject

    def _start(self, against: str) -> tuple[WorkerProcess, Subject]:
        packages = {}
        module = "baseline"
        if against == "reference":
            assert self._reference is not None and self._budgets.reference is not None
            packages, module = {"reference": self._reference}, self._budgets.reference
        worker = WorkerProcess(walls_of(self._budgets, self._baseline, packages), Handle)
        subject = Subject(worker)
        worker.request("load_module", module, seconds=SETUP_SECONDS)
        return worker, subject

    def reset(self, against: str | None = None) -> None:
        """End the workers (or one of them), so that the next use starts afresh; frozen otherwise."""
        for name in list(self._workers) if against is None else [against]:
            if name in self._workers:
                self._workers.pop(name)[0].close()

    def quiet(self, *, exclusive: bool) -> contextlib.AbstractContextManager[None]:
        """Hold the host for one measurement: alone among measurements, and with `exclusive` alone among all gradings."""
        return self._locks.measuring(exclusive=exclusive)

    def working(self) -> contextlib.AbstractContextManager[None]:
        """Hold the host for ordinary work, which may go on beside CPU-clock measurements but not beside wall-clock ones."""
        return self._locks.working()

    def close(self) -> None:
        """End all workers."""
        self.reset()


class HostLocks:
    """Two file locks that every grading process on this host shares.

    `timing` admits one measurement at a time. `quiet` is held shared by everybody who computes and exclusively by a wall-clock
    measurement; `turnstile` lets nobody overtake one that waits for it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = {name: folder / f"{name}.lock" for name in ("timing", "quiet", "turnstile")}

    @contextlib.contextmanager
    def _held(self, name: str, how: int) -> Iterator[None]:
        descriptor = os.open(self._paths[name], os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _quiet(self, how: int) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            with self._held("turnstile", fcntl.LOCK_EX):
                held.enter_context(self._held("quiet", how))
            yield

    def working(self) -> contextlib.AbstractContextManager[None]:
        """For work that is not timed by the wall clock."""
        return self._quiet(fcntl.LOCK_SH)

    @contextlib.contextmanager
    def measuring(self, *, exclusive: bool) -> Iterator[None]:
        """For one measurement."""
        with self._held("timing", fcntl.LOCK_EX), self._quiet(fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH):
            yield
