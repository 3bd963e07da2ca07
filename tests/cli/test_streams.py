"""Commands work with any standard streams, and end cleanly on signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A command that prints a result with unusual characters, writes a file, and prints a note.
PRINTS = """if True:
    import sys, typer
    from pathlib import Path
    from spikgpt.cli import app, main
    from spikgpt.cli.flags import command
    from spikgpt.cli.output import note, show
    from spikgpt.errors import ConfigError
    @command()
    def odd(wrong: bool = False) -> None:
        show(("label", "cells"), [("\\u03b2 \\udce9", 3)] * 100, "\\u4e2d", result=True)
        note("\\u03b2")
        typer.echo("\\u03b2" * 100_000)  # more than a pipe holds
        if wrong:
            raise ConfigError("\\u03b2 is wrong")
        Path("written").write_text("whole")
        note("\\u03b2 was written")
    app.app.command("odd")(odd)
    main.main()
"""
ODD = [sys.executable, "-c", PRINTS, "odd"]


def run_in_shell(
    redirection: str, folder: Path, *, words: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    command = 'shift; "$@" ' + redirection
    return subprocess.run(
        ["bash", "-c", f'r() {{ {command}; }}; r "$@"', "bash", "r", *ODD, *words.split()],
        cwd=folder,
        capture_output=True,
        env=os.environ | environment,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a shell with redirections")
@pytest.mark.parametrize(
    ("redirection", "environment", "code"),
    [
        ("", {"PYTHONIOENCODING": "ascii"}, 0),
        ("", {"PYTHONIOENCODING": "cp1252:strict"}, 0),
        ("", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, 0),
        ("2>/dev/full", {}, 0),
        (">&-", {}, 2),
        (">&- 2>&- <&-", {}, 2),
        (">/dev/full", {}, 2),
        (">/dev/full 2>/dev/full", {"PYTHONUNBUFFERED": "1"}, 2),
        ("| head -c 10; return ${PIPESTATUS[0]}", {}, 1),
        ("2>&1 | true; return ${PIPESTATUS[0]}", {}, 1),
    ],
)
def test_files_are_written_whatever_the_standard_streams(
    redirection: str, environment: dict[str, str], code: int, tmp_path: Path
) -> None:
    ran = run_in_shell(redirection, tmp_path, **environment)
    assert (ran.returncode, (tmp_path / "written").read_text()) == (code, "whole"), ran.stderr
    assert b"Traceback" not in ran.stdout + ran.stderr
    assert b"Exception ignored" not in ran.stderr
    if "2>" not in redirection:
        (error,) = [line for line in ran.stderr.splitlines() if b"Error" in line] or [b""]
        assert (b"Standard output cannot be written" in error) == (code == 2)


def test_a_mistake_is_one_line_whatever_the_standard_streams(tmp_path: Path) -> None:
    ran = run_in_shell("", tmp_path, words="--wrong", PYTHONIOENCODING="ascii")
    assert (ran.returncode, ran.stderr.splitlines()[-1]) == (2, b"Error: \\u03b2 is wrong")
    assert run_in_shell("2>/dev/full", tmp_path, words="--wrong").returncode == 2
    assert not (tmp_path / "written").exists()


WAITS = """if True:
    import sys, time
    from pathlib import Path
    from spikgpt.cli import app, main
    from spikgpt.cli.flags import command
    from spikgpt.files import replacing
    @command()
    def wait() -> None:
        with replacing(Path("out.h5ad")) as temporary:
            temporary.write_text("half")
            print("writing", flush=True)
            time.sleep(60)
    app.app.command("wait")(wait)
    main.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_command_in_order(name: str, tmp_path: Path) -> None:
    number = signal.Signals[name]
    with subprocess.Popen([sys.executable, "-c", WAITS, "wait"], cwd=tmp_path, stdout=-1, stderr=-1) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(number)
        if number != signal.SIGINT:
            process.send_signal(number)  # a shell and the system may both send the signal
        assert process.stderr.read() == b"Interrupted. Nothing was written.\n"
        assert process.wait() == 128 + number
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    program = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{WAITS}"
    with subprocess.Popen([sys.executable, "-c", program, "wait"], cwd=tmp_path, stdout=-1, stderr=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert process.poll() is None
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM
