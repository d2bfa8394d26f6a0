"""Definition and dispatch of ops: registry, checks, backends, instruction sets."""
