"""The pages that people open: the demo, the claims, what theory says; one look for all of them."""
