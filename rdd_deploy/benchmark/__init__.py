"""The parts of ``rdd-deploy benchmark``: images, runners, timing, accuracy, records, plots. No torch here, but in ``torch_rows``."""
