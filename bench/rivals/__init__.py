"""What nfkern is measured against, and nfkern itself, all as builders: one file per way of doing the works."""
