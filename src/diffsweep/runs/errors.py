"""Mistakes that a user can mend: shown in one line, without a stack trace."""


class UserError(Exception):
    """A wrong option, key, value or path; the message says what and how to mend it."""


class Stopped(SystemExit):
    """The run was asked to stop (Ctrl-C or SIGTERM); its code is the process's exit code."""
