from __future__ import annotations

from importlib.metadata import version

import spikgpt


def test_all_lists_the_public_names() -> None:
    assert list(spikgpt.__all__) == sorted(spikgpt.__all__)
    assert all(hasattr(spikgpt, name) for name in spikgpt.__all__)
    assert set(spikgpt.__all__) == {
        "Annotation",
        "Evaluation",
        "ReferenceChoice",
        "SpikGPT",
        "SpikGPTError",
        "__version__",
        "annotate",
        "annotate_shards",
        "choose_reference",
        "list_references",
        "pl",
    }
    assert spikgpt.__version__ == version("spikgpt")
