"""Examples, each runnable from the repository's root."""
