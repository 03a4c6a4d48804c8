"""The score by which methods are compared, and what it is called."""

SCORE = "last_five_accuracy"
"""Its column of the cells frame."""

SCORE_NAME = "test accuracy, mean of the last five tests"
