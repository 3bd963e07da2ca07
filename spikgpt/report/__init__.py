"""What is made of labels for people to read."""
