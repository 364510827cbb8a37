"""Perfusion estimation. Pure functions on arrays; never imports torch."""

import os

# Matrix products and numba kernels alternate here, each with threads of its own. OpenMP threads
# that spin while they wait would take the cores from the others (4 x slower, measured).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
