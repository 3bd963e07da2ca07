"""AnnData from open HDF5 files and zarr folders."""
