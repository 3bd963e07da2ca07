"""From labelled cells to a reference; needs torch."""
