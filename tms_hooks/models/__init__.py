"""Toy models: configuration in, TransformerLens-hooked module out."""
