"""Other methods, run by their own Python packages."""
