"""Boxes and crops: all coordinate transforms between image and crop px."""
