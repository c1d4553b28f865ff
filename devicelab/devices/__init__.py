"""Devices: what a phone is, whether it is fit, and who has it."""
