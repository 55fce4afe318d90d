"""Errors that the command line shows in one line, without a stack trace."""


class UserError(Exception):
    """A wrong option, key, value or path; the message names it and what to type instead."""


class Failed(Exception):  # noqa: N818 - names an outcome
    """A requested check did not pass; the message names it."""


class Stopped(SystemExit):
    """The run received Ctrl-C or SIGTERM; ``code`` is the exit code of the process."""
