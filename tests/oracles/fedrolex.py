"""FedRolex's window in two cases, in plain lists."""


def window(turn, part, whole):
    """Indices from the window's start on if they fit, otherwise those up to the end and from the beginning.

    The start moves down by one a round, as in the published code.
    """
    start = -turn % whole
    if start + part <= whole:
        return list(range(start, start + part))
    return [*range(start, whole), *range(start + part - whole)]
