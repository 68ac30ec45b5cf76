"""What is behind the public names; may change at any time."""
