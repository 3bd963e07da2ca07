"""Read cells from AnnData, h5ad, zarr, 10x and text files, undo logarithms, and align the genes to a reference."""
