"""One file a rewrite; a new file here is found by its name (see edgecc.registry)."""
