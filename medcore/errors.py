"""The one exception type that users of medcore can catch."""


class MedcoreError(Exception):
    """Something is wrong with the input, and the message says what and what to do.

    Messages name the file, row, argument and value. The command line prints them without a traceback.
    """


class TestDataRefused(MedcoreError):
    """Test data reached a function that chooses something (a threshold, a checkpoint, a parameter)."""

    __test__ = False  # pytest must not collect it
