"""Text is read in any encoding and with any line ends, and decompression bombs are refused."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from spikgpt.cells.formats import streams
from spikgpt.cells.formats.streams import first_bytes, open_unpacked, text_lines, unpack
from spikgpt.cells.storage import most_bytes
from spikgpt.errors import DataError

# Memory limit, in bytes, of a process that reads decompression bombs.
MOST_MEMORY = 2 * 1024**3


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_lines_of_any_system_are_read(encoding: str, end: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(end.join(["naïve", "", "Müller", "a"]).encode(encoding))
    assert list(text_lines(tmp_path / "a.txt")) == [(1, "naïve"), (3, "Müller"), (4, "a")]


def test_a_packed_file_is_read_like_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    assert [line for _, line in text_lines(tmp_path / "a.gz")] == ["one", "two"]
    assert first_bytes(tmp_path / "a.gz", 5) == b"one\nt"
    unpack(tmp_path / "a.gz", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"one\ntwo\n"
    (tmp_path / "a.gz").write_bytes((tmp_path / "a.gz").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a\.gz cannot be unpacked: .*Copy or download the file again"):
        list(text_lines(tmp_path / "a.gz"))


def test_bytes_and_lines_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(2000)))
    with pytest.raises(DataError, match=r"a\.gz unpacks to more than 1000 bytes"):
        with open_unpacked(tmp_path / "a.gz", most=1000) as stream:
            stream.read()
    (tmp_path / "a.txt").write_bytes(b"\n" * (streams.MOST_EMPTY + 2))
    with pytest.raises(DataError, match="has more than 10000 empty lines"):
        list(text_lines(tmp_path / "a.txt"))
    monkeypatch.setattr(streams, "LONGEST_LINE", 100)
    (tmp_path / "a.txt").write_bytes(b"a\n" + b"b" * 101)
    with pytest.raises(DataError, match="line 2, is longer than 100 characters"):
        list(text_lines(tmp_path / "a.txt"))


HEAD = b"%%MatrixMarket matrix coordinate integer general\n"
# Content of each decompression bomb: the beginning, and the part that repeats.
BOMBS = {
    "line.csv.gz": (b",INS\na,1\n", b"0"),
    "columns.csv.gz": (b",INS\na,1\n", b"0,"),
    "empty.tsv.gz": (b",INS\na,1\n", b"\n"),
    "comments.csv.gz": (b"", b"#\n"),
    "rows.csv.gz": (b",INS\n", b"a,1\n"),
    "cells.h5ad.gz": (b"\x89HDF\r\n\x1a\n", b"\0"),
    "many/matrix.mtx.gz": (HEAD + b"3 3 900000000\n", b"1 1 1\n"),
    "long/matrix.mtx.gz": (HEAD + b"3 3 9\n1 1 ", b"1"),
    "header/matrix.mtx.gz": (HEAD, b"%"),
    "names/barcodes.tsv.gz": (b"", b"a\n"),
    "name/barcodes.tsv.gz": (b"", b"a"),
}


@pytest.mark.slow
def test_decompression_bombs_are_refused_in_seconds_and_little_memory(tmp_path: Path) -> None:
    paths = []
    for name, (begin, rest) in BOMBS.items():
        path = tmp_path / name
        if "/" in name:
            path.parent.mkdir()
            for other, text in (("barcodes.tsv", "a\nb\nc\n"), ("features.tsv", "INS\nGCG\nSST\n")):
                (path.parent / other).write_text(text)
            (path.parent / "matrix.mtx").write_bytes(HEAD + b"3 3 1\n1 1 1\n")
            plain = path.with_suffix("")
            plain.unlink(missing_ok=True)
        # Each gzip member unpacks to a megabyte. All members together exceed the limit for the file.
        block = gzip.compress(rest * (1024 * 1024 // len(rest)), 9)
        with path.open("wb") as file:
            file.write(gzip.compress(begin))
            for _ in range(most_bytes(0) // 1024 // 1024 + 40):
                file.write(block)
        paths.append(path if path.name == "matrix.mtx.gz" or "/" not in name else path.parent)
    code = (
        "import resource, sys, time\n"
        "from spikgpt.cells.reading import read_cells\n"
        "from spikgpt.errors import DataError\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({MOST_MEMORY}, {MOST_MEMORY}))\n"
        "for path in sys.argv[1:]:\n"
        "    begin = time.process_time()\n"
        "    try:\n"
        "        print('read', read_cells(path))\n"
        "    except DataError as error:\n"
        "        print(f'{time.process_time() - begin:.1f} {error}')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=100)
    answers = ran.stdout.splitlines()
    assert len(answers) == len(paths), ran.stderr
    for path, answer in zip(paths, answers, strict=True):
        assert str(path) in answer
        assert "read" != answer.split()[0]
        assert float(answer.split()[0]) < 10
