"""Distil a big segmentation network into an edge-sized one, export it in INT8, measure it, run it live."""

from rdd_deploy.utils import telemetry

__version__ = "0.1.0"

telemetry.switch_off()
