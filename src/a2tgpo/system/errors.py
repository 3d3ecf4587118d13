"""Errors that concern the whole run."""


class SettingError(ValueError):
    """A setting is wrong: no other episode would fare better, so it ends the run.

    Any other exception costs the episode that raised it.
    """
