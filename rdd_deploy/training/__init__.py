"""Training: recipes to run folders."""

import os

# What torch's C++ code says of a lost process is a page of addresses; which one it was is said in a sentence. Before
# torch is imported.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
