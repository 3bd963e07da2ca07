"""Published methods that have no Python package, implemented here from their publications."""
