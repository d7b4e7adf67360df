"""Training many toy models at once: what is computed (`recipe`, `batches`), how (`torch_engine`), what stays of it."""
