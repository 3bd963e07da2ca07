"""Deprecated place of the Hub server, which is in ``tests/hub_server`` of the repository."""
