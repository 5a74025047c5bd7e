"""Damaged and misleading inputs, made from the cases when they are needed."""
