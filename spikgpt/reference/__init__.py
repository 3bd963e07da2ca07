"""The files of a reference, and where they come from."""
