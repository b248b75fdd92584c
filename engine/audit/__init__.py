"""Reads everything, compares rows with files, changes nothing."""
