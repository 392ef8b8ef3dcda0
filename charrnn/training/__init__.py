"""Training: the loop, steps, recipes, evaluation, and distribution over processes."""
