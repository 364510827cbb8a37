"""Networks on raw CTP and what they are built of. Needs the ``learn`` extra (torch)."""
