"""The base of all errors that are for the user's eyes."""


class UserError(Exception):
    """Something outside this code has to change. The message is whole (what, where, what to do) and is printed alone."""
