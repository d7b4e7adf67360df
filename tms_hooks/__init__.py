"""Toy models of superposition that can be hooked, trained and compared with real transformers."""
