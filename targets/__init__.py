"""One TOML file a device; a new file here is found by its name (see edgecc.registry)."""
