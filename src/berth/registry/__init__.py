"""Registries: the client of the distribution protocol, and what both sides of it know of media types and platforms."""
