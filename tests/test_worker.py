"""The worker behind its walls: what it can't see, what it can't do, and the sentence for each way to go wrong."""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graders.subject import StudentError, Subject, call
from graders.worker.client import WorkerLost
from graders.worker.sandbox import Walls, probe

Start = Callable[..., Subject]


def test_the_sandbox_is_there() -> None:
    assert probe().level == "partial", probe()


def test_secrets_are_out_of_sight(worker_of: Start, root: Path) -> None:
    lab = worker_of(
        "import os, sys\ndef look(path): return os.path.exists(path)\ndef modules(): return 'reference' in sys.modules\n"
        "def fetch(name):\n    import importlib\n    return importlib.import_module(name).__name__"
    )
    for name in ("source", "reference", "gradebook.db", ".classroom", "submitted", "graders/labs", "classroom.yml", ".git"):
        assert lab.look(str(root / name)) is False, name
    assert lab.look("/grader/graders/worker/wire.py") is True
    for module in ("reference.simd", "graders.checks", "graders.labs"):
        with pytest.raises(StudentError) as caught:
            lab.fetch(module)
        assert caught.value.kind == "ModuleNotFoundError"


def test_no_network_and_a_clean_environment(worker_of: Start) -> None:
    os.environ["SECRET_TOKEN"] = "hunter2"
    lab = worker_of(
        "import os, socket\ndef dial(port): socket.create_connection(('127.0.0.1', port), timeout=2)\ndef env(): return dict(os.environ)\n"
        "def descriptors(): return sorted(int(name) for name in os.listdir('/proc/self/fd'))\ndef pids(): return [p for p in os.listdir('/proc') if p.isdigit()]"
    )
    with __import__("socket").create_server(("127.0.0.1", 0)) as server, pytest.raises(StudentError) as caught:
        lab.dial(server.getsockname()[1])
    assert caught.value.kind == "ConnectionRefusedError"
    assert "hunter2" not in str(lab.env())
    assert lab.pids() == ["1"]
    assert len(lab.descriptors()) <= 8


def test_a_read_only_world_with_a_small_tmp(worker_of: Start) -> None:
    lab = worker_of(
        "def write(path, size):\n    with open(path, 'wb') as file:\n        for _ in range(size): file.write(bytes(2**20))\n    return True"
    )
    for path in ("/usr/x", "/grader/x", "/dev/x", "/x/y"):
        with pytest.raises(StudentError) as caught:
            lab.write(path, 1)
        assert caught.value.kind in ("OSError", "PermissionError", "FileNotFoundError")
    assert lab.write("/tmp/x", 1) is True
    with pytest.raises(StudentError, match="No space left"):
        lab.write("/tmp/big", 400)
    with pytest.raises(StudentError, match="No space left"):
        lab.write("/dev/shm/big", 400)


def test_a_forbidden_library_is_not_there(worker_of: Start) -> None:
    walls = Walls(forbidden=("hnswlib", "sklearn"), memory_mb=1024)
    lab = worker_of("def fetch(name): __import__(name)", walls)
    for name in ("hnswlib", "sklearn.neighbors"):
        with pytest.raises(StudentError) as caught:
            lab.fetch(name)
        assert caught.value.kind in ("ImportError", "ModuleNotFoundError")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import os\ndef f(): os._exit(0)", "exit status 0"),
        ("import os, signal\ndef f(): os.kill(os.getpid(), signal.SIGKILL); import ctypes; ctypes.string_at(0)", "ended the process"),
        ("import time\ndef f(): time.sleep(60)", "did not finish within 2 s"),
        ("def f():\n    while True: pass", "did not finish within 2 s"),
        ("import sys\ndef f(): sys.setrecursionlimit(10**9); g = lambda n: g(n + 1); g(0)", ""),
        (
            "import os\ndef f():\n    for fd in range(3, 99):\n        try: os.write(fd, b'\\xff' * 64)\n        except OSError: pass",
            "connection to the grader",
        ),
        ("import os\ndef f():\n    for fd in range(3, 99):\n        try: os.close(fd)\n        except OSError: pass", ""),
    ],
)
def test_each_way_to_break_the_worker_has_a_sentence(worker_of: Start, code: str, sentence: str) -> None:
    lab = worker_of(code, seconds=2)
    with pytest.raises((WorkerLost, StudentError)) as caught:
        lab.f()
    assert sentence in str(caught.value)
    if caught.type is WorkerLost:
        assert not lab.is_alive()


def test_the_memory_limit_holds_for_all_together(worker_of: Start) -> None:
    lab = worker_of("import numpy as np\ndef f(): return int(np.ones(10**9 // 2).sum())", Walls(memory_mb=300), seconds=60)
    with pytest.raises((WorkerLost, StudentError)) as caught:
        lab.f()
    assert "300 MB" in str(caught.value) or "MemoryError" in str(caught.value)


def test_a_reply_that_waits_in_the_socket_is_not_believed(worker_of: Start) -> None:
    """Student code finds the wire's descriptor and answers the next question before it is asked."""
    forge = (
        "import os, struct, msgspec\ndef f():\n    frame = msgspec.msgpack.encode([12345, 'ok', 10])\n"
        "    for fd in range(3, 99):\n        try: os.write(fd, struct.pack('<I', len(frame)) + frame)\n        except OSError: pass\n    return 1"
    )
    lab = worker_of(forge, seconds=3)
    with pytest.raises(WorkerLost, match="not asked"):
        lab.f()
        lab.f()


def test_pickles_and_objects_stay_where_they_are(worker_of: Start) -> None:
    lab = worker_of(
        "import pickle\nclass Evil:\n    def __reduce__(self): return (print, ('pwned',))\ndef f(): return pickle.dumps(Evil())\ndef g(): return Evil()"
    )
    assert isinstance(lab.f(), bytes)
    assert repr(lab.g()) == "<Evil>"


def test_handles_callbacks_coroutines_and_lengths(worker_of: Start) -> None:
    lab = worker_of(
        "import asyncio\nclass Box:\n    def __init__(self, n): self.n = n\n    def __len__(self): return self.n\n    async def later(self, x):\n"
        "        await asyncio.sleep(0.01)\n        if x < 0: raise ValueError('negative')\n        return self.n + x\ndef twice(f): return f(1) + f(2)\ndef unbox(box): return box.n"
    )
    box = lab.Box(3)
    assert len(box) == 3 and box.later(4) == 7 and lab.unbox(box) == 3 and lab.attribute(box, "n") == 3
    results = lab.gather([call(box.later, 1), call(box.later, -1, delay_ms=5)])
    assert results[0] == 4 and isinstance(results[1], StudentError) and results[1].kind == "ValueError"
    seen = []
    assert lab.twice(lambda x: seen.append(x) or 10 * x) == 30 and seen == [1, 2]


def test_inputs_are_copies_and_put_keeps_one(worker_of: Start) -> None:
    lab = worker_of("def spoil(a):\n    a[:] = 0\n    return a\ndef total(a): return float(a.sum())")
    array = np.ones(4)
    assert lab.spoil(array).sum() == 0 and array.sum() == 4
    kept = lab.put(array)
    assert lab.total(kept) == 4.0


def test_it_serves_over_real_http_and_drains(worker_of: Start) -> None:
    lab = worker_of(
        "async def app(scope, receive, send):\n    if scope['type'] == 'http':\n        await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "        await send({'type': 'http.response.body', 'body': b'hello'})"
    )
    for _ in range(2):
        with lab.serve("app") as url:
            assert urllib.request.urlopen(url, timeout=5).read() == b"hello"
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=1)


def test_the_cpu_clock_is_read_from_outside_and_stands_still_when_frozen(worker_of: Start) -> None:
    lab = worker_of("def burn(n):\n    for _ in range(n): pass\nimport time\ntime.process_time = lambda: 0\ntime.perf_counter = lambda: 0")
    before = lab.cpu_seconds()
    lab.burn(3_000_000)
    assert lab.cpu_seconds() - before > 0.01
    lab.freeze()
    frozen = lab.cpu_seconds()
    time.sleep(0.05)
    assert lab.cpu_seconds() == frozen
    lab.thaw()
    lab.burn(1)


def test_no_process_or_cgroup_is_left_behind(worker_of: Start) -> None:
    lab = worker_of(
        "import subprocess, sys\ndef spawn(): return subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600) # left-behind-marker']).pid"
    )
    lab.spawn()
    transport = lab._transport
    transport.close()  # type: ignore[attr-defined]
    time.sleep(0.2)
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(b"left-behind-marker" in line for line in lines)
    group = transport._group  # type: ignore[attr-defined]
    assert group is None or not any(folder.exists() for folder in group.folders)
