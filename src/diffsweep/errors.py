"""What is shown in one line, without a stack trace: mistakes that a user can mend, and checks that fail."""


class UserError(Exception):
    """A wrong option, key, value or path; the message says what and how to mend it."""


class Failed(Exception):  # noqa: N818 - says what happened
    """A check that was asked for did not pass; the message says which."""


class Stopped(SystemExit):
    """The run was asked to stop (Ctrl-C or SIGTERM); its code is the process's exit code."""
