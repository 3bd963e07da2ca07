from . import pl
from .api import SpikGPT, annotate_shards
from .choice import ReferenceChoice, annotate, choose_reference
from .errors import SpikGPTError
from .reference.listing import list_references
from .scoring.annotation import Annotation
from .training.evaluation import Evaluation
from .version import __version__

__all__ = [
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
]
