"""Training many toy models at once."""
