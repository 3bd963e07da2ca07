"""The network of a reference as an ONNX graph, from counts, an embedding or scGPT's tokens to labels.

``cells`` or ``scgpt`` turns a cell into a vector, ``classifier`` with its ``neurons`` turns the vector into logits, and
``network`` turns the logits into a label. All of these modules add nodes to a ``builder``. In the shape comments B is
cells, G genes, N tokens, D the width, H heads, E = D / H, F hidden neurons of the MLP, L labels, T time steps.
"""

from spikgpt_onnx.graph.network import Network, encoder_graph, labelling_graph

__all__ = ["Network", "encoder_graph", "labelling_graph"]
