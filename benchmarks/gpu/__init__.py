"""A GPU used well: what is packed here, what runs on a machine that is there for a short time, what comes back."""
