from .api import SpikGPT, annotate_shards
from .errors import SpikGPTError
from .reference.listing import list_references
from .scoring.annotation import Annotation
from .training.evaluation import Evaluation
from .version import __version__

__all__ = ["Annotation", "Evaluation", "SpikGPT", "SpikGPTError", "__version__", "annotate_shards", "list_references"]
