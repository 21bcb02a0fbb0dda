"""Benchmarks: run by hand, never by the tests. Each compares with a raw loop in the same run."""
