"""Other methods by their packages in R, each in a script of its own."""
