"""Intake: one student's folder for one lab, read on the trusted side as hostile bytes."""

from __future__ import annotations

import datetime as dt
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3

from graders.notebook import NotebookError, parse

MAX_NOTEBOOK_BYTES = 20 * 1024 * 1024
MAX_FILES = 200
MAX_FOLDER_BYTES = 100 * 1024 * 1024


@dataclass(frozen=True)
class Submission:
    """What was handed in. `digest` is the BLAKE3 hash (hex) over the names and bytes of all files.

    `notebook` is None when there is none that can be read; `problem` then says why, in a sentence for the student.
    """

    student: str
    lab: str
    digest: str
    notebook: Any
    problem: str | None
    submitted_at: dt.datetime | None


def read_submission(folder: Path, student: str, lab: str) -> Submission:
    """Read `folder`; never raises for what is in it. Links and special files are not followed, sizes and counts are capped."""
    hasher = blake3.blake3()
    notebook, problem = None, None
    try:
        for name, path in _regular_files(folder):
            hasher.update(name.encode(errors="surrogateescape") + b"\0" + path.lstat().st_size.to_bytes(8, "little"))
            hasher.update_mmap(path) if path.lstat().st_size else None
        notebook = parse(_read_regular(folder / f"{lab}.ipynb"), f"{lab}.ipynb")
    except _Refused as error:
        problem = str(error)
    except NotebookError as error:
        problem = str(error)
    return Submission(student, lab, hasher.hexdigest(), notebook, problem, _timestamp(folder))


class _Refused(Exception):
    """A folder or file that is not read; the message is for the student."""


def _regular_files(folder: Path) -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    total = 0
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders.sort()
        for file in sorted(files):
            path = Path(parent, file)
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                continue
            total += status.st_size
            found.append((str(path.relative_to(folder)), path))
            if len(found) > MAX_FILES or total > MAX_FOLDER_BYTES:
                raise _Refused(
                    f"The submission holds more than {MAX_FILES} files or {MAX_FOLDER_BYTES // 2**20} MB; hand in the notebook only."
                )
    return found


def _read_regular(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise _Refused(f"There is no {path.name} in the submission; hand in the notebook under the name it was released with.") from None
    except OSError as error:
        raise _Refused(f"{path.name} can't be read ({error.strerror}); hand in a plain file, not a link.") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Refused(f"{path.name} is not a plain file.")
        if status.st_size > MAX_NOTEBOOK_BYTES:
            size, most = status.st_size / 2**20, MAX_NOTEBOOK_BYTES // 2**20
            raise _Refused(f"{path.name} has {size:.0f} MB; at most {most} MB are read. Clear its outputs.")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(MAX_NOTEBOOK_BYTES + 1)
    finally:
        os.close(descriptor)


def _timestamp(folder: Path) -> dt.datetime | None:
    """Read nbgrader's `timestamp.txt` (one line, e.g. `2027-01-20 18:03:11 UTC`); None where there is none or it is unreadable."""
    try:
        text = _read_regular(folder / "timestamp.txt")[:100].decode().strip().removesuffix(" UTC")
        moment = dt.datetime.fromisoformat(text)
    except (_Refused, ValueError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
