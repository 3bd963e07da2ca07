"""Values that are appended by columns are read back by rows; the error names a full temporary folder."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from spikgpt.cells.row_buckets import MOST_BITS, RowBuckets, bucket_bits, temporary_space
from spikgpt.errors import ConfigError

COUNTS = sparse.random(
    70, 30, density=0.3, format="csc", random_state=0, data_rvs=lambda n: np.random.default_rng(0).integers(1, 9, n)
)


def in_buckets(matrix: sparse.csc_matrix, bits: int, width: int = 7) -> sparse.csr_matrix:
    buckets = RowBuckets(matrix.shape, bits, "X")
    for first in range(0, matrix.shape[1], width):
        buckets.append(matrix[:, first : first + width], first)
    rows = [buckets.read(number) for number in range(-(-matrix.shape[0] // (1 << bits)))]
    return sparse.vstack(rows, format="csr")


@pytest.mark.parametrize("bits", [0, 3, 10])
@pytest.mark.parametrize(
    "change",
    [
        lambda values: values,
        lambda values: values / 3,
        lambda values: values * 1e6,
        lambda values: -values,
        lambda values: np.where(values > 7, np.nan, values),
        lambda values: np.where(values > 7, np.inf, values),
    ],
    ids=["counts", "fractions", "large", "negative", "NaN", "infinite"],
)
def test_rows_have_the_values_in_float32(bits: int, change: object) -> None:
    matrix = COUNTS.astype(np.float64)
    matrix.data = change(matrix.data)  # type: ignore[operator]
    rows, expected = in_buckets(matrix, bits), matrix.tocsr().astype(np.float32)
    assert rows.dtype == np.float32
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(expected, name))


def test_repeated_values_are_summed() -> None:
    twice = sparse.csc_matrix((np.ones(4), [3, 3, 1, 3], [0, 2, 4]), shape=(5, 2))
    assert in_buckets(twice, 1, width=2).toarray().tolist() == twice.toarray().tolist()


def test_columns_beyond_65536_are_kept() -> None:
    wide = sparse.csc_matrix(([1.0, 2.0], ([2, 0], [5, 70_000])), shape=(3, 70_001))
    assert (in_buckets(wide, 1, width=50_000) != wide.tocsr()).nnz == 0


@pytest.mark.parametrize(
    ("rows", "values", "bits"),
    [(10**6, 10**9, MOST_BITS), (10**6, 8 * 10**9, 6), (0, 0, MOST_BITS), (1, 10**9, 0)],
)
def test_buckets_are_smaller_for_rows_with_many_values(rows: int, values: int, bits: int) -> None:
    assert bucket_bits(rows, values) <= bits
    assert bucket_bits(rows, values) >= bits - 1 or not rows


@pytest.fixture
def small_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("small_files")
def test_a_full_temporary_folder_is_named() -> None:
    with pytest.raises(ConfigError, match="TMPDIR") as caught:
        in_buckets(sparse.csc_matrix(np.ones((100, 100))), 3)
    assert tempfile.gettempdir() in str(caught.value)


def test_other_errors_of_the_system_are_kept() -> None:
    with pytest.raises(FileNotFoundError), temporary_space("X"):
        Path("/nonexistent").stat()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems delete the file when it is closed")
def test_nothing_is_left_when_the_process_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, signal; from scipy import sparse; from spikgpt.cells.row_buckets import RowBuckets\n"
        "buckets = RowBuckets((9, 9), 1, 'X'); buckets.append(sparse.eye(9, format='csc'), 0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | {"TMPDIR": str(tmp_path)}, check=False)
    assert done.returncode == -9
    assert list(tmp_path.iterdir()) == []
