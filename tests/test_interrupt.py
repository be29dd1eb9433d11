"""Ctrl-C in a terminal reaches every process of the group: only the window may hear it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import multiprocessing, signal
from explorer.worker import no_interrupt
def child(pipe):
    pipe.send(signal.pthread_sigmask(signal.SIG_BLOCK, []))
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    for _ in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=child, args=(theirs,))
        with no_interrupt():
            process.start()
        print(signal.SIGINT in ours.recv(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
        process.join()
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks on this system")
def test_a_process_started_so_never_hears_ctrl_c(tmp_path: Path) -> None:
    """Nor does the very first one of a program, for which Python starts a helper that unblocks the signal."""
    (tmp_path / "program.py").write_text(CODE)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(tmp_path / "program.py")],
        env={"PYTHONPATH": str(Path(__file__).parent.parent)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "False"] * 2
