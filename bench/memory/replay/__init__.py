"""The caching allocator as a model in Python: what other settings would have reserved."""
