"""The one exception that stands for a user's mistake, as opposed to a mistake of ours."""

from bytecodec.safe_text import printable

MOST_MESSAGE = 400  # in characters; names in a file may be of any length


class InputError(ValueError):
    """Something that was given cannot be used.

    ``str(error)`` is one or two sentences for the person who gave it: what is wrong, with the value, the
    file and the offset, and what to do. The commands print it and exit with 1; any other exception is a
    fault of the program and keeps its traceback.

    The message is one line of at most `MOST_MESSAGE` characters without control characters, whatever the values in
    it: see `bytecodec.safe_text.printable`.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(message, MOST_MESSAGE))


def first_line(error: Exception) -> str:
    """Return the first line of an error's message without its full stop; the name of its class if it is empty."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__).rstrip(".")


class NoTableError(InputError):
    """A text that BinToUTF8 wrote with a table of characters was given without that table."""


class NoChannelError(InputError):
    """A recording, or one of several in a file, lacks the requested channel."""
