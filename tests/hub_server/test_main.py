"""The Hub on this machine, started from the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from huggingface_hub import HfApi


def test_the_hub_starts_from_the_command_line_and_stops_with_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.hub_server", "--port", "0", "--folder", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().removeprefix("A Hub at ").split(". ")[0]
        shown = [process.stdout.readline() for _ in range(4)]
        assert f"export HF_ENDPOINT={endpoint} HF_HUB_DISABLE_XET=1\n" in shown
        HfApi(endpoint=endpoint, token=False).create_repo("me/model")
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().endswith("Stopped.\n")
    assert process.returncode == 0
    assert (tmp_path / "hub.json").is_file()
