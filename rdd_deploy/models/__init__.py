"""Segmenters: timm encoder, decode head, auxiliary head; weights."""
