"""Composite images: cut-outs of labelled objects, their placement, compositing and augmentation."""
