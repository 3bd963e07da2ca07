"""Published methods without a Python package, written from what was published about them."""
