"""What trainer and server must agree on, byte for byte and op for op.

Knows no client, no settings and no I/O. Letters used everywhere below this package: B rows of a batch, F sparse
slots, D interaction width (the widest row), d width of one block, N rows of a table, L ids looked up by a batch.
"""
