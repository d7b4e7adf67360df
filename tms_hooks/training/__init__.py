"""Training many toy models at once: what is computed (`recipe`, `batches`), how (`torch_engine`, `on_device`), what stays of it."""
