"""Cell-type annotation with trained references and spiking attention."""

import lazy_loader

from spikgpt.imports import without_collection

# Public names are listed in __init__.pyi. Modules are imported at first use, because torch and scanpy take seconds.
_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    with without_collection():
        return _load(name)
