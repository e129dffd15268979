"""Increments -> `/predict`."""
