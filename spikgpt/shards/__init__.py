"""Annotation of a query that lies in several files, by the workers of a Dask cluster or by this process."""
