"""Cell-type annotation with trained references and spiking attention."""

import lazy_loader

# Public names are listed in __init__.pyi. Modules are imported at first use, because torch and scanpy take seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
