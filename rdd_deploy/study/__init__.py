"""A study: one recipe, its variants and their seeds, run one after the other or side by side, and the table that they
make.

Each run is a process of ``rdd_deploy.distill`` or ``rdd_deploy.train``; what is known of it is read from its run
folder, so a study that was killed has lost nothing that its runs have written.
"""
