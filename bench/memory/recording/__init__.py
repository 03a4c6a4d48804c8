"""What happens on the GPU while a step runs: recorded, and told apart by category, module and phase."""
