"""Data that users bring, and what is observed while the network runs on it."""
