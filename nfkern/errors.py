"""The error that a command shows to its user in one line."""


class UserError(Exception):
    """Something the user can mend: the message says what was expected, what came, and what to do."""
