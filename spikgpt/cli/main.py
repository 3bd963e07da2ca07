"""Entry point of the command line: set up the standard streams, run the command, and set the exit code.

``spikgpt --version`` is answered without importing the commands.
"""

from __future__ import annotations

import sys

from spikgpt.cli.streams import standard_streams
from spikgpt.version import __version__


def main() -> None:
    """Run the command line and exit.

    The exit code is 0 for success, and 2 for a user's mistake, which one line on standard error explains. After a
    signal, the code is 128 plus the number of the signal: 130 for Ctrl-C. If standard output fails, the command still
    finishes its work. The exit code is then 1 if the reader closed standard output, and 2 for other failures.
    """
    with standard_streams() as out:
        code = _run()
        sys.stdout.flush()
        error = out.error if out else None
        if error is not None and not code:
            code = 1 if isinstance(error, BrokenPipeError) else 2
        if error is not None and code == 2:
            from spikgpt.cli.app import error_text
            from spikgpt.cli.output import print_error

            print_error(f"Standard output cannot be written. {error_text(error)}")
    sys.exit(code)


def _run() -> int:
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"spikgpt {__version__}\n")
        return 0
    from spikgpt.cli.app import run

    return run()
