"""The one exception for input that breaks a rule: a stable code and a sentence for people."""


class Refused(Exception):  # noqa: N818 - a refusal is an answer, not a fault of ours
    """Input was refused.

    `code` is stable and dotted (`transaction.expired`): programs may compare it. `message` says
    what was expected and what was found, and never holds keys or patient data.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
