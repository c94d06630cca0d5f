"""Networks of containers: bridges, addresses, names, published ports. Knows nothing of images, the API or the engine's records."""
