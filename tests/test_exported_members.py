from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import spikgpt


def test_all_names_what_is_public() -> None:
    assert list(spikgpt.__all__) == sorted(spikgpt.__all__)
    assert all(hasattr(spikgpt, name) for name in spikgpt.__all__)
    assert set(spikgpt.__all__) == {"Annotation", "Evaluation", "SpikGPT", "SpikGPTError", "__version__"}
    assert spikgpt.__version__ == version("spikgpt")


def test_the_entry_point_stays_small() -> None:
    assert len(Path(str(spikgpt.__file__)).read_text().splitlines()) <= 15
