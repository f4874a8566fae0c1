"""Facts about a graph; nothing here rewrites one."""
