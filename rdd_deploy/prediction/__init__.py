"""Masks of frames that nobody labelled: a run or bundles over a folder, video or image, in layouts that annotation
tools read back.
"""
