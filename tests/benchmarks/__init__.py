"""Benchmarks: scripts that print measured numbers with the conditions they were measured under; see README.md."""
