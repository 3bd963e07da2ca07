"""Read cells from AnnData and from h5ad, zarr, 10x and text files as linear values of a reference's genes."""
