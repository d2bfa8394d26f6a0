"""Benchmarks and studies: what is measured, the gates before a number counts, records, and pages of results."""
