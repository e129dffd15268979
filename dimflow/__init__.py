"""The command: demo, train, serve, produce, inspect. Imports the layers below only when asked to."""
