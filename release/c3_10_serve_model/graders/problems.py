"""The base of every error that is a person's mistake: shown as one sentence, without a traceback."""


class UserProblem(ValueError):
    """Something that the person at the keyboard can put right; the message says what was wrong, where, and what to do."""
