"""Verdicts, tables and pages of records."""
