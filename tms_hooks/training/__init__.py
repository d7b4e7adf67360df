"""Training many toy models at once.

In the order in which one reads it: how weights move (`optimizers`), what a run is to compute (`recipe`), what it draws
(`batches`), what changes (`state`), how it changes (`torch_engine`), what is remembered (`history`, `checkpoint`).
"""
