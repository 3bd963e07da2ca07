"""Other methods by their packages in R, each in its own script."""
