"""Cells from the files that studies publish: described, downloaded and read."""
