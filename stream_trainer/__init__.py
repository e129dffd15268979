"""Kafka -> trained rows -> increments."""
