"""What can be wrong with a text or a conversation. Not HTTP: `serve_app.api` gives statuses.

TextError              the text cannot be made into tokens, or the tokens into text
├── BadResponseTemplate what should say how answers are written does not
├── BadVariable        a variable that a client must not give to a chat template
├── NoChatTemplate     the model has no chat template
├── NoToolCalls        nothing tells how the model calls tools, or it is not shown them
├── NoForcedCalls      nothing tells how the model is made to call one
└── TooManyTokens      the text is longer than it may be
TextFailed             an error of ours at one text
TextUnavailable        the text process cannot answer now
"""

from serve_app.errors import ServingError


class TextError(ServingError):
    """The text cannot be made into tokens, or the tokens into text."""


class BadResponseTemplate(TextError):
    """What should say how a model writes its answers does not."""


class BadVariable(TextError):
    """A variable that a client must not give to a chat template."""


class NoChatTemplate(TextError):
    """The model has no chat template."""


class NoToolCalls(TextError):
    """Nothing tells how the model calls tools, or its chat template does not show it tools."""


class NoForcedCalls(TextError):
    """Nothing tells how the model is made to call a tool."""


class TooManyTokens(TextError):
    """The text has more tokens than it may have. Its own text says how many: `300`, or `at least
    300`.
    """


class TextFailed(ServingError):
    """An error of ours at one text; the log of the text process has it."""


class TextUnavailable(ServingError):
    """The text process cannot answer now."""
