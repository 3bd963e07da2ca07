"""Other methods, run by their R packages; each method has a script in R."""
