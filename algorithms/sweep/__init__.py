"""Many runs: algorithms x tasks x seeds."""
