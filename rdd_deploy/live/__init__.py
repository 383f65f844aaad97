"""The live app's machinery: a source, a grabber, inference and drawing, and what is shown and kept.

source ─► Grabber thread ─► Inference thread ─► Channel ─► Player (main thread): draw, show, record, keys

A file that is played whole has no Grabber thread but several Inference threads, which read, resize and label a frame each.
"""
