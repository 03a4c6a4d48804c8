"""ProFL's rivals behind the bench's contract, one file each."""
