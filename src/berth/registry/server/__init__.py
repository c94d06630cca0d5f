"""The registry: OCI distribution specification 1.1 over a directory or S3, with tokens, a cache of another registry, an index."""
