"""Who runs measured cells: this process, or local workers."""
