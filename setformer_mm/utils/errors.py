"""What tools show without a trace."""


class UserError(Exception):
    """A mistake that the user can mend: shown as one sentence, without traceback."""


class UnfitWeightsError(UserError, ValueError):
    """Weights that a model cannot use as it was built, wherever they are loaded."""
