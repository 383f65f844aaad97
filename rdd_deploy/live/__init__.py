"""The live app: a source, a grabber, inference and drawing, and what is shown and kept.

source ─► Grabber thread ─► Inference thread with a pool ─► Channel ─► Player (main thread): draw, show, record, keys
"""
