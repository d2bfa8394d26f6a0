"""What tests share: oracles, problems, made files and the rules of the suite."""
