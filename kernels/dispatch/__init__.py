"""How ops are defined and called: registry, checks, backends, instruction sets."""
