"""The errors that a command shows to its user in one line."""


class UserError(Exception):
    """Something the user can mend: the message says what was expected, what came, and what to do."""


class UsageError(UserError):
    """The command line asks for something that cannot be, whatever lies on the disk: exit code 2 instead of 1."""
