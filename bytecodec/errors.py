"""The one exception that stands for a user's mistake, as opposed to a mistake of ours."""


class InputError(ValueError):
    """Something that was given cannot be used.

    ``str(error)`` is one or two sentences for the person who gave it: what is wrong, with the value, the
    file and the offset, and what to do. The commands print it and exit with 1; any other exception is a
    fault of the program and keeps its traceback.
    """
