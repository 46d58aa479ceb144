"""The LightningModules and the networks in them."""
