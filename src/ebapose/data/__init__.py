"""Data sets: COCO annotations of any skeleton, crops with augmentation, checks, conversion, synthetic people."""
