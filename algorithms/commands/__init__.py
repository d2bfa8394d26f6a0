"""The commands of `nfkern` that train, evaluate and handle data."""
