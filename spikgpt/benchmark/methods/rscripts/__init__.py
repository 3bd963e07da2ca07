"""Rivals in R, run by ``Rscript``."""
