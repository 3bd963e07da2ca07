"""Pictures of annotations, as in scanpy: each function draws on an Axes of matplotlib, and returns the Axes."""

from spikgpt.pl.dots import genes
from spikgpt.pl.maps import umap
from spikgpt.pl.rasters import raster
from spikgpt.pl.scores import confidence
from spikgpt.pl.shares import agreement, composition

__all__ = ["agreement", "composition", "confidence", "genes", "raster", "umap"]
