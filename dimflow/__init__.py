"""The command: demo, train, serve, produce, inspect, search. Imports the layers below only when asked to."""
