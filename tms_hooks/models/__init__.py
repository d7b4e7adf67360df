"""Toy models: their mathematics (`forward`), and as modules with TransformerLens's hook points (`toy`)."""
