"""The JSON of the API: one parse and one render for each shape."""
