"""Cells in: from AnnData, h5ad, zarr and 10x files to linear values of a reference's genes."""
