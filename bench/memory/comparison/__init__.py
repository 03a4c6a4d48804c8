"""The same step measured twice, here and elsewhere: what differs."""
