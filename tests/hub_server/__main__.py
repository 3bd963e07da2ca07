"""Serve a small Hugging Face Hub on this machine until interrupted: ``python -m tests.hub_server``."""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

from tests.hub_server import LoopbackHub


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Serve a small Hugging Face Hub on this machine.")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--folder", type=Path, help="save repositories here; by default they are deleted at the end")
    options = parser.parse_args()
    with LoopbackHub(folder=options.folder, port=options.port) as hub:
        sys.stdout.write(
            f"A Hub at {hub.endpoint}. In another terminal, before anything else:\n\n"
            f"export HF_ENDPOINT={hub.endpoint} HF_HUB_DISABLE_XET=1\n\nStop it with Ctrl-C.\n"
        )
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stdout.write("Stopped.\n")


if __name__ == "__main__":
    main()
