"""Search of hyperparameters: trials are runs of the recipes, as processes of their own."""
