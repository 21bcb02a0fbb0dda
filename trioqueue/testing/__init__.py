"""For tests: the conformance suite of stores, in `trioqueue.testing.conformance`."""
