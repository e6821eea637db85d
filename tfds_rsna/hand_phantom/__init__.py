"""Procedural left-hand radiographs with exact mask, key points, bone boxes, age and sex."""
