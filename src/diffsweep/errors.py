"""Errors that the command line shows in one line, without a stack trace."""


class UserError(Exception):
    """An error of a user: a wrong option, key, value or path; the message names it and what to type instead.

    The command line prints it in one line and ends with exit code 2.
    """


class LeftOut(UserError):  # noqa: N818 - names an outcome
    """An error of a value that one run cannot take and others can, such as more steps than a student has learned.

    A sweep leaves such a job out and runs the others; alone it is an error as any other.
    """


class Failed(Exception):  # noqa: N818 - names an outcome
    """The error that a requested check, or a job of a sweep, did not pass; the message names it.

    The command line prints it in one line and ends with exit code 1.
    """


class Stopped(SystemExit):
    """The exit of a process that received a signal; ``code``, its exit code, is 130 of Ctrl-C and 143 of the others."""


def line_of(error: BaseException) -> str:
    """Return the message of an error on one line, or the name of its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
