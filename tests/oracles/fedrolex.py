"""FedRolex's window from the paper's two cases, in plain lists."""


def window(turn, part, whole):
    """Indices from ``turn`` on if they fit, otherwise those up to the end and from the beginning; counted backwards.

    The paper's window moves forwards, from channel j to j + part; that of the published code moves backwards.
    """
    start = -turn % whole
    if start + part <= whole:
        return list(range(start, start + part))
    return [*range(start, whole), *range(start + part - whole)]
