"""Training: one loop, DeepSpeed engines under it, Ray Train around it. Knows no method by name."""
