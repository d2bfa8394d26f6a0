"""Builders of all variants, nfkern's own and its rivals': one file per way of doing the works."""
