"""Speed of the engines against the loop that notebooks in this field run: `python -m benchmarks`."""
