"""Oracles, problems, made files and the rules of the suite, shared by the tests."""
