"""Cell-type annotation with trained references and spiking attention."""

from importlib.metadata import version

from spikgpt.annotate import Annotation
from spikgpt.api import SpikGPT
from spikgpt.errors import SpikGPTError
from spikgpt.evaluation import Evaluation

__all__ = ["Annotation", "Evaluation", "SpikGPT", "SpikGPTError", "__version__"]

__version__ = version("spikgpt")
