"""The one exception that tools show without a trace."""


class UserError(Exception):
    """A mistake that the user can mend: shown as one sentence, without traceback."""
