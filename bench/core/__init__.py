"""Cases, declarations, timing, the gate and records."""
