"""All torch networks run in one thread, also in a forked process."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from spikgpt.engines.thread import TorchThread

# Program that forks after some threads have ended, while another thread may still run a network.
FORKS = """
import os, signal, sys, threading
import torch
from spikgpt.engines.thread import TORCH_THREAD

network = torch.nn.Linear(64, 300).double()

def outputs(rows):
    return TORCH_THREAD.run(lambda: network(torch.ones(rows, 64, dtype=torch.float64)).sum().item())

if __name__ == "__main__":
    signal.alarm(120)
    expected = outputs(1200)
    for turn in range(60):
        threads = [threading.Thread(target=outputs, args=(1200,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads[turn % 2 :]:
            thread.join()
        if (child := os.fork()) == 0:
            signal.alarm(60)
            os._exit(outputs(1200) != expected)
        assert os.waitpid(child, 0)[1] == 0, turn
        for thread in threads:
            thread.join()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_a_forked_process_runs_networks_after_its_parent_did(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(FORKS)
    command, threads = [sys.executable, "-W", "ignore", "program.py"], {**os.environ, "OMP_NUM_THREADS": "2"}
    ran = subprocess.run(command, cwd=tmp_path, env=threads, capture_output=True, text=True, timeout=200)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_functions_run_in_one_thread_with_the_number_of_torch_threads_of_the_caller() -> None:
    thread, before = TorchThread(), torch.get_num_threads()
    ran = [thread.run(lambda: (threading.get_ident(), torch.get_num_threads()))]
    try:
        torch.set_num_threads(before + 1)
        ran.append(thread.run(lambda: (threading.get_ident(), torch.get_num_threads())))
    finally:
        torch.set_num_threads(before)
    assert len({ident for ident, _ in ran} - {threading.get_ident()}) == 1
    assert [count for _, count in ran] == [before, before + 1]


def test_an_error_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        TorchThread().run(lambda: 1 // 0)
