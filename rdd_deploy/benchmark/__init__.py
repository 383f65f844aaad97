"""``rdd-deploy benchmark``: images, runners, timing, accuracy, records, report. Only ``torch_runner`` needs torch."""
