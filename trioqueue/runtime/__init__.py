"""Who runs the jobs: the loops of a node."""
