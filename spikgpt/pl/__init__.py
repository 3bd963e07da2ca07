"""Pictures of annotations, in the manner of scanpy: each function draws on an Axes, and returns it."""

from spikgpt.pl.dots import genes
from spikgpt.pl.maps import umap
from spikgpt.pl.rasters import raster
from spikgpt.pl.scores import confidence
from spikgpt.pl.shares import agreement, composition

__all__ = ["agreement", "composition", "confidence", "genes", "raster", "umap"]
