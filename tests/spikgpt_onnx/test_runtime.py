"""The runtime stands alone."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_runtime_loads_neither_torch_nor_the_library() -> None:
    code = "import sys, spikgpt_onnx; print(sorted({'torch', 'spikgpt', 'scanpy', 'anndata'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
