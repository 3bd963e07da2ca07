"""Deprecated package of the local Hub server for tests, which is now in ``tests/hub_server`` of the repository."""
