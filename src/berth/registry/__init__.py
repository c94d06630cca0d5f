"""Registries: the client of the distribution protocol, a server of it, and what both sides know of media types and manifests."""
