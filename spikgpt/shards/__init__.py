"""Annotation of a query that is stored in several files, by the workers of a Dask cluster or by this process."""
