"""The store in plain Python: for tests, and for reading."""
