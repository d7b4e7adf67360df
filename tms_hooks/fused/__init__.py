"""The compiled engine: whole training runs in numba, many times faster; an annex, which nothing else needs."""
