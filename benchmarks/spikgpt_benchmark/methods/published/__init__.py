"""Published methods without a Python package, written from their publications."""
