"""Remove a folder once the parent process has ended, even if the parent was killed.

The server starts this file as a program, with a pipe as standard input. The system closes the pipe when the server
ends. Only the standard library is imported, so that the process stays small.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from pathlib import Path

# Number of attempts, and seconds between two attempts. The workers of a killed server may still write for some time.
ATTEMPTS, PAUSE = 50, 0.1


def remove(folder: Path) -> bool:
    """Remove a folder, and return True once it is gone."""
    for _ in range(ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return True
        time.sleep(PAUSE)
    return False


def main() -> None:
    """Wait for the end of standard input, and remove the folder that the command line names."""
    # Ignore signals that may reach the whole group of processes: the folder is removed after the server has ended.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    remove(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
