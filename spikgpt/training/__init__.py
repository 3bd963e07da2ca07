"""Training of a reference on labelled cells; needs torch."""
