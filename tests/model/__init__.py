"""Slow, readable implementations that serve as an oracle; they share no code with the package."""
