"""Other methods by their own Python packages."""
