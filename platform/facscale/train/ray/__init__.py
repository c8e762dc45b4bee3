"""Ray Train around the training loop: launch, worker groups, failures."""
