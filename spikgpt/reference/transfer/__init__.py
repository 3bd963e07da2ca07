"""What comes from the Hub: requests within limits, and the local cache."""
