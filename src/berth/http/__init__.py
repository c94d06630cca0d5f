"""HTTP/1.1 for whoever serves it, the engine's API and the registry: connections, bodies, TLS, websockets, routes."""
