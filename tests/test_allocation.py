"""What the C library is told of freed memory."""

import subprocess
import sys

import pytest

#: Threads that each hold 4 MB of small arrays and free them: in glibc each has an arena of its own.
MEASURE = """
import ctypes, sys, threading
from inspect_cli.allocation import share_freed_memory
if sys.argv[1] == "shared":
    assert share_freed_memory()
gate = threading.Barrier(9)
def fill():
    kept = [bytearray(1000) for _ in range(4000)]
    gate.wait()
threads = [threading.Thread(target=fill) for _ in range(8)]
[thread.start() for thread in threads]
gate.wait()
[thread.join() for thread in threads]
class Info(ctypes.Structure):
    pass
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_threads_share_what_they_free(tmp_path):
    pools = {}
    for mode in ("own", "shared"):
        subprocess.run([sys.executable, "-c", MEASURE, mode, str(tmp_path / mode)], check=True, timeout=60)
        pools[mode] = (tmp_path / mode).read_text().count("<heap nr=")
    assert pools["shared"] <= 2 < pools["own"]


def test_elsewhere_nothing_is_told(monkeypatch):
    from inspect_cli import allocation

    monkeypatch.setattr(allocation.sys, "platform", "win32")
    assert allocation._tell({1: 1}) is False
