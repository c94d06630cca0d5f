"""The names of containers over DNS: what the resolver process is made of."""
