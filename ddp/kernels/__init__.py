"""The arithmetic, in Numba: arrays in, preallocated `out` arrays last; no classes, no MPI, no I/O.

Activations are channels-last, gradients are sums over the batch, and no result depends on the number
of threads or on which other samples share the batch. `reference` holds the same functions in NumPy.
"""
