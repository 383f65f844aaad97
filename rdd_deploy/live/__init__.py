"""The live app's machinery: a source, a grabber, inference and drawing, each in its own thread, and what is shown and kept.

source ─► Grabber thread ─► Channel ─► Inference thread ─► Channel ─► Player (main thread): draw, show, record, keys
"""
